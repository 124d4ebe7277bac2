"""Processes that tests start end with the tests, also when pytest is killed."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_tests() -> None:
    """For ``preexec_fn``: the kernel kills the new process when the test's thread ends; its own children are its to end."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
