"""The whole way: submit, broker, worker, runner, result; and kill -9 in the middle, on every kind of broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kombu import Connection
from sqlalchemy import func, select

from auditor.auditing.spec import AuditSpec
from tests.conftest import missing
from tests.processes import die_with_tests
from tests.worker.rows import new_job
from tests.worker.test_supervisor import runners, servers, wait_until
from tests.worker.world import World, make_world, quick_spec
from worker.launch import CONTROL, launcher
from worker.models import ResultRow
from worker.queues import QUEUES
from worker.settings import Settings, load_settings

BROKERS = {
    "embedded": "",
    "redis": "redis://127.0.0.1:6379/13",
    "rabbitmq": "amqp://guest:guest@127.0.0.1:5672//",
}


@pytest.fixture(
    params=[
        "embedded",
        pytest.param("redis", marks=[pytest.mark.service, pytest.mark.thorough]),
        pytest.param("rabbitmq", marks=[pytest.mark.service, pytest.mark.thorough]),
    ]
)
def world(
    request: pytest.FixtureRequest, home: Path, odd_jobs: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A home whose queue runs over each kind of broker; leases are short, so that a loss is noticed soon."""
    url = BROKERS[request.param]
    if url:
        _empty(url, request.param)
    monkeypatch.setenv("AUDITOR_BROKER_URL", url)
    monkeypatch.setenv("AUDITOR_LEASE_SECONDS", "3")
    yield make_world(load_settings())
    if url:
        _empty(url, request.param)


def _empty(url: str, name: str) -> None:
    """Purge our queues; where the broker is not there, skip."""
    try:
        with Connection(url, connect_timeout=3) as connection:
            connection.ensure_connection(max_retries=1, timeout=3)
            for queue in QUEUES:
                connection.default_channel.queue_declare(
                    queue, durable=True, auto_delete=False
                ) if name == "redis" else None
                try:
                    connection.channel().queue_purge(queue)
                except Exception:  # there is no such queue yet
                    continue
    except OSError:
        missing(name)


@contextmanager
def worker(world: World, lane: str = "long", *, own_server: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """``auditor worker`` as an operator starts it; for long jobs alone, where a test has no others.

    It shares the job server of the tests, as ``auditor worker`` shares its own with the worker for short jobs: a server of its
    own imports torch for each test.
    """
    control = None if own_server else launcher().prepare(world.client.settings)
    shared = {} if control is None else {CONTROL: str(control)}
    with (world.client.settings.home / "worker.out").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "worker", "--lane", lane],
            stdout=output, stderr=output, stdin=subprocess.DEVNULL, preexec_fn=die_with_tests,
            env={**os.environ, **shared}, pass_fds=list(filter(None, [control])),
        )  # fmt: skip
    try:
        wait_until(lambda: any(f"-{process.pid}-" in row.id for row in world.client.jobs.workers()), 60)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def audits(world: World, count: int, spec: AuditSpec | None = None) -> list[str]:
    return [world.client.audits.queue("tiny", "random", spec or quick_spec()) for _ in range(count)]


def finished(world: World, jobs: list[str]) -> Callable[[], bool]:
    return lambda: all(world.client.jobs.get(job).ended for job in jobs)


def results(world: World) -> int:
    with world.client.backend.database.read() as session:
        return session.scalar(select(func.count()).select_from(ResultRow)) or 0


def test_kill_9_of_the_worker_in_the_middle_of_an_audit_and_the_audit_finishes_once(world: World) -> None:
    # So small an epsilon fools nobody, so every sample takes all its steps, one image at a time: some five seconds.
    slow = AuditSpec.load(
        {"samples": 30, "threats": [{"epsilon": 1e-4}], "attacks": [{"kind": "pgd", "steps": 100}], "batch_size": 1}
        | {"curve": [], "curve_to_zero": False, "analyses": [], "checks": []}
    )
    with worker(world, own_server=True) as process:
        (job,) = audits(world, 1, slow)
        wait_until(lambda: world.client.jobs.get(job).share > 0.05, 40)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: runners() == [] and servers() == [], 3)
        assert not world.client.jobs.get(job).ended
    with worker(world):
        wait_until(finished(world, [job]), 240)
    view = world.client.jobs.get(job)
    assert (view.state, view.attempts) == ("succeeded", 2)
    assert results(world) == 1
    assert len(world.client.audits.result(job).samples) == 30


