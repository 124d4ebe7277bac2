"""Jobs forked from the job server: what they are, what ends them, and what happens when the server does not do its work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.plugins import plugged
from tests.worker.rows import new_job
from tests.worker.test_supervisor import odd, run, runners, servers, wait_until
from tests.worker.world import ODD_JOBS, World, make_world
from worker import launch, supervisor
from worker.launch import Launcher
from worker.settings import load_settings


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    """One for this test alone: its server may be killed."""
    own = Launcher()
    monkeypatch.setattr(supervisor, "launcher", lambda: own)
    yield own
    own.close()


@pytest.fixture(scope="module")
def lasting() -> Iterator[Launcher]:
    """One for the tests that set the same variables, and leave it as it is, or kill its server: it starts another."""
    own = Launcher()
    yield own
    own.close()


@pytest.fixture
def shared(lasting: Launcher, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """With threads of OpenMP, in which a child that is forked after a convolution would hang."""
    monkeypatch.setattr(supervisor, "launcher", lambda: lasting)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    return lasting


@pytest.fixture
def world(odd_jobs: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("AUDITOR_LEASE_SECONDS", "3")
    return make_world(load_settings())


def look(world: World, **settings: Any) -> dict[str, Any]:
    """What a job finds about its process."""
    job = new_job(world.client.ledger, kind="odd", spec={"kind": "odd", "how": "look"})
    claimed = world.client.settings.model_copy(update=settings)
    assert supervisor.supervise(job, "test", claimed, world.client.ledger, threading.Event()) == "done"
    assert world.client.jobs.get(job).state == "succeeded", world.client.jobs.log(job)
    result = world.client.ledger.result(job)
    assert result is not None
    found: dict[str, Any] = json.loads(world.client.blobs.path(result.content).read_text().replace(job, "JOB"))
    return found


def server_of(launcher: Launcher) -> int:
    assert launcher._process is not None
    return launcher._process.pid


class Looks(NamedTuple):
    """What two forked processes and a spawned one found, and the server of the forked ones."""

    first: dict[str, Any]
    second: dict[str, Any]
    spawned: dict[str, Any]
    server: int


_looks: list[Looks] = []
"""Taken once: two tests look at them."""


@pytest.fixture
def looks(world: World, shared: Launcher, monkeypatch: pytest.MonkeyPatch) -> Looks:
    monkeypatch.setenv("ANYTHING", "set before the job")
    if not _looks:
        _looks.append(Looks(look(world), look(world), look(world, fork=False), server_of(shared)))
    return _looks[0]


def test_a_forked_process_is_what_a_spawned_one_is_and_computes_the_same_to_the_bit(looks: Looks) -> None:
    first, second, spawned, server = looks
    assert first["own"]["parent"] == second["own"]["parent"] == server
    assert spawned["own"]["parent"] == os.getpid()
    spawned["same"]["environment"] |= {"AUDITOR_FORK": "True"}
    assert first["same"] == second["same"] == spawned["same"]
    assert first["same"]["threads"] == 2
    assert first["same"]["environment"]["ANYTHING"] == "set before the job"
    assert first["same"]["leads"] == [True, True]
    drawn = [number for one in (first, second, spawned) for number in one["own"]["random"]]
    assert len(set(drawn)) == 12, "no generator that is not seeded starts where another job's does"


def test_a_forked_process_shares_its_imports_with_a_server_of_one_thread(looks: Looks, shared: Launcher) -> None:
    forked, spawned = looks.first, looks.spawned
    assert server_of(shared) == looks.server
    assert set(spawned["own"]["modules"]) <= set(forked["own"]["modules"])
    assert forked["own"]["private"] < spawned["own"]["private"] / 2
    server = Path(f"/proc/{server_of(shared)}")
    assert [one.name for one in (server / "task").iterdir()] == [
        server.name
    ]  # OpenBLAS, left alone, ends its own in time
    assert not [name for one in (server / "fd").iterdir() if "nvidia" in (name := str(one.readlink()))]


PRELOAD = """
import json, sys, threading
import torch
from torch.utils._python_dispatch import TorchDispatchMode
ran = []
class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        ran.append(str(function))
        return function(*arguments, **(named or {}))
def touched(*_, **__):
    ran.append("CUDA")
    raise RuntimeError("no GPU is to be looked for")
for name in ("is_available", "device_count", "init", "_lazy_init", "current_device"):
    setattr(torch.cuda, name, touched)
from worker import forkserver
with Watch():
    forkserver.preload()
    forkserver._import(forkserver._HEAVY)
