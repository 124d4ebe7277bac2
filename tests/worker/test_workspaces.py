"""Workspaces go from attempt to attempt and to nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.workspaces import Workspaces


@pytest.fixture
def workspaces(tmp_path: Path) -> Workspaces:
    return Workspaces(tmp_path / "workspaces")


def replace(file: Path, text: str) -> None:
    """As a checkpoint is written: beside it, and then in its place."""
    beside = file.with_name(".new")
    beside.write_text(text)
    beside.replace(file)


def test_an_attempt_gets_what_the_last_one_left_and_no_half_written_file(workspaces: Workspaces) -> None:
    first = workspaces.take("job", 1)
    assert list(first.iterdir()) == []
    (first / "last").write_text("ten steps")
    (first / ".half").write_text("te")
    third = workspaces.take("job", 3)
    assert {file.name: file.read_text() for file in third.iterdir()} == {"last": "ten steps"}
    assert not first.exists()
    assert workspaces.take("job", 3) == third, "the same attempt, the same folder"
    assert (third / "last").exists()
    assert list(workspaces.take("another", 4).iterdir()) == []


def test_an_attempt_that_was_lost_and_still_writes_disturbs_nothing(workspaces: Workspaces) -> None:
    zombie = workspaces.take("job", 1)
    replace(zombie / "last", "ten steps")
    mine = workspaces.take("job", 2)
    zombie.mkdir()  # it makes its folder again
    replace(zombie / "last", "eleven steps")
    assert (mine / "last").read_text() == "ten steps"
    replace(mine / "last", "twenty steps")
    assert (zombie / "last").read_text() == "eleven steps"
    assert (workspaces.take("job", 5) / "last").read_text() == "twenty steps", (
        "the later attempt's, where both left one"
    )


def test_a_file_system_without_links_gets_copies(workspaces: Workspaces, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    (workspaces.take("job", 1) / "last").write_text("ten steps")
    assert (workspaces.take("job", 2) / "last").read_text() == "ten steps"


def test_only_what_has_ended_is_swept(workspaces: Workspaces) -> None:
    workspaces.sweep(lambda jobs: set(jobs))  # there is no folder yet
    for job in ("one", "two", "three"):
        (workspaces.take(job, 1) / "last").write_text("x")
    workspaces.sweep(lambda jobs: {"two"} & set(jobs))
    assert sorted(path.name for path in workspaces.folder.iterdir()) == ["one", "three"]
    workspaces.drop("one")
    workspaces.drop("one")
    assert [path.name for path in workspaces.folder.iterdir()] == ["three"]
