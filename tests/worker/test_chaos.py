"""Chaos: kill -9 of runners and workers, database connections cut, a full disk; each job ends once, with the right result."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select, text

from tests.conftest import fill
from tests.plugins import plugged
from tests.processes import die_with_tests
from tests.worker.rows import new_job
from tests.worker.test_supervisor import runners
from tests.worker.world import World, make_world
from worker.blobs import hash_file
from worker.client import Client
from worker.models import JobRow, ResultRow
from worker.settings import load_settings

STEPS = 12
WORKERS = 2

CHAOS_JOB = f'''
    """A job whose result can be foretold: a chain of hashes, one link a step, begun with the model's file."""

    import hashlib, time
    from typing import ClassVar, Literal

    from worker.job import Context, Job, Output


    class Chain(Job):
        """Links hashes."""

        noun: ClassVar[str] = "chain"
        kind: Literal["chain"] = "chain"
        number: int
        step_seconds: float

        def run(self, context: Context) -> Output:
            weights = context.registry.model(self.model_id).weights
            link = context.blobs.path(weights).read_bytes() + str(self.number).encode()
            for step in range({STEPS}):
                link = hashlib.sha256(link).digest()
                (context.folder / "half-written").write_bytes(link * 1000)
                context.on_progress((step + 1) / {STEPS}, f"step {{step}}")
                time.sleep(self.step_seconds)
            (context.folder / "kept").write_bytes(link)
            return Output(link, {{"number": self.number}}, (context.folder / "kept",))