assert "torch._dynamo" in sys.modules
assert threading.active_count() == 1, threading.enumerate()
print(json.dumps(sorted(set(ran))))
"""


def test_the_server_runs_no_operator_and_looks_for_no_gpu() -> None:
    done = subprocess.run([sys.executable, "-c", PRELOAD], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    # A constant of a module, taken as it is; and a number that is compiled in. Neither computes, nor starts a thread.
    assert set(json.loads(done.stdout)) <= {"aten.lift_fresh.default", "torchvision._cuda_version.default"}


def test_when_the_server_is_killed_the_running_job_ends_well_and_the_next_is_forked_from_another(
    world: World, shared: Launcher
) -> None:
    running = odd(world, "slow", seconds=3)
    thread = threading.Thread(target=run, args=(world, running))
    thread.start()
    wait_until(lambda: world.client.jobs.get(running).share > 0)
    first = server_of(shared)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: shared._process is None or shared._process.poll() is not None)
    found = look(world)
    assert found["own"]["parent"] == server_of(shared) != first
    thread.join(30)
    assert (world.client.jobs.get(running).state, world.client.jobs.get(running).attempts) == ("succeeded", 1)
    assert runners() == []


def test_a_job_that_crashes_after_its_server_is_tried_again(world: World, shared: Launcher) -> None:
    job, ends = odd(world, "hang"), list[str]()
    thread = threading.Thread(target=lambda: ends.append(run(world, job)))
    thread.start()
    wait_until(lambda: runners() and world.client.jobs.get(job).state == "running")
    (runner,) = runners()
    os.kill(server_of(shared), signal.SIGKILL)
    os.kill(runner, signal.SIGKILL)
    thread.join(30)
    assert ends == ["crashed, now queued"]
    row = world.client.ledger.get(job)
    assert row is not None
    assert row.waits == "The job's process ended in a way that is not known."


def test_a_server_that_does_not_answer_is_replaced_and_the_job_runs_once(
    world: World, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "ANSWER_SECONDS", 1.0)
    look(world)
    stopped = server_of(launcher)
    os.kill(stopped, signal.SIGSTOP)
    found = look(world)
    assert found["own"]["parent"] == os.getpid(), "spawned"
    assert servers() == []
    assert look(world)["own"]["parent"] == server_of(launcher) != stopped


def test_nothing_outlives_a_killed_worker(world: World) -> None:
    """Neither the server, nor its jobs, one of them such that no thread of Python gets a turn."""
    jobs = [odd(world, how) for how in ("deaf", "hang")]
    program = (
        "import sys, threading; from worker.settings import load_settings; from worker.db import connect;"
        "from worker.ledger import Ledger; from worker.supervisor import supervise;"
        "s = load_settings(); l = Ledger(connect(s));"
        "[threading.Thread(target=supervise, args=(j, 'x', s, l, threading.Event())).start() for j in sys.argv[1:]]"
    )
    worker = subprocess.Popen([sys.executable, "-c", program, *jobs])
    wait_until(lambda: len(runners()) == 2 and all(world.client.jobs.get(job).step == "waiting" for job in jobs))
    (server,) = servers()
    parents = [Path(f"/proc/{runner}/stat").read_text().rpartition(")")[2].split()[1] for runner in runners()]
    assert parents == [str(server)] * 2
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    wait_until(lambda: runners() == [] and servers() == [], 3)


def test_the_server_dies_while_it_imports(world: World, launcher: Launcher) -> None:
    launcher.prepare(world.client.settings)
    wait_until(lambda: servers() != [])
    launcher.close()
    assert servers() == []


CONVOLVES = """
import sys, torch
sys.modules["__main__"].TRIAL_SECONDS = 3
torch.conv2d(torch.ones(8, 8, 64, 64), torch.ones(8, 8, 3, 3))
"""
DIES = "import os, sys; 'worker.forkserver' in sys.orig_argv and os._exit(1)"
THREADS = """
import sys, threading
if "worker.forkserver" in sys.orig_argv:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
"""
FORKS_ONCE = """
import os
forks = iter([os.fork])
def fork():
    for one in forks:
        return one()
    raise OSError(11, "Resource temporarily unavailable")
os.fork = fork
"""


def plug(monkeypatch: pytest.MonkeyPatch, folder: Path, fault: str) -> None:
    """The processes of jobs import a module that does this."""
    monkeypatch.delenv("PYTHONPATH")
    plugged(folder, "worker.jobs", "odd", ODD_JOBS)
    monkeypatch.setenv("PYTHONPATH", plugged(folder, "worker.jobs", "fault", fault)["PYTHONPATH"])
    if fault == DIES:  # at once, which is soonest over
        with (folder / "plugins" / "sitecustomize.py").open("a") as customize:
            customize.write("import worker.jobs.fault\n")


@pytest.mark.parametrize("fault", [CONVOLVES, DIES, THREADS], ids=["has computed", "dies", "has threads"])
def test_where_no_server_is_fit_jobs_are_spawned(
    world: World, launcher: Launcher, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    plug(monkeypatch, tmp_path, fault)
    assert look(world)["own"]["parent"] == os.getpid()
    assert servers() == []
    began = time.monotonic()
    launcher.ready(world.client.settings, threading.Event())
    assert time.monotonic() - began < 1, "none is tried again"


def test_a_job_that_the_system_does_not_let_the_server_fork_is_spawned(
    world: World, launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug(monkeypatch, tmp_path, FORKS_ONCE)
    assert look(world)["own"]["parent"] == os.getpid()
    assert servers() == [server_of(launcher)], "it is not to blame"


def test_what_python_reads_as_it_starts_is_the_jobs_own(
    world: World, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = look(world)
    assert found["same"]["threads"] == 1
    assert found["own"]["parent"] == (first := server_of(launcher))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    found = look(world)
    assert found["same"]["threads"] == 2
    assert found["own"]["parent"] == server_of(launcher) != first


def test_a_worker_that_stops_while_the_server_imports_leaves_the_job(world: World, launcher: Launcher) -> None:
    job, stopping = odd(world, "finish"), threading.Event()
    stopping.set()
    assert run(world, job, stopping) == "not taken: this worker stops"
    assert (world.client.jobs.get(job).state, world.client.jobs.get(job).attempts) == ("queued", 0)
