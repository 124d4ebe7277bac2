"""Starting the process of a job: forked from a server that has its imports behind it, or spawned where that is not possible."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from functools import cache
from typing import BinaryIO, TypeAlias

from worker.forkserver import EXIT_UNFIT, JOB, PING, REFUSED, ForkedJob, Request
from worker.logs import get_logger
from worker.private import private_log
from worker.settings import Settings

ANSWER_SECONDS = 5.0
"""A server that has its imports behind it forks within milliseconds; one that is stopped, or swapped out, never does."""

IMPORT_SECONDS = 120.0
"""So long a job waits for a new server, on a busy machine, before it is spawned."""

CODE_SECONDS, CLOSING_SECONDS = 5.0, 1.0
MOST_FAILURES = 3
"""After so many servers in a row that ended before they could fork, jobs are spawned."""

UNKNOWN = 256
"""No exit code: how a process ended is not known, since the server that would have told died before it."""

CONTROL = "AUDITOR_JOB_SERVER"
"""Names the descriptor by which a worker that another one started asks that one's server."""


class Forked:
    """A process forked by the server: what the supervisor needs of ``subprocess.Popen``, in the same words."""

    def __init__(self, number: int, handle: int, status: socket.socket, stdin: BinaryIO) -> None:
        self.pid, self.stdin = number, stdin
        self.returncode: int | None = None
        self._handle, self._status = handle, status

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._looked(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code when it has ended. Raises TimeoutExpired."""
        if (code := self._looked(timeout)) is None:
            raise subprocess.TimeoutExpired("a job", timeout or 0.0)
        return code

    def _looked(self, timeout: float | None) -> int | None:
        if self.returncode is None and _readable(self._handle, timeout):
            self._status.settimeout(CODE_SECONDS)
            said = b""
            with suppress(OSError):
                said = self._status.recv(16)
            self.returncode = int(said) if said else UNKNOWN
            self._status.close()  # from now on the number may be another process's
            os.close(self._handle)
        return self.returncode


READ_EARLY = ("PYTHON", "LD_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "CUDA_", "TORCH", "PYTORCH_", "TMPDIR")
"""How the names of variables begin that count while modules are imported; every other one a job gets as it is when it starts."""

Process: TypeAlias = subprocess.Popen[bytes] | Forked


class Launcher:
    """Starts the processes of jobs. Its server is started at the first use, and again when it is gone, or when a job's
    environment differs from its own in what counts while modules are imported.
    """

    def __init__(self, control: int | None = None) -> None:
        """``control``: of a server that another process has started and ends."""
        self._lock = threading.Lock()
        self._control = socket.socket(fileno=control) if control is not None else None
        self._process: subprocess.Popen[bytes] | None = None
        self._base: dict[str, str] | None = None
        self._answers = False
        self._failures = 0 if _forks() else MOST_FAILURES
        self.log = get_logger("launcher")

    def prepare(self, settings: Settings) -> int | None:
        """See to it that there is a server, which may still be importing; returns the descriptor to ask it by, for `CONTROL`.

        None where jobs are spawned.
        """
        with self._lock:
            self._prepare(settings)
            return self._control.fileno() if self._control is not None else None

    def ready(self, settings: Settings, stopping: threading.Event) -> None:
        """Wait until the server can fork at once, or jobs are spawned. It takes time once: when there is a new server."""
        with self._lock:
            while self._prepare(settings) and not self._answers and not stopping.is_set():
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with ours:
                    with theirs:
                        asked = self._ask(PING, theirs.fileno())
                    waited, limit = 0.0, IMPORT_SECONDS
                    while asked and waited < limit and not stopping.is_set() and not _readable(ours.fileno(), 0.25):
                        waited += 0.25
                    if stopping.is_set():
                        return
                    if asked and waited < limit and ours.recv(16):
                        self._answers, self._failures = True, 0
                    else:
                        self._lost()

    def start(self, job_id: str, fence: int, settings: Settings, output: BinaryIO) -> Process:
        """A process that runs a claimed job, in a session of its own, with ``output`` for all that it prints. It dies with this
        process, and when its ``stdin`` is closed. Raises OSError if none can be started.
        """
        with self._lock:
            if self._prepare(settings) and self._answers:
                forked = self._fork(ForkedJob(job_id, fence, settings.environment(), str(settings.home)), output)
                if forked is not None:
                    return forked
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.runner", job_id, str(fence)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=settings.environment(),
            cwd=settings.home,
            start_new_session=True,
        )

    def close(self) -> None:
        """End the server, if it is ours. What it forked goes on."""
        with self._lock:
            self._drop()

    def _prepare(self, settings: Settings) -> bool:
        """True where there is a server to ask."""
        if not settings.fork:
            return False
        base = {name: value for name, value in settings.environment().items() if name.startswith(READ_EARLY)}
        if self._process is None and self._control is not None and self._base is None:
            self._base = base  # whoever started the server gave it our environment
        if self._process is not None and self._process.poll() is not None:
            self._lost()
        if self._control is not None and self._base != base:
            self._drop()
        if self._control is None and self._failures < MOST_FAILURES:
            try:
                self._begin(settings)
            except OSError as error:
                self.log.warning("the job server could not be started", reason=str(error))
                self._lost()
            self._base = base
        return self._control is not None

    def _begin(self, settings: Settings) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, private_log(settings.logs / "forkserver.log") as output, ExitStack() as undo:
            undo.callback(ours.close)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.forkserver", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=settings.environment(),
                cwd=settings.home,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            self._control, self._answers = ours, False
            undo.pop_all()

    def _fork(self, job: ForkedJob, output: BinaryIO) -> Forked | None:
        """None where the server does not do it. If it does so too late, that process ends at once."""
        with ExitStack() as undo, tempfile.TemporaryFile() as content:
            content.write(json.dumps(job._asdict()).encode())
            content.seek(0)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            reading, writing = os.pipe()
            stdin = os.fdopen(writing, "wb", buffering=0)
            undo.callback(stdin.close)
            request = Request(theirs.fileno(), reading, output.fileno(), content.fileno())
            try:
                asked = self._ask(JOB, *request)
            finally:
                theirs.close()
                os.close(reading)
            ours.settimeout(ANSWER_SECONDS)
            said, handles = b"", list[int]()
            with suppress(OSError):
                said, handles, *_ = socket.recv_fds(ours, 16, 1) if asked else (b"", [])
            if handles:
                undo.pop_all()
                return Forked(int(said), handles[0], ours, stdin)
        if said != REFUSED:
            self._lost()
        return None

    def _ask(self, what: bytes, *descriptors: int) -> bool:
        try:
            assert self._control is not None
            socket.send_fds(self._control, [what], descriptors)
        except OSError:
            return False
        return True

    def _lost(self) -> None:
        """The server is gone, or does not do its work."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):  # where it is about to go, its exit code says why
                self._process.wait(CLOSING_SECONDS)
        code = self._drop()
        self._failures = MOST_FAILURES if code == EXIT_UNFIT else self._failures + (not self._answers)
        spawned = "jobs are spawned" if self._failures >= MOST_FAILURES else "the next job starts another"
        self.log.warning("the job server is gone", code=code, so=spawned)

    def _drop(self) -> int | None:
        """Let go of the server; one of ours ends. Returns how."""
        if self._control is not None:
            self._control.close()
        self._control = None
        if self._process is None:
            return None
        process, self._process = self._process, None
        assert process.stdin is not None
        process.stdin.close()
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        return process.wait()


@cache
def launcher() -> Launcher:
    """This process's."""
    control = os.environ.pop(CONTROL, "")
    return Launcher(int(control) if control.isdecimal() and _forks() else None)


def _forks() -> bool:
    """Linux 5.3 or later. Elsewhere the system's libraries do not bear it, or a process cannot be told from its number's next."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        return False
    return True


def _readable(descriptor: int, timeout: float | None) -> bool:
    poll = select.poll()  # unlike select, with any number of open files
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))
