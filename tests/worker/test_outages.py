"""A database that is away and a full disk end no job: its attempt is lost, said in words, and made again."""

from __future__ import annotations

import errno
import io
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import create_engine, event, text, update

from auditor.hardening.spec import TrainingSpec
from auditor.kit.disk import is_full
from auditor.kit.errors import DiskFullError, NotFoundError, OutageError
from tests.conftest import fill
from tests.worker.rows import new_job
from tests.worker.test_supervisor import odd, run, wait_until
from tests.worker.world import World, make_world
from worker.blobs import BlobStore
from worker.client import Client
from worker.db import Database, connect
from worker.fitness import trouble
from worker.keeper import Keeper
from worker.ledger import MOST_OUTAGES, Claim, Ledger
from worker.models import JobRow
from worker.settings import Settings, load_settings
from worker.watch import Watch


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def claimed(ledger: Ledger, job: str) -> Claim:
    claim = ledger.claim(job, "worker", 30)
    assert claim is not None
    return claim


def due(ledger: Ledger, job: str) -> None:
    """As if the wait were over."""
    with ledger.database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job).values(not_before=ledger.database.now() - 1))


def test_an_outage_does_not_burn_the_last_attempt_and_the_next_begins_after_a_while(ledger: Ledger) -> None:
    job = new_job(ledger, max_attempts=1)
    assert ledger.lost(claimed(ledger, job), "The disk is full.", "Free some.") == "queued"
    assert ledger.claim(job, "w", 30) is None, "not at once: the disk is as full as before"
    assert ledger.unpublished() == []
    row = ledger.get(job)
    assert row is not None
    assert (row.waits, row.outages, row.fruitless) == ("The disk is full. Free some.", 1, 0)
    due(ledger, job)
    assert ledger.unpublished() == [(job, "cpu")]
    assert ledger.crashed(claimed(ledger, job), "signal 9") == "failed"


def test_a_job_that_meets_an_outage_in_every_attempt_ends_and_says_so(ledger: Ledger) -> None:
    job, waits = new_job(ledger, max_attempts=1), []
    for _ in range(MOST_OUTAGES - 1):
        assert ledger.lost(claimed(ledger, job), "The disk is full.") == "queued"
        row = ledger.get(job)
        assert row is not None
        assert row.not_before is not None
        waits.append(row.not_before - ledger.clock())
        due(ledger, job)
    assert waits == sorted(waits)
    assert sum(waits) > 2000, "an operator has time"
    assert ledger.lost(claimed(ledger, job), "The disk is full.", "Free some.") == "failed"
    row = ledger.get(job)
    assert row is not None
    assert (row.error, row.hint) == (f"The disk is full. That ended {MOST_OUTAGES} attempts in a row.", "Free some.")


def test_outages_count_anew_after_a_further_checkpoint_and_a_cancelled_job_is_cancelled(ledger: Ledger) -> None:
    job = new_job(ledger)
    ledger.lost(claimed(ledger, job), "away")
    due(ledger, job)
    claim = claimed(ledger, job)
    ledger.reached(claim, 1)
    ledger.request_cancel(job)
    assert ledger.lost(claim, "away") == "cancelled"
    row = ledger.get(job)
    assert row is not None
    assert row.outages == 1
    assert ledger.lost(claim, "away") is None, "it is no longer ours"


def test_a_success_whose_answer_was_lost_is_said_again_and_is_the_same_success(ledger: Ledger) -> None:
    claim = claimed(ledger, new_job(ledger))
    assert ledger.succeed(claim, "a" * 64, {"n": 1})
    assert ledger.succeed(claim, "a" * 64, {"n": 1})
    assert not ledger.succeed(claim, "b" * 64, {"n": 1})


