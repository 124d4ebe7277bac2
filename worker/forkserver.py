"""The server that the processes of jobs are forked from: ``python -m worker.forkserver DESCRIPTOR``.

It has imported torch and all else that a job needs, and has run nothing of it: a child that is forked after one convolution
hangs in OpenMP, and one that is forked after CUDA was initialized has no GPU. It ends with the process that started it, which
holds the other end of its standard input; the processes that it forks hold inputs of their own, and outlive it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

from worker.runner import die_with_input, killed_with_input, name_process, run

EXIT_UNFIT = 70
"""The server's exit code when a process forked from it could not compute (EX_SOFTWARE): jobs must be spawned."""

EXIT_UNSAID = 120
"""The exit code of Python where its last output could not be written."""

PING, JOB = b"p", b"j"
"""What is asked of the server: to answer when it gets to it, and to fork a process for a job. One byte each, with descriptors."""

REFUSED = b"refused"
"""The answer where the system gives no process."""

TRIAL_SECONDS = 60
"""For the forked process that tries to compute, on a busy machine."""

_CATALOGUES = (
    "auditor.attacking.attacks", "auditor.auditing.checks", "auditor.auditing.corruptions", "auditor.defending.defenses",
    "auditor.hardening.hardenings", "auditor.models.architectures", "auditor.neural.analyses", "worker.jobs",
)  # fmt: skip
_ON_THE_WAY = (
    "auditor.data.intake.weights", "safetensors.torch", "sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql", "psycopg",
    "scipy.stats", "scipy.ndimage", "scipy.optimize",
)  # fmt: skip
"""What jobs import on their way: to read weights, for their database, and of scipy, whose modules load when they are used."""

_HEAVY = ("torch._dynamo", "torchvision.models")
"""What some jobs import: torch's optimizers, and the models named so. Over a second, and 150 MB: for when there is time."""

IDLE_SECONDS = 15.0
"""A server without work so long imports those, too; one that ends soon after its start spends nothing on them."""


class Request(NamedTuple):
    """The descriptors that come with JOB. ``status``: a connection on which the forked process, when it is its own master, tells
    its number, with a descriptor of itself, and the server, when it has ended, its exit code. ``content``: a file, `Job` as JSON.
    """

    status: int
    input: int
    output: int
    content: int


class ForkedJob(NamedTuple):
    """What a forked process is told."""

    job_id: str
    fence: int
    environment: dict[str, str]
    folder: str


class _ChildProcess:
    """A process that was forked, until it has ended and nobody may signal it any more."""

    def __init__(self, number: int, status: socket.socket) -> None:
        self.number, self.status, self.handle = number, status, os.pidfd_open(number)
        self.ended = self.released = False

    def close(self) -> None:
        os.close(self.handle)
        self.status.close()


def main() -> NoReturn:
    """Serve until the starter is gone; in a forked process, run its job."""
    killed_with_input()
    control = socket.socket(fileno=int(sys.argv[1]))
    name_process("job server")
    preload()
    try_out()
    _run(_Server(control).serve())


def preload() -> None:
    """Import what jobs need, and run none of it.

    What other installed packages add to the catalogues may do anything when it is imported: hence `try_out`.
    """
    importlib.import_module("worker.attempt")
    for name in _CATALOGUES:
        folder = importlib.import_module(name)
        for entry in pkgutil.iter_modules(folder.__path__, prefix=f"{name}."):
            importlib.import_module(entry.name)
    from sqlalchemy.orm import configure_mappers

    configure_mappers()
    _import(_ON_THE_WAY)


def _import(names: Sequence[str]) -> None:
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # these pages stay shared with the children: the collector would write to them


def try_out() -> None:
    """Fork once and compute. Where the child cannot, or would lack a thread, the server ends with `EXIT_UNFIT`."""
    child = os.fork()
    if child == 0:
        signal.alarm(TRIAL_SECONDS)
        os._exit(not _computes())
    if os.waitpid(child, 0)[1] != 0 or threading.active_count() > 1:
        sys.stderr.write("A process forked here cannot compute: jobs are spawned.\n")
        raise SystemExit(EXIT_UNFIT)