def test_jobs_that_were_queued_while_no_worker_ran_are_done_when_one_comes(world: World) -> None:
    jobs = audits(world, 2)
    assert all("No worker is running" in world.client.jobs.get(job).notice for job in jobs)
    with worker(world):
        wait_until(finished(world, jobs), 240)  # two audits, on a machine that may be busy
    assert [world.client.jobs.get(job).state for job in jobs] == ["succeeded"] * 2
    assert results(world) == 2


def test_a_worker_that_is_told_to_stop_gives_its_job_back_and_another_finishes_it(world: World) -> None:
    job = new_job(world.client.ledger, kind="odd", spec={"kind": "odd", "how": "slow", "seconds": 4.0})
    with worker(world) as process:
        wait_until(lambda: world.client.jobs.get(job).state == "running", 40)
        time.sleep(1)
        process.terminate()
        assert process.wait(30) == 0
        assert (world.client.jobs.get(job).state, world.client.jobs.get(job).attempts) == ("queued", 0)
    with worker(world):
        wait_until(finished(world, [job]), 40)
    assert (world.client.jobs.get(job).state, world.client.jobs.get(job).attempts) == ("succeeded", 1)


def test_a_vetting_starts_at_once_behind_hours_of_audits(world: World) -> None:
    """With one worker, of concurrency 1; also when the process for short jobs was killed and is started again."""
    ledger = world.client.ledger
    spec = {"kind": "odd", "how": "slow", "seconds": 600.0}
    long = [new_job(ledger, kind="odd", spec=spec) for _ in range(3)]
    for job in long:
        assert world.client.backend.publish(job, "cpu")
    with worker(world, "all", own_server=True):
        wait_until(lambda: any(world.client.jobs.get(job).state == "running" for job in long), 40)
        vet = world.client.audits.vet("tiny", "random")
        wait_until(finished(world, [vet]), 60)
        assert world.client.jobs.get(vet).state == "succeeded"
        assert len(servers()) == 1, "both processes fork from one"
        (short,) = [row for row in world.client.jobs.workers() if row.queues == ["short"]]
        os.kill(int(short.id.split("-")[-2]), signal.SIGKILL)
        again = world.client.audits.vet("tiny", "random")
        wait_until(finished(world, [again]), 90)
        assert world.client.jobs.get(again).state == "succeeded"
        assert [world.client.jobs.get(job).state for job in long].count("running") == 1, "one at a time, as it was told"
        for job in long:
            world.client.jobs.cancel(job)
        wait_until(finished(world, long), 20)


def test_a_worker_whose_store_is_not_mounted_takes_nothing_and_goes_on_when_it_is(world: World, tmp_path: Path) -> None:
    blobs = world.client.blobs.folder
    with worker(world):
        blobs.rename(tmp_path / "unmounted")
        wait_until(lambda: all(row.trouble for row in world.client.jobs.workers()), 20)
        job = new_job(world.client.ledger, kind="odd", spec={"kind": "odd"})
        assert world.client.backend.publish(job, "cpu")
        time.sleep(3)
        view = world.client.jobs.get(job)
        assert (view.state, view.attempts) == ("queued", 0)
        assert "not mounted" in view.notice
        (tmp_path / "unmounted").rename(blobs)
        wait_until(finished(world, [job]), 60)
        assert (world.client.jobs.get(job).state, world.client.jobs.get(job).attempts) == ("succeeded", 1)


def test_a_job_that_no_message_carries_is_found_by_an_idle_worker(world: World) -> None:
    """Inserted and never published, as after a crash between the two; or published to a broker that lost it."""
    lost = new_job(world.client.ledger, kind="odd", spec={"kind": "odd"})
    with worker(world):
        wait_until(finished(world, [lost]), 40)
    assert world.client.jobs.get(lost).state == "succeeded"


def test_a_message_that_comes_many_times_runs_the_job_once(world: World) -> None:
    job = new_job(world.client.ledger, kind="odd", spec={"kind": "odd"})
    for _ in range(5):
        assert world.client.backend.publish(job, "cpu")
    with worker(world):
        wait_until(finished(world, [job]), 40)
        time.sleep(1)
    assert (world.client.jobs.get(job).state, world.client.jobs.get(job).attempts, results(world)) == (
        "succeeded",
        1,
        1,
    )


def test_the_process_that_supervises_imports_no_torch(settings: Settings) -> None:
    program = "import sys, worker.celery, app.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_broker_that_is_down_costs_no_job(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITOR_BROKER_URL", "redis://127.0.0.1:1/0")
    world = make_world(load_settings())
    (job,) = audits(world, 1)
    view = world.client.jobs.get(job)
    assert view.state == "queued"
    assert world.client.ledger.unpublished() == [(job, "cpu")]