def test_what_a_job_tells_while_the_database_is_away_is_written_when_it_is_back(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claimed(ledger, new_job(ledger, grace=5.0))
    watch = Watch(ledger, claim)
    monkeypatch.setattr("worker.watch.PROGRESS_SECONDS", 0.0)
    down = True

    def fail(*_: Any) -> None:
        if down:
            raise OutageError("away")

    event.listen(ledger.database.engine, "begin", fail, insert=True)
    for number in range(5):
        watch.point(number, {"step": number}, keep=True)
        watch.checkpoint(number + 1)
        watch.on_progress(number / 10, "on")
        assert watch.stop() == ""
    down = False
    watch.on_progress(0.5, "on")
    assert [number for number, _ in ledger.points(claim.job_id)] == list(range(5))
    row = ledger.get(claim.job_id)
    assert row is not None
    assert (row.reached, row.share) == (5, 0.5)


@pytest.fixture
def long_lease(home: Path, odd_jobs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITOR_LEASE_SECONDS", "20")


@contextmanager
def terminated(url: str, seconds: float) -> Iterator[list[int]]:
    """For so long, every connection to the database is ended by the server, over and over; yields how many there were."""
    name = url.rpartition("/")[2]
    admin = create_engine("postgresql+psycopg://postgres@127.0.0.1:5432/postgres", isolation_level="AUTOCOMMIT")
    kill = text("select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = :name")
    ended, limit = [0], time.monotonic() + seconds

    def work() -> None:
        with admin.connect() as connection:
            while time.monotonic() < limit:
                ended[0] += connection.execute(kill, {"name": name}).scalar_one()
                time.sleep(0.002)

    thread = threading.Thread(target=work)
    thread.start()
    yield ended
    thread.join()
    admin.dispose()


@pytest.mark.service
def test_terminated_connections_end_no_job(long_lease: None, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITOR_DATABASE_URL", postgres)
    world = make_world(load_settings())
    job = odd(world, "slow", seconds=5, max_attempts=1)
    ledger = Ledger(connect(world.client.settings))  # the supervisor's own
    outcome: list[str] = []
    thread = threading.Thread(
        target=lambda: outcome.append(run(World(world.client, world.model_id, world.dataset_id), job))
    )
    with terminated(postgres, 0.0):
        thread.start()
        wait_until(lambda: (row := ledger.get(job)) is not None and row.share > 0.1)
    with terminated(postgres, 6.0) as ended:  # beyond the job's own end
        time.sleep(6.0)
    thread.join(60)
    assert ended[0] > 20
    view = world.client.jobs.get(job)
    assert (view.state, view.attempts, view.error) == ("succeeded", 1, "")
    assert outcome == ["done"]


@pytest.fixture
def cramped(long_lease: None, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A home on a disk of eight megabytes."""
    monkeypatch.setenv("AUDITOR_HOME", str(small_disk / "home"))
    monkeypatch.setenv("AUDITOR_DISK_RESERVE", "0")
    return make_world(load_settings())


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_a_job_that_meets_a_full_disk_waits_and_succeeds_when_there_is_room(cramped: World, small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(4 << 20))
    job = odd(cramped, "write", seconds=6, max_attempts=1)  # six megabytes
    run(cramped, job)
    view = cramped.client.jobs.get(job)
    assert view.state == "queued"
    row = cramped.client.ledger.get(job)
    assert row is not None
    assert row.waits is not None
    assert f"The disk of {cramped.client.blobs.folder} is full (" in row.waits
    assert "Free some space there" in row.waits
    assert not list((cramped.client.blobs.folder / "staging").iterdir()), "nothing half-written stays"
    filler.unlink()
    due(cramped.client.ledger, job)
    assert run(cramped, job) == "done"
    assert cramped.client.jobs.get(job).state == "succeeded"


@pytest.mark.service
def test_a_training_that_cannot_write_its_checkpoint_goes_on_when_there_is_room(
    long_lease: None, postgres: str, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is elsewhere and well: checkpoint, log and queue are on the full disk."""
    monkeypatch.setenv("AUDITOR_DATABASE_URL", postgres)
    monkeypatch.setenv("AUDITOR_HOME", str(small_disk / "home"))
    monkeypatch.setenv("AUDITOR_DISK_RESERVE", "0")
    world = make_world(load_settings())
    filler = fill(small_disk)
    spec = TrainingSpec.load(
        {
            "hardening": {"kind": "pat", "steps": 1, "epsilon": 0.05},
            "epochs": 1,
            "batch_size": 16,
            "validation_steps": 1,
        }
        | {"augmentation": "none", "validation_share": 0.25}
    )
    job = world.client.trainings.queue("tiny", "random", spec)
    assert world.client.jobs.get(job).state == "queued", "the queue's folder is full, too"
    run(world, job)
    view, row = world.client.jobs.get(job), world.client.ledger.get(job)
    assert row is not None
    assert (view.state, row.fruitless) == ("queued", 0)
    assert f"The disk of {small_disk}" in (row.waits or "")
    assert [path for path in files(small_disk / "home") if path.name.endswith(".tmp")] == []
    filler.unlink()
    due(world.client.ledger, job)
    assert run(world, job) == "done"
    assert world.client.jobs.get(job).state == "succeeded"
    assert world.client.trainings.child(job) is not None
    world.client.backend.database.engine.dispose()


def test_a_disk_that_is_full_to_the_last_byte_while_a_job_runs_costs_a_delay(cramped: World, small_disk: Path) -> None:
    """SQLite cannot write a word, neither the runner nor the supervisor: the lease is kept in memory, and the end waits."""
    job = odd(cramped, "slow", seconds=3, max_attempts=1)
    thread = threading.Thread(target=run, args=(cramped, job))
    thread.start()
    wait_until(lambda: cramped.client.jobs.get(job).share > 0.1)
    filler = fill(small_disk)
    time.sleep(5)
    with pytest.raises(DiskFullError, match=r"disk is full.*Free some space"):
        new_job(cramped.client.ledger)
    assert not cramped.client.jobs.get(job).ended
    filler.unlink()
    thread.join(60)
    view = cramped.client.jobs.get(job)
    assert (view.state, view.attempts, view.error) == ("succeeded", 1, "")


def test_with_less_room_than_the_reserve_no_job_starts_and_the_page_says_why(cramped: World, small_disk: Path) -> None:
    settings = cramped.client.settings.model_copy(update={"disk_reserve": 1 << 20})
    keeper = Keeper(settings, cramped.client.ledger, lambda *_: True, lambda: ["cpu"])
    job = odd(cramped, "finish")
    filler = fill(small_disk, leave=500_000)
    keeper.register("worker-1", ["cpu"], [])
    cramped_here = World(Client(settings), "", "")
    assert run(cramped_here, job).startswith("not taken: The disk of")
    keeper.keep()
    view = cramped.client.jobs.get(job)
    assert view.state == "queued"
    assert view.notice.startswith(f"No worker takes jobs now. The disk of {settings.home} is full (0.")
    filler.unlink()
    assert trouble(settings, cramped.client.backend.database) == ""
    keeper.keep()
    assert run(cramped_here, job) == "done"
    assert cramped.client.jobs.get(job).state == "succeeded"
    keeper.unregister()


def archive(count: int, side: int) -> bytes:
    """Plain images, which take no room in an archive and all of it when stored."""
    buffer, image = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(image, "PNG")
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for index in range(count):
            zipped.writestr(f"class{index % 2}/{index}.png", image.getvalue())
    return buffer.getvalue()


@pytest.mark.parametrize("where", ["receiving", "storing"])
def test_an_upload_on_a_full_disk_is_refused_in_words_leaves_nothing_and_works_when_there_is_room(
    cramped: World, small_disk: Path, where: str
) -> None:
    content = archive(400, 64)  # five megabytes when stored
    filler = fill(small_disk, leave=20_000 if where == "receiving" else 2_000_000)
    before = files(cramped.client.blobs.folder)
    with pytest.raises(DiskFullError, match=rf"The disk of {small_disk}\S* is full .*Free some space there"):
        cramped.client.library.add_dataset(io.BytesIO(content), "data.zip", name="zeros")
    assert files(cramped.client.blobs.folder) == before
    with pytest.raises(NotFoundError):
        cramped.client.library.dataset("zeros")
    filler.unlink()
    assert cramped.client.library.add_dataset(io.BytesIO(content), "data.zip", name="zeros").manifest["samples"] == 400


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_without_a_small_disk_too_a_full_one_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    store = BlobStore(settings.blobs)
    with pytest.raises(DiskFullError, match=rf"The disk of {settings.blobs}\S* is full .*Free some space there"):
        store.put(b"content")
    assert files(settings.blobs) == set()


@pytest.mark.parametrize(
    "said",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "1000000 requested and 262144 written",
        "[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534",
        'could not extend file "base/1": No space left on device',
        "database or disk is full",
    ],
)
def test_libraries_say_it_in_words_of_their_own(said: str) -> None:
    assert is_full(RuntimeError(said))
    later = ValueError("later")
    later.__cause__ = RuntimeError(said)
    assert is_full(later)
    assert not is_full(NotFoundError(f"There is no model {said!r}."))
