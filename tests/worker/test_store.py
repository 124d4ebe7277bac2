"""A process whose folder of stored files is not the database's takes no job, fails none, and says why."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from auditor.kit.errors import OutageError
from tests.worker.rows import new_job
from tests.worker.test_supervisor import odd, run, wait_until
from tests.worker.world import World, make_world
from worker.client import Client
from worker.db import Database, connect, upgrade
from worker.keeper import Keeper
from worker.models import JobRow
from worker.settings import Settings, load_settings
from worker.store import MARK, Store


def store(database: Database, folder: Path) -> Store:
    found = Store(folder, database)
    found.establish()
    return found


def test_a_new_folder_and_a_new_database_are_paired_and_stay_so(both: Settings, database: Database) -> None:
    first = store(database, both.blobs)
    assert first.trouble() == ""
    identity = (both.blobs / MARK).read_text()
    assert len(identity.strip()) == 32
    again = store(connect(both), both.blobs)
    assert again.trouble() == ""
    assert (both.blobs / MARK).read_text() == identity


def test_of_many_processes_that_pair_at_once_all_agree(both: Settings, database: Database) -> None:
    stores = [Store(both.blobs, connect(both)) for _ in range(6)]
    gate = threading.Barrier(len(stores))

    def race(one: Store) -> None:
        gate.wait()
        one.establish()

    threads = [threading.Thread(target=race, args=(one,)) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.trouble() for one in stores] == [""] * len(stores)


@pytest.fixture
def world(both: Settings, odd_jobs: None, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("AUDITOR_LEASE_SECONDS", "20")
    return make_world(load_settings())


def elsewhere(world: World, tmp_path: Path) -> Settings:
    """The settings of a worker on the same database with a home of its own."""
    url = world.client.settings.resolved_database_url
    home = tmp_path / "elsewhere"
    home.mkdir()
    return world.client.settings.model_copy(
        update={"home": home, "database_url": type(world.client.settings.database_url)(url)}
    )


def test_another_folder_is_trouble_until_it_holds_the_files(world: World, tmp_path: Path) -> None:
    other = elsewhere(world, tmp_path)
    theirs = store(connect(other), other.blobs)
    assert theirs.trouble().startswith(f"The files of this database are not in {other.blobs}: it is empty, not mounted")
    assert not (other.blobs / MARK).exists()
    shutil.copytree(world.client.blobs.folder, other.blobs, ignore=shutil.ignore_patterns(MARK))
    assert store(connect(other), other.blobs).trouble() == "", "a copy without its mark, known by its files"


def test_a_folder_of_another_database_is_not_used_and_not_swept(world: World, tmp_path: Path) -> None:
    fresh = world.client.settings.model_copy(
        update={"database_url": type(world.client.settings.database_url)(f"sqlite:///{tmp_path / 'fresh.db'}")}
    )
    upgrade(fresh)
    client = Client(fresh)
    client.prepare()
    said = Store(fresh.blobs, client.backend.database).trouble()
    assert said.startswith(f"The folder of stored files, {fresh.blobs}, belongs to another database: this one is new.")
    kept = sorted(path for path in fresh.blobs.glob("??/*"))
    keeper = client.keeper()
    keeper.keep()
    keeper.sweep()
    assert sorted(path for path in fresh.blobs.glob("??/*")) == kept


def test_the_remedy_of_the_refusal_works(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = elsewhere(world, tmp_path)
    assert "auditor migrate --adopt-store" in store(connect(other), other.blobs).trouble()
    for name, value in other.environment().items():
        monkeypatch.setenv(name, value)
    assert CliRunner().invoke(app, ["migrate", "--adopt-store"]).exit_code == 0
    assert Store(other.blobs, connect(other)).trouble() == ""
    assert Store(world.client.blobs.folder, world.client.backend.database).trouble() == "", "the true one stays good"


def test_a_worker_with_another_folder_leaves_the_job_in_the_queue_and_says_why(world: World, tmp_path: Path) -> None:
    client = Client(elsewhere(world, tmp_path))
    job = odd(world, "finish", max_attempts=1)
    world.client.ledger.published(job)
    there = World(client, world.model_id, world.dataset_id)
    assert run(there, job).startswith("not taken: The files of this database are not in")
    assert world.client.ledger.unpublished() == [(job, "cpu")], "another worker gets it at once"
    paused: list[bool] = []
    keeper = Keeper(client.settings, client.ledger, lambda *_: True, lambda: ["cpu"], paused.append)
    keeper.register("wrong", ["cpu"], [])
    assert paused == [True]
    assert world.client.jobs.get(job).notice.startswith(
        "No worker takes jobs now. The files of this database are not in"
    )
    keeper.unregister()
    assert run(world, job) == "done"
    view = world.client.jobs.get(job)
    assert (view.state, view.attempts) == ("succeeded", 1)


def test_an_upload_into_another_folder_is_refused(world: World, tmp_path: Path) -> None:
    client = Client(elsewhere(world, tmp_path))
    with pytest.raises(OutageError, match="Mount the store there, or set AUDITOR_HOME"):
        client.library.add_dataset((tmp_path / "none").open("w+b"), "data.zip", name="new")


@pytest.mark.parametrize("how", ["read", "finish"])
def test_a_store_that_is_unmounted_while_a_job_runs_costs_an_attempt_that_does_not_count(
    world: World, tmp_path: Path, how: str
) -> None:
    """Before it reads, or before it writes its result into the folder that lies under the mount."""
    go = tmp_path / "go"
    spec = {"kind": "odd", "how": how, "model_id": world.model_id, "wait_for": str(go)}
    job = new_job(world.client.ledger, kind="odd", spec=spec, max_attempts=1)
    blobs = world.client.blobs.folder
    thread = threading.Thread(target=run, args=(world, job))
    thread.start()
    wait_until(lambda: world.client.jobs.get(job).step == "waiting")
    blobs.rename(tmp_path / "unmounted")
    go.touch()
    thread.join(60)
    view = world.client.jobs.get(job)
    assert view.state == "queued"
    row = world.client.ledger.get(job)
    assert row is not None
    assert (row.waits or "").startswith(f"The files of this database are not in {blobs}")
    shutil.rmtree(blobs, ignore_errors=True)
    (tmp_path / "unmounted").rename(blobs)
    with world.client.backend.database.write() as session:
        session.query(JobRow).update({"not_before": None})
    assert run(world, job) == "done"
    assert world.client.jobs.get(job).state == "succeeded"


def test_doctor_names_the_trouble(world: World, tmp_path: Path) -> None:
    from app.commands.doctor import _files

    assert _files(world.client.settings)[0]
    ok, text = _files(elsewhere(world, tmp_path))
    assert ok is False
    assert "not mounted" in text
