"""One job under its supervisor: it ends as it should, whatever it does, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import update

from auditor.kit.errors import OutageError, ServiceError
from auditor.kit.statistics.estimate import Rate
from tests.worker.rows import new_job
from tests.worker.world import World, make_world, quick_spec
from worker.client import Client
from worker.ledger import Claim, Ledger, Renewal
from worker.models import JobRow
from worker.settings import Settings, load_settings
from worker.supervisor import _Supervision, supervise


@pytest.fixture
def world(settings: Settings, odd_jobs: None, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("AUDITOR_LEASE_SECONDS", "3")
    return make_world(load_settings())


def odd(world: World, how: str, *, time_limit: float = 60.0, max_attempts: int = 3, seconds: float = 60.0) -> str:
    spec = {"kind": "odd", "how": how, "seconds": seconds}
    return new_job(world.client.ledger, kind="odd", spec=spec, time_limit=time_limit, max_attempts=max_attempts)


def run(world: World, job: str, stopping: threading.Event | None = None) -> str:
    return supervise(job, "test", world.client.settings, world.client.ledger, stopping or threading.Event())


def runners() -> list[int]:
    """Processes that run a job of this test's home."""
    return in_home(
        lambda name, command: (name.startswith("job ") and name != "job server") or b"worker.runner" in command
    )


def servers() -> list[int]:
    """Job servers that a worker of this test's home has started."""
    return in_home(lambda name, _: name == "job server")


