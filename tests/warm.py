"""Sandboxes forked with their imports behind them, for tests of what is read in them, not of how they start.

What such a process does is the product's own from `worker.sandbox._inside` on: privileges, Landlock, limits, seccomp, the
function. How it starts for users, with Landlock before the imports, is tested by tests/worker/test_sandbox.py, and wherever no
test asks for `Template`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from worker import sandbox
from worker.launch import Forked

ROOT = Path(__file__).parents[1]
OWN = ("HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR")
"""The variables of one process; every other one counts while modules are imported."""

PROGRAM = f"""
import gc, importlib, json, os, selectors, socket, sys
sys.path.insert(0, {str(ROOT)!r})
for name in ("worker.owned", "worker.reading", "worker.jobs.audit", "worker.jobs.vet", "migrations",
             "auditor.data.intake.datasets", "auditor.data.intake.inspection", "auditor.data.intake.weights"):
    importlib.import_module(name)
from worker import forkserver, sandbox
gc.collect()
gc.freeze()
control = socket.socket(fileno=int(sys.argv[1]))
selector = selectors.DefaultSelector()
selector.register(control, selectors.EVENT_READ)


def fork():
    asked, given, *_ = socket.recv_fds(control, 1 << 16, 4)
    if not asked:
        sys.exit()
    number = os.fork()
    if not number:
        os.setsid()
        for place in range(3):
            os.dup2(given[place], place)
        os.closerange(3, 1 << 10)
        environment, folder = json.loads(asked)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        specification = json.load(sys.stdin)
        sys.path[:] = specification["path"]
        sandbox._inside({{**specification, "parent": os.getppid()}})
    child = forkserver._ChildProcess(number, socket.socket(fileno=given[3]))
    forkserver._tell(child.status, str(number).encode(), child.handle)
    selector.register(child.handle, selectors.EVENT_READ, child)
    for descriptor in given[:3]:
        os.close(descriptor)


while True:
    for key, _ in selector.select():
        if key.fileobj is control:
            fork()
        else:
            selector.unregister(key.fileobj)
            forkserver._tell(key.data.status, str(forkserver._exit_code(key.data.number)).encode())
            os.waitpid(key.data.number, 0)
            key.data.close()
"""


class _Sandbox(Forked):
    """With the pipes that the sandbox's parent reads."""

    stdout: IO[bytes]
    stderr: IO[bytes]


class Template:
    """The process that the sandboxes of tests are forked from, started at the first of them. It ends with the other end of its
    socket, not with the thread that started it, which may be a page's.

    In place of ``subprocess`` in `worker.sandbox`: where an environment is not the template's, a process starts on its own.
    """

    PIPE, TimeoutExpired = subprocess.PIPE, subprocess.TimeoutExpired

    def __init__(self, home: Path) -> None:
        self._environment = sandbox._environment(str(home), 1)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self.forked = 0

    def Popen(self, command: list[str], *, stdin: IO[bytes], env: dict[str, str], cwd: str, **how: Any) -> Any:
        if _shared(env) != _shared(self._environment):
            return subprocess.Popen(command, stdin=stdin, env=env, cwd=cwd, **how)
        with self._lock:
            self._begin()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (out, said), (err, complained) = os.pipe(), os.pipe()
        asked = json.dumps([env, str(cwd)]).encode()
        socket.send_fds(self._control, [asked], [stdin.fileno(), said, complained, theirs.fileno()])
        theirs.close()
        for descriptor in (said, complained):
            os.close(descriptor)
        ours.settimeout(sandbox.START_SECONDS)
        number, handles, *_ = socket.recv_fds(ours, 16, 1)
        process = _Sandbox(int(number), handles[0], ours, stdin)  # type: ignore[arg-type]  # nothing is written to it
        process.stdout, process.stderr = os.fdopen(out, "rb"), os.fdopen(err, "rb")
        self.forked += 1
        return process

    def _begin(self) -> None:
        if self._process is not None:
            return
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-X", "faulthandler", "-c", PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL, env=self._environment, pass_fds=[theirs.fileno()],
            )  # fmt: skip

    def close(self) -> None:
        if self._process is not None:
            self._control.close()
            self._process.wait(30)


def _shared(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in OWN}
