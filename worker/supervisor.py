"""The supervisor of one job: claims it, spawns its runner, keeps the lease, passes on a cancel, kills what must die."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from auditor.kit.disk import disk_full, outage, room
from auditor.kit.errors import DiskFullError, OutageError, ServiceError
from worker.fitness import trouble
from worker.launch import UNKNOWN, Process, launcher
from worker.ledger import Claim, Ledger
from worker.logs import get_logger, job_log_file
from worker.patience import patiently
from worker.private import private_log
from worker.runner import EXIT_OUTAGE
from worker.settings import Settings
from worker.workspaces import Workspaces

T = TypeVar("T")

POLL_SECONDS = 0.25
"""How often the supervisor looks at its runner and its row: a cancel is felt within about this time."""

GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL."""

STOP_SECONDS = 5.0
"""A worker that is told to stop waits no longer for a database that is away."""

_NO_ROOM = 64 << 10
_FULL_DISK_CODES = (-signal.SIGBUS, 1, 120)
"""How a process dies of a full disk: a write to mapped memory, an error before it can say a word, output it cannot write."""


def supervise(job_id: str, owner: str, settings: Settings, ledger: Ledger, stopping: threading.Event) -> str:
    """Run a job to its end in a process of its own; returns the outcome in a few words, for the log.

    Nothing is raised for a job that fails: its row says why. A job that is taken or done is left alone, and one that cannot be
    run here now stays in the queue.
    """
    try:
        if why := trouble(settings, ledger.database):
            ledger.unpublished_again(job_id)
            return f"not taken: {why}"
        launcher().ready(settings, stopping)  # before the claim: meanwhile the job may be cancelled, or another's
        if stopping.is_set():
            ledger.unpublished_again(job_id)
            return "not taken: this worker stops"
        claim = ledger.claim(job_id, owner, settings.lease_seconds)
    except OutageError as error:
        return f"not taken: {error}"
    if claim is None:
        return "not queued"
    return _Supervision(claim, settings, ledger, stopping).run()