'''

ENDS = {
    "sqlite": [
        "create table ends (job_id text, state text)",
        "create trigger ends after update of state on job when new.state in ('succeeded', 'failed', 'cancelled') "
        "and old.state <> new.state begin insert into ends values (new.id, new.state); end",
    ],
    "postgresql": [
        "create table ends (job_id text, state text)",
        "create function ended() returns trigger language plpgsql as "
        "$$ begin insert into ends values (new.id, new.state); return new; end $$",
        "create trigger ends after update of state on job for each row when (new.state in ('succeeded', 'failed', "
        "'cancelled') and old.state is distinct from new.state) execute function ended()",
    ],
}
"""The database itself counts how often each job ends: nothing of ours does."""


def expected(weights: bytes, number: int) -> bytes:
    link = weights + str(number).encode()
    for _ in range(STEPS):
        link = hashlib.sha256(link).digest()
    return link


class Fleet:
    """Workers that are started again when they are killed."""

    def __init__(self, log: Path) -> None:
        self.log = log.open("ab")
        self.processes = [self._start() for _ in range(WORKERS)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "app.cli", "worker", "--lane", "long"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, preexec_fn=die_with_tests,
        )  # fmt: skip

    def tend(self) -> None:
        self.processes = [one if one.poll() is None else self._start() for one in self.processes]

    def stop(self) -> None:
        for one in self.processes:
            one.terminate()
        for one in self.processes:
            try:
                one.wait(30)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
        self.log.close()


class Storm:
    """What goes wrong, in an order that the seed decides."""

    def __init__(self, world: World, disk: Path, url: str, seed: int) -> None:
        self.world, self.disk, self.chance = world, disk, random.Random(seed)
        self.done: Counter[str] = Counter()
        self.filler: Path | None = None
        self.empty_at = 0.0
        engine = create_engine("postgresql+psycopg://postgres@127.0.0.1:5432/postgres", isolation_level="AUTOCOMMIT")
        self.admin = engine if url else None
        self.database = url.rpartition("/")[2]

    def kill(self) -> bool:
        """SIGKILL of a runner, or of a worker that runs a job; of a job that has an attempt left, as an operator would want."""
        with self.world.client.backend.database.read() as session:
            running = session.execute(
                select(JobRow.id, JobRow.owner).where(JobRow.state == "running", JobRow.fruitless < JobRow.max_attempts)
            ).all()
        if not running:
            return False
        job, owner = self.chance.choice(sorted(running))
        what = self.chance.choice(["runner", "worker"])
        pid = _runner(job) if what == "runner" else int(str(owner).split("-")[-2])
        if not pid:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.done[f"{what} killed"] += 1
        return True

    def cut(self) -> None:
        """End every connection to the database."""
        if self.admin is None:
            return
        query = text("select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = :name")
        with self.admin.connect() as connection:
            self.done["connections cut"] += connection.execute(query, {"name": self.database}).scalar_one()

    def fill(self, seconds: float) -> None:
        if self.filler is None:
            self.filler, self.empty_at = fill(self.disk), time.monotonic() + seconds
            self.done["disk filled"] += 1

    def calm(self, *, now: bool = False) -> None:
        if self.filler is not None and (now or time.monotonic() > self.empty_at):
            self.filler.unlink()
            self.filler = None


def _runner(job: str) -> int:
    for pid in runners():
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == f"job {job[:8]}":
                return pid
        except OSError:
            continue
    return 0


@pytest.fixture
def world(
    request: pytest.FixtureRequest, home: Path, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[World, str]]:
    """A home on a small disk, its database in Postgres or on the same disk."""
    url = request.getfixturevalue("postgres") if request.param == "postgres" else ""
    for name, value in plugged(tmp_path, "worker.jobs", "chain", CHAOS_JOB).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AUDITOR_HOME", str(small_disk / "home"))
    monkeypatch.setenv("AUDITOR_DATABASE_URL", url)
    monkeypatch.setenv("AUDITOR_DISK_RESERVE", str(1 << 20))
    world = make_world(load_settings())
    yield world, url
    world.client.backend.database.engine.dispose()


def chaos(
    world: World, url: str, disk: Path, log: Path, *, jobs: int, kills: int, fills: int, seconds: float, step: float
) -> str:
    """Run so many jobs through so many kills; returns what happened, in a line. Fails when a job did not end once, and right."""
    seed = int(os.environ.get("AUDITOR_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    client, storm = world.client, Storm(world, disk, url, seed)
    print(f"seed {seed} (AUDITOR_CHAOS_SEED)")
    with client.backend.database.write() as session:
        for statement in ENDS["postgresql" if url else "sqlite"]:
            session.execute(text(statement))
    weights = client.blobs.path(client.library.model("tiny").weights).read_bytes()
    numbers = {}
    for number in range(jobs):
        spec = {"kind": "chain", "model_id": world.model_id, "number": number, "step_seconds": step}
        settings = client.settings
        job = new_job(
            client.ledger, kind="chain", spec=spec, model_id=world.model_id,
            max_attempts=settings.max_attempts, time_limit=settings.job_seconds,
        )  # fmt: skip
        numbers[job] = number
        client.backend.publish(job, "cpu")
    began, fleet, killed = time.monotonic(), Fleet(log), 0
    next_kill = next_cut = time.monotonic() + 6.0
    next_fill = time.monotonic() + 10.0
    try:
        while not _patient(lambda: _ended(world, jobs)):
            assert time.monotonic() - began < seconds, f"not done in time: {storm.done}, seed {seed}"
            now = time.monotonic()
            if killed < kills and now > next_kill and storm.filler is None and _patient(storm.kill):
                killed += 1
                next_kill = now + storm.chance.uniform(0.5, 4.0)
            if now > next_cut and killed < kills:
                storm.cut()
                next_cut = now + storm.chance.uniform(1.0, 4.0)
            if storm.done["disk filled"] < fills and now > next_fill:
                storm.fill(storm.chance.uniform(3.0, 6.0))
                next_fill = now + storm.chance.uniform(12.0, 20.0)
            storm.calm()
            fleet.tend()
            time.sleep(0.1)
    finally:
        storm.calm(now=True)
        fleet.stop()
        if storm.admin is not None:
            storm.admin.dispose()
    assert killed == kills, f"only {killed} kills found something to kill, seed {seed}"
    with client.backend.database.read() as session:
        ends = Counter(tuple(row) for row in session.execute(text("select job_id, state from ends")))
        results = {row.job_id: row for row in session.scalars(select(ResultRow))}
        attempts = session.scalar(select(func.sum(JobRow.fence)))
        problems = session.execute(text("pragma integrity_check")).scalar() if not url else "ok"
    assert ends == Counter({(job, "succeeded"): 1 for job in numbers}), f"seed {seed}"
    assert set(results) == set(numbers)
    for job, number in numbers.items():
        assert client.blobs.path(results[job].content).read_bytes() == expected(weights, number)
        assert results[job].summary == {"number": number}
        (kept,) = client.ledger.result_files(job).values()
        assert client.blobs.path(kept).read_bytes() == expected(weights, number)
    assert problems == "ok"
    assert runners() == [], "no process is left"
    for blob in client.blobs.folder.glob("??/*"):
        assert hash_file(blob) == blob.name, "no file is half-written"
    what = ", ".join(f"{count} x {name}" for name, count in sorted(storm.done.items()))
    return (
        f"chaos: {jobs} jobs, {what}; fences counted {attempts} starts and losses; every job ended once, with the right result, "
        f"in {time.monotonic() - began:.0f} s (lease {client.settings.lease_seconds:g} s, "
        f"{client.settings.max_attempts} attempts, seed {seed})"
    )


def _ended(world: World, jobs: int) -> bool:
    counts = world.client.jobs.counts(kind="chain")
    return sum(counts.get(state, 0) for state in ("succeeded", "failed", "cancelled")) == jobs


def _patient(call: Callable[[], bool]) -> bool:
    """Our own connections are cut, too, and our disk is full."""
    from auditor.kit.errors import OutageError

    try:
        return call()
    except OutageError:
        return False


@pytest.mark.thorough
@pytest.mark.service
@pytest.mark.parametrize("world", ["postgres"], indirect=True)
def test_a_short_storm(
    world: tuple[World, str], small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDITOR_LEASE_SECONDS", "4")
    made, url = world
    made = made._replace(client=Client(load_settings()))
    print(chaos(made, url, small_disk, tmp_path / "log", jobs=4, kills=3, fills=1, seconds=150, step=0.2))


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("world", ["sqlite", pytest.param("postgres", marks=pytest.mark.service)], indirect=True)
def test_the_whole_storm_with_the_default_lease_and_attempts(
    world: tuple[World, str], small_disk: Path, tmp_path: Path
) -> None:
    made, url = world
    assert (made.client.settings.lease_seconds, made.client.settings.max_attempts) == (30.0, 3)
    print(chaos(made, url, small_disk, tmp_path / "log", jobs=30, kills=20, fills=3, seconds=2000, step=0.2))
