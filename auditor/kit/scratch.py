"""Scratch: temporary folders that carry their owner's name, so what a killed process left can be told and removed."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

PREFIX = "auditor"
_NAME = re.compile(rf"{PREFIX}-[a-z]+-(?P<boot>[0-9a-f]+)-(?P<space>\d+)-(?P<process>\d+)-(?P<start>\d+)-\w+")


@contextmanager
def scratch(purpose: str, parent: Path | None = None) -> Iterator[Path]:
    """An empty folder of ours, in ``parent`` or where the system keeps temporary files; gone at the end, whatever happens.

    ``purpose``: a word of small letters for its name. When the process is killed first, ``remove_stale`` removes it.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-{purpose}-{_owner()}-", dir=parent))
    try:
        yield folder
    finally:
        with suppress(OSError):
            _remove(folder)


def remove_stale(parent: Path | None = None) -> list[Path]:
    """Remove the scratch folders in ``parent`` whose processes are dead; returns them. Those of other users stay, and those
    of processes that cannot be seen from here: of another machine, or of another container.
    """
    gone = []
    for path in (parent or Path(tempfile.gettempdir())).glob(f"{PREFIX}-*"):
        with suppress(OSError):
            if _is_left(path, local=parent is None):
                _remove(path)
                gone.append(path)
    return gone


def _remove(folder: Path) -> None:
    """Also where a process in the sandbox left folders that are nested too deep for a recursion, or closed. Raises OSError."""
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.is_dir():
        return
    while inner := _folders_of(folder):  # they come up by one level, until there are none
        for path in inner:
            for further in _folders_of(path):
                further.chmod(0o700)  # to be moved, it must be writable
                further.rename(folder / uuid.uuid4().hex)
            path.rmdir()
    folder.rmdir()


def _folders_of(folder: Path) -> list[Path]:
    """The folders in a folder, which holds nothing else any more."""
    folder.chmod(0o700)
    for path in list(folder.iterdir()):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
    return list(folder.iterdir())


def _is_left(path: Path, *, local: bool) -> bool:
    """``local``: the folder is this machine's own, so what an earlier boot left has no owner any more."""
    match, status = _NAME.fullmatch(path.name), path.lstat()
    if match is None or path.is_symlink() or not path.is_dir() or status.st_uid != os.getuid():
        return False
    if match["boot"] != _boot():
        return local
    return match["space"] == _space() and _start(int(match["process"])) != match["start"]


def _owner() -> str:
    # Not cached: a forked child is another owner.
    return f"{_boot()}-{_space()}-{os.getpid()}-{_start(os.getpid())}"


@cache
def _boot() -> str:
    """The machine's present boot: numbers of processes mean nothing beyond it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "").strip()[:12]
    except OSError:
        return "0"


@cache
def _space() -> str:
    """The space in which processes are numbered: a container has its own."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "0"


def _start(process: int) -> str:
    """When a process began, in the kernel's clock ticks; "0" where that cannot be told, "" when there is none."""
    try:
        # The name of the program, in brackets, may hold anything; the 22nd field is the 20th after it.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "0"