def _computes() -> bool:
    import torch

    ones = torch.ones(2, 8, 64, 64), torch.ones(8, 8, 3, 3)
    right = float(torch.nn.functional.conv2d(*ones).sum()) == 2 * 8 * 62 * 62 * 8 * 9
    return right and not torch.cuda._is_in_bad_fork()


class _Server:
    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.children: set[_ChildProcess] = set()
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ)
        self.selector.register(0, selectors.EVENT_READ)

    def serve(self) -> Request:
        """Fork a process for each request; returns the request, in the forked process alone."""
        seconds: float | None = IDLE_SECONDS
        while True:
            ready = self.selector.select(seconds)
            if not ready:
                _import(_HEAVY)
                seconds = None
            for key, _ in ready:
                if key.fileobj is self.control:
                    request = self._asked()
                    if request is not None:
                        return request
                elif key.fd == 0:
                    raise SystemExit(0)
                else:
                    self._heard_of(key.data, ended=key.fd == key.data.handle)

    def _asked(self) -> Request | None:
        asked, descriptors, *_ = socket.recv_fds(self.control, 1, len(Request._fields))
        if not asked:
            raise SystemExit(0)
        if asked == PING:
            with socket.socket(fileno=descriptors[0]) as line:
                _tell(line, b"here")
            return None
        request = Request(*descriptors)
        try:
            number = os.fork()
        except OSError as error:
            sys.stderr.write(f"No process can be forked: {error.strerror}.\n")
            number = -1
        if number == 0:
            self._forget()
            return request
        for descriptor in (request.input, request.output, request.content):
            os.close(descriptor)
        status = socket.socket(fileno=request.status)
        if number < 0:
            _tell(status, REFUSED)
            status.close()
            return None
        child = _ChildProcess(number, status)
        self.children.add(child)
        self.selector.register(child.handle, selectors.EVENT_READ, child)
        self.selector.register(child.status, selectors.EVENT_READ, child)
        return None

    def _heard_of(self, child: _ChildProcess, *, ended: bool) -> None:
        """The process has ended, or its supervisor has let go of it: nothing is ever written to us on that connection.

        While it may still be signalled, its number must not go to another process: it is waited for when both have happened.
        """
        if ended:
            self.selector.unregister(child.handle)
            child.ended = True
            _tell(child.status, str(_exit_code(child.number)).encode())
        else:
            self.selector.unregister(child.status)
            child.released = True
        if child.ended and child.released:
            os.waitpid(child.number, 0)
            self.children.remove(child)
            child.close()

    def _forget(self) -> None:
        """In the forked process: let go of what is the server's."""
        self.selector.close()
        self.control.close()
        for child in self.children:
            child.close()


def _tell(line: socket.socket, words: bytes, *descriptors: int) -> None:
    with suppress(OSError):  # nobody may be left to hear it
        socket.send_fds(line, [words], descriptors)


def _exit_code(number: int) -> int:
    """Of a process that has ended, as `subprocess` gives it; the process is left to be waited for."""
    how = os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)
    assert how is not None
    return how.si_status if how.si_code == os.CLD_EXITED else -how.si_status


def _run(request: Request) -> NoReturn:
    """In the forked process: become what a spawned one would be, and run the job."""
    os.setsid()
    for descriptor, place in ((request.input, 0), (request.output, 1), (request.output, 2)):
        os.dup2(descriptor, place)
    die_with_input()
    with socket.socket(fileno=request.status) as status:
        _tell(status, str(os.getpid()).encode(), handle := os.pidfd_open(os.getpid()))
    with open(request.content, "rb") as file:  # noqa: PTH123  # a descriptor
        job = ForkedJob(**json.load(file))
    for descriptor in (request.input, request.output, handle):
        os.close(descriptor)
    os.chdir(job.folder)
    os.environ.clear()
    os.environ.update(job.environment)
    import numpy as np
    import torch

    # As in a new process, no two jobs draw the same numbers where they set no seed; Python sees to its own generator.
    np.random.seed()
    torch.default_generator.seed()
    code = run(job.job_id, job.fence)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = EXIT_UNSAID
    os._exit(code)  # as multiprocessing does: taking so many modules down takes long, and does nothing


if __name__ == "__main__":
    main()