def in_home(wanted: Callable[[str, bytes], bool]) -> list[int]:
    """Processes in this test's home whose name and command line are wanted."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, command = (folder / "comm").read_text().strip(), (folder / "cmdline").read_bytes()
            if wanted(name, command) and (folder / "cwd").samefile(os.environ["AUDITOR_HOME"]):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.05)


def test_an_audit_runs_to_its_result(world: World) -> None:
    job = world.client.ledger.insert(
        kind="audit", title="tiny on random", queue="cpu", model_id=world.model_id, dataset_id=world.dataset_id,
        spec={"kind": "audit", "model_id": world.model_id, "dataset_id": world.dataset_id,
              "audit": quick_spec().model_dump(mode="json")},
        max_attempts=3, time_limit=60.0,
    )  # fmt: skip
    assert run(world, job) == "done"
    view = world.client.jobs.get(job)
    assert (view.state, view.share, view.attempts) == ("succeeded", 1.0, 1)
    result = world.client.audits.result(job)
    assert len(result.samples) == 30
    assert result.provenance.model.sha256 == world.client.library.model("tiny").weights
    assert result.provenance.dataset.sha256 == world.client.library.dataset("random").content
    assert Rate.model_validate(view.summary["clean"]) == result.clean_accuracy
    assert world.client.audits.report(job[:8]).startswith("<!doctype html>")
    assert run(world, job) == "not queued"


@pytest.mark.parametrize(
    ("how", "error", "hint"),
    [
        ("refuse", "The network returned NaN.", "Check the weights."),
        ("memory", "The job needs more memory than there is.", "Set a smaller batch_size, or use fewer samples."),
    ],
)
def test_a_refusal_is_said_as_it_is(world: World, how: str, error: str, hint: str) -> None:
    job = odd(world, how)
    assert run(world, job) == "done"
    view = world.client.jobs.get(job)
    assert (view.state, view.error, view.hint, view.attempts) == ("failed", error, hint, 1)


def test_a_bug_shows_no_traceback_and_no_password_outside_the_log(world: World) -> None:
    job = odd(world, "bug")
    run(world, job)
    view = world.client.jobs.get(job)
    assert view.error == "The job stopped on an internal error."
    assert job[:8] in view.hint
    log = (world.client.settings.logs / f"job-{job}.log").read_text()
    assert "Traceback" in log
    assert "hunter2" not in log


def test_a_process_that_dies_is_tried_again_and_given_up_in_the_end(world: World) -> None:
    job = odd(world, "abort", max_attempts=2)
    assert run(world, job) == "crashed, now queued"
    assert run(world, job) == "crashed, now failed"
    view = world.client.jobs.get(job)
    assert (view.state, view.attempts) == ("failed", 2)
    assert view.error == "The job's process ended by signal 6 (SIGABRT)."


def test_a_job_over_its_time_is_stopped(world: World) -> None:
    job = odd(world, "hang", time_limit=6)
    assert run(world, job) == "over time"
    assert "longer than its limit of 6 seconds" in world.client.jobs.get(job).error
    assert runners() == []


def test_a_job_that_hangs_is_stopped_after_the_stall_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITOR_STALL_SECONDS", "4")
    client = Client(load_settings())
    job = odd(world, "hang", max_attempts=2)
    assert run(World(client, world.model_id, world.dataset_id), job) == "stalled, now queued"
    assert runners() == []
    assert run(World(client, world.model_id, world.dataset_id), job) == "stalled, now failed"
    view = client.jobs.get(job)
    assert view.error == "The job's process showed no progress for 4 seconds and was stopped."
    assert "AUDITOR_STALL_SECONDS" in view.hint


def test_only_silence_is_a_stall_not_slowness_nor_a_database_that_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("worker.supervisor.time", SimpleNamespace(monotonic=lambda: now[0]))
    ledger, process = world.client.ledger, subprocess.Popen(["sleep", "60"], start_new_session=True)
    settings = world.client.settings.model_copy(update={"stall_seconds": 100.0, "lease_seconds": 1e6})
    claim = ledger.claim(odd(world, "hang"), "w", 600)
    assert claim is not None
    watched = _Supervision(claim, settings, ledger, threading.Event())
    watched.heard = watched.renewed = watched.sign_seen = now[0]
    try:
        for step in range(5):
            now[0] += 90
            assert ledger.progress(claim, step / 10, "on")
            assert watched._heartbeat(process) == "", "slow, but it gets on"
        true = Ledger.look
        monkeypatch.setattr(Ledger, "look", lambda *_: (_ for _ in ()).throw(OutageError("away")))
        now[0] += 500
        assert watched._heartbeat(process) == "", "it could not write that it gets on"
        monkeypatch.setattr(Ledger, "look", true)
        now[0] += 90
        assert watched._heartbeat(process) == ""
        now[0] += 20
        assert watched._heartbeat(process) == "stalled, now queued"
    finally:
        process.kill()
        process.wait()


def test_the_page_says_that_a_job_is_quiet_and_why_the_next_attempt_follows(world: World) -> None:
    ledger, job = world.client.ledger, odd(world, "hang")
    world.client.keeper().register("w", ["cpu"], [])
    claim = ledger.claim(job, "w", 600)
    assert claim is not None
    assert world.client.jobs.get(job).notice == ""
    with world.client.backend.database.write() as session:
        session.execute(update(JobRow).values(heard=JobRow.heard - 600))
    assert world.client.jobs.get(job).notice.startswith("No progress for 10 minutes.")
    ledger.progress(claim, 0.5, "on")
    assert world.client.jobs.get(job).notice == ""
    ledger.crashed(claim, "The job's process ended by signal 9.", "Set a smaller batch_size.")
    ledger.published(job)
    keeper = world.client.keeper()
    keeper.register("w", ["cpu"], [])
    expected = "The job's process ended by signal 9. Set a smaller batch_size. Attempt 2 follows."
    assert world.client.jobs.get(job).notice == expected
    keeper.unregister()


def test_a_gentle_job_without_a_checkpoint_is_cancelled_at_once(world: World) -> None:
    """It has nothing to keep, so it gets no time to keep it, wherever it is: here it looks at nothing."""
    spec = {"kind": "odd", "how": "hang"}
    job = new_job(world.client.ledger, kind="odd", spec=spec, grace=60.0)
    thread = threading.Thread(target=run, args=(world, job))
    thread.start()
    wait_until(lambda: runners() and world.client.jobs.get(job).state == "running")
    asked = time.monotonic()
    world.client.jobs.cancel(job)
    thread.join(30)
    assert time.monotonic() - asked < 3
    assert world.client.jobs.get(job).state == "cancelled"


@pytest.mark.parametrize("how", ["hang", "slow"])
def test_a_cancel_is_felt_within_two_seconds(world: World, how: str) -> None:
    job = odd(world, how)
    thread = threading.Thread(target=run, args=(world, job))
    thread.start()
    wait_until(lambda: runners() and world.client.jobs.get(job).state == "running")
    if how == "slow":
        wait_until(lambda: world.client.jobs.get(job).share > 0)
    asked = time.monotonic()
    world.client.jobs.cancel(job)
    thread.join(10)
    assert time.monotonic() - asked < 2
    assert world.client.jobs.get(job).state == "cancelled"
    assert runners() == []


def test_progress_and_time_left_are_seen_while_it_runs(world: World) -> None:
    job = odd(world, "slow", seconds=4)
    thread = threading.Thread(target=run, args=(world, job))
    thread.start()
    wait_until(lambda: world.client.jobs.get(job).share > 0.3)
    view = world.client.jobs.get(job)
    assert view.step.startswith("step ")
    assert view.eta is not None
    assert 0 < view.eta < 120
    thread.join(20)
    assert world.client.jobs.get(job).state == "succeeded"


def test_a_worker_that_shuts_down_gives_the_job_back_uncounted(world: World) -> None:
    job, stopping = odd(world, "hang"), threading.Event()
    thread = threading.Thread(target=run, args=(world, job, stopping))
    thread.start()
    wait_until(runners)
    stopping.set()
    thread.join(10)
    view = world.client.jobs.get(job)
    assert (view.state, view.attempts) == ("queued", 0)
    assert runners() == []
    assert world.client.ledger.unpublished() == [(job, "cpu")]


def test_a_supervisor_that_lost_its_job_kills_the_runner_and_writes_nothing(world: World) -> None:
    job = odd(world, "hang")
    thread = threading.Thread(target=run, args=(world, job))
    thread.start()
    wait_until(runners)
    with world.client.backend.database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job).values(fence=JobRow.fence + 1, owner="another"))
    thread.join(10)
    assert runners() == []
    assert world.client.jobs.get(job).state == "running", "it is another's now"


def test_a_supervisor_that_cannot_reach_the_database_for_a_lease_stops_its_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(self: Ledger, claim: Claim, lease: float = 0) -> Renewal:
        raise ServiceError("The database does not answer.")

    job = odd(world, "hang")
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(run(world, job)))
    thread.start()
    wait_until(runners)
    monkeypatch.setattr(Ledger, "look", down)
    monkeypatch.setattr(Ledger, "renew", down)
    thread.join(15)
    assert results == ["fenced: the database does not answer"]
    assert runners() == []


def test_the_lease_is_kept_while_the_job_runs(world: World) -> None:
    job = odd(world, "slow", seconds=7)
    thread = threading.Thread(target=run, args=(world, job))
    thread.start()
    wait_until(runners)
    while thread.is_alive():
        assert world.client.ledger.reap() == ([], []), "longer than the lease of three seconds, but never out of it"
        time.sleep(0.3)
    assert world.client.jobs.get(job).state == "succeeded"


def test_a_runner_dies_with_its_supervisor(world: World, tmp_path: Path) -> None:
    job = odd(world, "hang")
    program = (
        "import sys, threading; from worker.settings import load_settings; from worker.db import connect;"
        "from worker.ledger import Ledger; from worker.supervisor import supervise;"
        "s = load_settings(); supervise(sys.argv[1], 'x', s, Ledger(connect(s)), threading.Event())"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program, job])
    wait_until(runners)
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    wait_until(lambda: runners() == [], 3)


def test_a_damaged_blob_fails_the_job_with_a_sentence(world: World) -> None:
    path = world.client.blobs.path(world.client.library.model("tiny").weights)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    job = world.client.ledger.insert(
        kind="vet", title="t", queue="cpu", model_id=world.model_id, dataset_id=None,
        spec={"kind": "vet", "model_id": world.model_id}, max_attempts=1, time_limit=60.0,
    )  # fmt: skip
    run(world, job)
    assert "is damaged. Add it again" in f"{world.client.jobs.get(job).error} {world.client.jobs.get(job).hint}"
