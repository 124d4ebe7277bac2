"""Temporary folders: gone at the end, and when their process was killed, removed by the next one; nobody else's are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from auditor.kit import scratch as module
from auditor.kit.scratch import remove_stale, scratch

HOLD = """
import sys
from pathlib import Path
from auditor.kit.scratch import scratch
with scratch("upload", Path(sys.argv[1])) as folder:
    (folder / "file").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def holder(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another process with a scratch folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_gone_at_its_end_however_it_ends(tmp_path: Path) -> None:
    def fails() -> None:
        with scratch("test", tmp_path) as folder:
            (folder / "file").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_deep_or_closed_are_removed(tmp_path: Path) -> None:
    with scratch("deep", tmp_path) as folder:
        (folder / "link").symlink_to(tmp_path)
        before = Path.cwd()
        try:
            os.chdir(folder)
            for _ in range(3000):  # deeper than shutil.rmtree and the longest path go
                Path("file").touch()
                Path("in").mkdir()
                os.chdir("in")
        finally:
            os.chdir(before)
        (folder / "closed" / "inner").mkdir(parents=True)
        (folder / "closed" / "inner" / "file").touch()
        (folder / "closed").chmod(0)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_holds_is_not(tmp_path: Path) -> None:
    process, folder = holder(tmp_path)
    with scratch("own", tmp_path) as own:
        try:
            assert remove_stale(tmp_path) == []
            assert (folder / "file").exists()
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert folder.exists(), "nobody could remove it"
        assert remove_stale(tmp_path) == [folder]
        assert own.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_process_number_that_was_given_again_is_another_owner(tmp_path: Path) -> None:
    name = f"auditor-home-{module._boot()}-{module._space()}-{os.getpid()}-1-abc"
    (tmp_path / name).mkdir()
    assert [path.name for path in remove_stale(tmp_path)] == [name]


def test_folders_of_others_and_of_other_machines_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = f"{module._boot()}-{module._space()}-{2**22 + 1}-1-abc"
    names = {
        "auditor-home-abc", "auditor-homeless", f"other-home-{dead}",
        f"auditor-home-feedfeedfeed-{module._space()}-1-1-abc",  # another boot: perhaps of another machine
        f"auditor-home-{module._boot()}-1-1-1-abc",  # another container's processes cannot be seen from here
    }  # fmt: skip
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / f"auditor-file-{dead}").touch()
    (tmp_path / f"auditor-link-{dead}").symlink_to(tmp_path)
    assert remove_stale(tmp_path) == []
    mine = tmp_path / f"auditor-home-{dead}"
    mine.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    assert remove_stale(tmp_path) == []
    monkeypatch.undo()
    assert remove_stale(tmp_path) == [mine]


def test_on_this_machines_own_disk_what_an_earlier_boot_left_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    old = tmp_path / "auditor-home-feedfeedfeed-1-1-1-abc"
    old.mkdir()
    assert remove_stale() == [old]
