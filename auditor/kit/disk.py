"""Errors of a full disk, recognized in their many forms, and other temporary faults of a file system."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from auditor.kit.errors import AuditorError, DiskFullError, OutageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PASSING = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH)
"""What a network file system answers while its server is away."""
_SAID = re.compile(
    r"no space left on device|disk quota exceeded|database or disk is full|(?<!\d)\d+ requested and \d+ written"
    r"|could not extend file|inline_container\.cc.*(unexpected pos|file write failed)|PytorchStreamWriter failed writing",
    re.IGNORECASE | re.DOTALL,
)
"""safetensors (a Rust error without a number), SQLite, NumPy (an OSError without a number), PostgreSQL, torch.save."""

_TIGHT = 1 << 20
"""Bytes: a disk with less left is full, for a file that did not fit."""


class Room(NamedTuple):
    """What is left on the disk of a folder: bytes that we may use, and whether another file may be made there."""

    free: int
    files: bool


def room(folder: Path) -> Room:
    """The room on the disk of ``folder``, or of the nearest folder above that exists. Raises OSError."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    found = os.statvfs(folder)
    return Room(found.f_bavail * found.f_frsize, found.f_files == 0 or found.f_favail > 0)


def is_full(error: BaseException) -> bool:
    """Does this error, or one that it came from, say that a disk is full or a quota used up?"""
    return any(
        (isinstance(one, OSError) and one.errno in _FULL)
        or (not isinstance(one, AuditorError) and bool(_SAID.search(str(one))))  # ours may quote what users typed
        for one in _chain(error)
    )


def outage(error: BaseException, folder: Path | None = None) -> OutageError | None:
    """An error that says what is wrong if the same may work later: a full disk, a file system that does not answer.
    None for any other.

    ``folder``: what is written to, where the error does not name a file.
    """
    for one in _chain(error):
        if isinstance(one, OutageError):
            return one
    if is_full(error):
        return disk_full(_place(error, folder))
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _PASSING:
            where = f" of {one.filename}" if one.filename else ""
            return OutageError(
                f"The file system{where} does not answer ({one.strerror}).", "Check that it is mounted and works."
            )
    return None


def disk_full(folder: Path) -> DiskFullError:
    """The refusal for a disk that is full, on which ``folder`` lies."""
    hint = "Free some space there, or move the data to a larger disk (AUDITOR_HOME), and try again."
    left = ""
    with suppress(OSError):
        free, files = room(folder)
        left = f" ({free / 1e6:.1f} MB left, too little)" if files else " (it accepts no new files)"
    return DiskFullError(f"The disk of {folder} is full{left}.", hint)


@contextmanager
def outages_named(folder: Path | None = None) -> Iterator[None]:
    """Errors of a full disk, or of a file system that is away, become an OutageError that says so."""
    try:
        yield
    except OutageError:
        raise
    except Exception as error:
        if (named := outage(error, folder)) is None:
            raise
        raise named from error


def _place(error: BaseException, folder: Path | None) -> Path:
    """The folder whose disk is full: of those that the error names or we know of, the one with the least room."""
    known = [
        Path(os.fsdecode(file)).parent
        for one in _chain(error)
        if isinstance(one, OSError)
        for file in (one.filename2, one.filename)
        if isinstance(file, str | bytes)
    ]
    known += [folder] if folder is not None else []
    temporary = Path(tempfile.gettempdir())

    def left(place: Path) -> int:
        try:
            free, files = room(place)
        except OSError:
            return 1 << 62
        return free if files else 0

    tightest = min([*known, temporary], key=left)
    # Where all of them have room it is a quota, or space that was freed meanwhile.
    return tightest if left(tightest) < _TIGHT or not known else known[0]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
