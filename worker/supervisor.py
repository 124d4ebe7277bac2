"""The supervisor of one job: claims it, spawns its runner, keeps the lease, passes on a cancel, kills what must die."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from auditor.errors import ServiceError
from worker.ledger import Claim, Ledger
from worker.logs import get_logger, job_log_file
from worker.private import private_log
from worker.settings import Settings
from worker.workspaces import Workspaces

POLL_SECONDS = 0.25
"""How often the supervisor looks at its runner and its row: a cancel is felt within about this time."""

GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL."""


def supervise(job_id: str, owner: str, settings: Settings, ledger: Ledger, stopping: threading.Event) -> str:
    """Run a job to its end in a process of its own; returns what became of it, in a word, for the log.

    Nothing is raised for a job that fails: its row says why. A job that is taken or done is left alone.
    """
    claim = ledger.claim(job_id, owner, settings.lease_seconds)
    if claim is None:
        return "not queued"
    return _Supervision(claim, settings, ledger, stopping).run()


class _Supervision:
    def __init__(self, claim: Claim, settings: Settings, ledger: Ledger, stopping: threading.Event) -> None:
        self.claim, self.settings, self.ledger, self.stopping = claim, settings, ledger, stopping
        self.asked: float | None = None
        self.log = get_logger("supervisor", job=claim.job_id, fence=claim.fence)

    def run(self) -> str:
        began = self.heard = self.renewed = time.monotonic()
        log_file = self._log_file()
        with private_log(log_file) as output:
            runner = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.runner", self.claim.job_id, str(self.claim.fence)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self.settings.environment(),
                cwd=self.settings.home,
                start_new_session=True,
            )
        try:
            while runner.poll() is None:
                time.sleep(POLL_SECONDS)
                if self.stopping.is_set():
                    _kill(runner)
                    self.ledger.release(self.claim)
                    return "released"
                if time.monotonic() - began > self.claim.time_limit:
                    _kill(runner)
                    self.ledger.fail(
                        self.claim,
                        f"The job ran longer than its limit of {self.claim.time_limit:g} seconds.",
                        "Use fewer samples or steps, or raise AUDITOR_JOB_SECONDS.",
                    )
                    return "over time"
                ended = self._heartbeat(runner)
                if ended:
                    return ended
            return self._ended(runner.returncode, log_file)
        finally:
            _kill(runner)
            with contextlib.suppress(ServiceError):  # the keeper does it, too
                Workspaces(self.settings.workspaces).sweep(self.ledger.ended)

    def _heartbeat(self, runner: subprocess.Popen[bytes]) -> str:
        """Keep the lease; returns a word when the job is over for us, else nothing."""
        try:
            due = time.monotonic() - self.renewed >= self.settings.lease_seconds / 4
            answer = self.ledger.renew(self.claim, self.settings.lease_seconds) if due else self.ledger.look(self.claim)
            self.heard = time.monotonic()
            if due:
                self.renewed = self.heard
        except ServiceError:
            # Without the database nobody can tell whether the job is still ours; past the lease it is not.
            if time.monotonic() - self.heard > self.settings.lease_seconds:
                _kill(runner)
                return "fenced: the database does not answer"
            return ""
        if answer.held and not answer.cancel:
            return ""
        if answer.ended:
            return ""  # the runner has written its end and is about to go
        if answer.held:
            self.asked = self.asked or self.heard
            if self.heard - self.asked < self.claim.grace:
                return ""  # the runner has seen it, too, and ends with what it has
        _kill(runner)
        if answer.cancel:
            self.ledger.cancelled(self.claim)
            return "cancelled"
        return "lost"

    def _ended(self, returncode: int, log_file: Path) -> str:
        if self.ledger.look(self.claim).held:
            # The process went without a word: killed by the kernel for its memory, most often, or crashed in native code.
            how = (
                f"by signal {-returncode} ({_signal_name(-returncode)})"
                if returncode < 0
                else f"with code {returncode}"
            )
            hint = "It probably ran out of memory: set a smaller batch_size." if returncode == -signal.SIGKILL else ""
            state = self.ledger.crashed(self.claim, f"The job's process ended {how}.", hint)
            self.log.warning("the runner died", how=how, state=state, log=str(log_file))
            return f"crashed, now {state}"
        return "done"

    def _log_file(self) -> Path:
        return job_log_file(self.settings, self.claim.job_id)


def _kill(runner: subprocess.Popen[bytes]) -> None:
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


def _signal(runner: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(runner.pid, number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
