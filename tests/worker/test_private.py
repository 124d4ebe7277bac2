"""What the product keeps is for its own user alone: whatever the umask, in new homes and in those of earlier versions."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.commands.doctor import _home
from app.commands.files import write_text
from app.processes import child, wait_for_worker
from tests.worker.test_supervisor import wait_until
from tests.worker.world import World, make_world, quick_spec
from worker.blobs import BlobStore
from worker.private import mend
from worker.settings import Settings


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=["open", "usual", "closed"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """The mode of a folder and of everything below it that is not as it should be."""
    right = {True: 0o700, False: 0o600}
    found = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
    return {
        str(path.relative_to(folder)): oct(stat.S_IMODE(status.st_mode))
        for path, status in found.items()
        if stat.S_IMODE(status.st_mode) != right[stat.S_ISDIR(status.st_mode)]
    }


def test_a_new_home_is_private_whatever_the_umask(settings: Settings, umask: int) -> None:
    world = make_world(settings)
    world.client.audits.queue("tiny", "random", quick_spec())
    write_text(settings.home / "exports" / "report.html", "<p>a report</p>")
    assert {path.name for path in settings.home.iterdir()} >= {"auditor.db", "blobs", "inbox", "broker", "exports"}
    assert modes(settings.home) == {}


def test_a_worker_leaves_private_files_only(settings: Settings) -> None:
    before = os.umask(0)
    try:
        world: World = make_world(settings)
        job_id = world.client.audits.queue("tiny", "random", quick_spec())
        with child(settings, "worker", log="worker") as process:
            wait_for_worker(world.client, process)
            wait_until(lambda: bool(list(settings.workspaces.glob("*/*"))) or world.client.jobs.get(job_id).ended, 60)
            assert modes(settings.home) == {}, "while it runs"
            wait_until(lambda: world.client.jobs.get(job_id).ended, 120)
            assert (settings.home / "auditor.db-wal").exists()
            assert modes(settings.home) == {}
    finally:
        os.umask(before)
    assert world.client.jobs.get(job_id).state == "succeeded"
    assert [path.name for path in settings.logs.glob("job-*.log")] == [f"job-{job_id}.log"]


def test_the_home_of_an_earlier_version_is_closed_at_the_start(settings: Settings, tmp_path: Path) -> None:
    world = make_world(settings)
    outside = tmp_path / "weights.pt"
    outside.write_bytes(b"the operator's own")
    outside.chmod(0o644)
    (settings.inbox / "linked.pt").symlink_to(outside)
    (settings.inbox / "copied.pt").write_bytes(b"the operator's own, too")
    (settings.inbox / "copied.pt").chmod(0o640)
    (settings.blobs / "link").symlink_to(outside)
    (settings.home / "auditor-before-0001.db").write_bytes(b"")
    for path in (settings.home, *settings.home.rglob("*")):
        if not path.is_symlink() and settings.inbox not in path.parents:
            path.chmod(0o755 if path.is_dir() else 0o644)
    world.client.prepare()
    (settings.inbox / "linked.pt").unlink()
    (settings.blobs / "link").unlink()
    assert modes(settings.home) == {"inbox/copied.pt": "0o640"}, "the operator's files stay as they were"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644, "a link is not followed out of the home"


def test_a_folder_that_others_use_is_left_open(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    used = settings.model_copy(update={"home": shared})
    mend(used)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
    ok, text = _home(used)
    assert not ok
    assert "Set AUDITOR_HOME to a private folder" in text
    ok, text = _home(settings)
    assert ok, text


def test_a_file_made_elsewhere_is_closed_when_it_is_taken(tmp_path: Path, umask: int) -> None:
    store = BlobStore(tmp_path / "blobs")
    with store.staging() as folder:
        file = folder / "made"
        file.write_bytes(b"content")
        file.chmod(0o666)
        sha256 = store.take(file)
    assert store.path(sha256).read_bytes() == b"content"
    assert modes(tmp_path / "blobs") == {}


def test_a_file_outside_of_the_home_has_the_users_own_mode(settings: Settings, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "reports" / "report.html", "<p>a report</p>")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "reports" / "report.html").stat().st_mode) == 0o644


@pytest.mark.skipif(sys.platform != "linux", reason="the files beside the database are looked at while it is open")
def test_the_database_and_the_files_beside_it_are_private(settings: Settings, umask: int) -> None:
    world = make_world(settings)
    with world.client.backend.database.read() as session:
        session.connection()
        names = {path.name for path in settings.home.glob("auditor.db*")}
        assert names >= {"auditor.db", "auditor.db-wal", "auditor.db-shm"}
        assert modes(settings.home) == {}
