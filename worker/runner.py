"""One job in one process: ``python -m worker.runner JOB FENCE``. It dies with its supervisor."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import sys
import threading

from worker.private import private_umask

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15

EXIT_OUTAGE = 75
"""The exit code of a runner that could not say how its attempt ended, since the database did not answer (EX_TEMPFAIL)."""


def main() -> int:
    """Run the job named on the command line."""
    die_with_parent()
    return run(sys.argv[1], int(sys.argv[2]))


def run(job_id: str, fence: int) -> int:
    """Run a claimed job in this process, which ends with what this returns: 0 when the job's row says how it ended."""
    private_umask()
    name_process(f"job {job_id[:8]}")
    from auditor.kit.errors import OutageError
    from worker.attempt import attempt

    try:
        attempt(job_id, fence)
    except OutageError as error:
        print(error, file=sys.stderr)
        return EXIT_OUTAGE
    return 0


def die_with_parent() -> None:
    """Two ways, since each alone has a hole: the kernel's signal, and the end of the pipe that is our standard input."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch_stdin, daemon=True).start()


def die_with_input() -> None:
    """The same for a process whose parent is not the one that holds the other end of its standard input."""
    killed_with_input()
    threading.Thread(target=_watch_stdin, daemon=True).start()


def killed_with_input() -> None:
    """The kernel kills this process when the pipe that is its standard input ends, whatever it does then. Linux only."""
    if sys.platform == "linux":
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
        if select.select([0], [], [], 0)[0]:  # nobody writes to it: it has ended before
            os._exit(1)


def name_process(name: str) -> None:
    """What ``ps`` and ``top`` call this process: at most 15 characters. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode()[:15])


def _watch_stdin() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