class _Supervision:
    def __init__(self, claim: Claim, settings: Settings, ledger: Ledger, stopping: threading.Event) -> None:
        self.claim, self.settings, self.ledger, self.stopping = claim, settings, ledger, stopping
        self.asked: float | None = None
        self.sign: float | None = None
        self.log_file = job_log_file(settings, claim.job_id)
        self.log = get_logger("supervisor", job=claim.job_id, fence=claim.fence)

    def run(self) -> str:
        began = self.heard = self.renewed = self.sign_seen = time.monotonic()
        try:
            runner = self._start()
        except OSError as error:
            fault = outage(error, self.settings.logs) or OutageError(
                f"The worker could not start the job's process ({error.strerror}: {error.filename})."
            )
            self._lost(fault)
            return f"not started: {fault}"
        try:
            while not _ends_within(POLL_SECONDS, runner):
                if self.stopping.is_set():
                    _kill(runner)
                    self._tell(lambda: self.ledger.release(self.claim))
                    return "released"
                if time.monotonic() - began > self.claim.time_limit:
                    _kill(runner)
                    self._fail(
                        f"The job ran longer than its limit of {self.claim.time_limit:g} seconds.",
                        "Use fewer samples or steps, or raise AUDITOR_JOB_SECONDS.",
                    )
                    return "over time"
                ended = self._heartbeat(runner)
                if ended:
                    return ended
            return self._ended(runner.wait())
        finally:
            _kill(runner)
            with contextlib.suppress(ServiceError):  # the keeper does it, too
                Workspaces(self.settings.workspaces).sweep(self.ledger.ended)

    def _start(self) -> Process:
        with private_log(self.log_file) as output:
            return launcher().start(self.claim.job_id, self.claim.fence, self.settings, output)

    def _heartbeat(self, runner: Process) -> str:
        """Keep the lease; returns a word when the job is over for us, else nothing."""
        try:
            due = time.monotonic() - self.renewed >= self.settings.lease_seconds / 4
            answer = self.ledger.renew(self.claim, self.settings.lease_seconds) if due else self.ledger.look(self.claim)
            self.heard = time.monotonic()
            if due:
                self.renewed = self.heard
        except ServiceError as error:
            self.sign_seen = time.monotonic()
            # Without the database nobody can tell whether the job is still ours; past the lease it is not.
            if time.monotonic() - self.heard > self.settings.lease_seconds:
                _kill(runner)
                self._lost(error)
                return "fenced: the database does not answer"
            return ""
        if answer.held and not answer.cancel:
            return self._stalled(runner, answer.heard)
        if answer.ended:
            return ""  # the runner has written its end and is about to go
        if answer.held:
            self.asked = self.asked or self.heard
            if answer.saves and self.heard - self.asked < self.claim.grace:
                return ""  # the runner has seen it, too, and ends with what it has
        _kill(runner)
        if answer.cancel:
            self._tell(lambda: self.ledger.cancelled(self.claim))
            return "cancelled"
        return "lost"

    def _stalled(self, runner: Process, sign: float | None) -> str:
        """End an attempt whose process shows no progress for long."""
        if sign != self.sign:
            self.sign, self.sign_seen = sign, time.monotonic()
        limit = self.settings.stall_seconds
        if time.monotonic() - self.sign_seen < limit:
            return ""
        _kill(runner)
        state = self._tell(
            lambda: self.ledger.crashed(
                self.claim,
                f"The job's process showed no progress for {limit:g} seconds and was stopped.",
                "Set a smaller batch_size, or raise AUDITOR_STALL_SECONDS if one step may take so long.",
            )
        )
        self.log.warning("the runner hung", state=state, log=str(self.log_file))
        return f"stalled, now {state}"

    def _ended(self, returncode: int) -> str:
        answer = self._tell(lambda: self.ledger.look(self.claim))
        if answer is None or not answer.held:
            return "done"
        full = _full_disk(self.settings)
        if returncode == EXIT_OUTAGE or (full is not None and returncode in _FULL_DISK_CODES):
            self._lost(full or OutageError("The database did not answer."))
            return "lost in an outage"
        # The process went without a word: killed by the kernel for its memory, most often, or crashed in native code.
        how = f"by signal {-returncode} ({_signal_name(-returncode)})" if returncode < 0 else f"with code {returncode}"
        how = "in a way that is not known" if returncode == UNKNOWN else how
        hint = "It probably ran out of memory: set a smaller batch_size." if returncode == -signal.SIGKILL else ""
        state = self._tell(lambda: self.ledger.crashed(self.claim, f"The job's process ended {how}.", hint))
        self.log.warning("the runner died", how=how, state=state, log=str(self.log_file))
        return f"crashed, now {state}"

    def _fail(self, message: str, hint: str) -> None:
        self._tell(lambda: self.ledger.fail(self.claim, message, hint))

    def _lost(self, error: ServiceError) -> None:
        """The attempt ends, through no fault of the job."""
        state = self._tell(lambda: self.ledger.lost(self.claim, error.message, error.hint))
        self.log.warning("an outage ended the attempt", reason=error.message, state=state)

    def _tell(self, call: Callable[[], T]) -> T | None:
        """Ask the database, or tell it, however long it is away: this worker could do nothing else meanwhile.

        None where the worker is to stop first: then the lease runs out.
        """
        stop_by: list[float] = []

        def enough(passed: float, _: OutageError) -> bool:
            if self.stopping.is_set():
                stop_by.append(passed + STOP_SECONDS)
            return bool(stop_by) and passed >= stop_by[0]

        with contextlib.suppress(OutageError):
            return patiently(call, enough)
        self.log.warning("the database does not answer; the lease will run out")
        return None


def _full_disk(settings: Settings) -> DiskFullError | None:
    """Is the home's disk, or the one for temporary files, so full that a process may have died of it?"""
    for folder in (settings.home, Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            if room(folder).free < _NO_ROOM:
                return disk_full(folder)
    return None


def _ends_within(seconds: float, runner: Process) -> bool:
    """Whether the runner ends within so many seconds."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        runner.wait(seconds)
    return runner.returncode is not None


def _kill(runner: Process) -> None:
    """End the runner and everything it started; it has a session of its own."""
    if runner.poll() is None:
        _signal(runner, signal.SIGTERM)
        try:
            runner.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _signal(runner, signal.SIGKILL)
            runner.wait()
    if runner.stdin is not None:
        runner.stdin.close()


def _signal(runner: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(runner.pid, number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
