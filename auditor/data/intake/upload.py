"""Upload: bytes from a stream to a temporary file, hashed on the way; and how a finished file takes its place."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from auditor.kit.errors import IntakeError
from auditor.kit.limits import MIB
from auditor.kit.wording import size_text

_CHUNK_BYTES = MIB
"""Bytes in memory at a time, however large the file is."""


class Upload(NamedTuple):
    """A received file: where it lies, its size in bytes, and the hex SHA-256 of its content."""

    path: Path
    size: int
    sha256: str


def take_upload(stream: BinaryIO, directory: Path, *, limit: int) -> Upload:
    """Copy a stream to a new temporary file in ``directory``, hashing it; ``limit`` is in bytes.

    The file is on disk (fsync) when this returns, and gone when it raises. Raises IntakeError over the limit.
    """
    descriptor, name = tempfile.mkstemp(prefix=".upload-", dir=directory)
    path = Path(name)
    digest = hashlib.sha256()
    size = 0
    try:
        with os.fdopen(descriptor, "wb") as file:
            while chunk := stream.read(_CHUNK_BYTES):
                size += len(chunk)
                if size > limit:
                    raise IntakeError(
                        f"The upload has more than {size_text(limit)}, which is the limit.",
                        "Upload a smaller file, or let the administrator raise the limit.",
                    )
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(directory)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Upload(path, size, digest.hexdigest())


def sha256_of(path: Path) -> str:
    """The hex SHA-256 of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(destination: Path) -> Iterator[Path]:
    """A temporary path beside ``destination``: on success it is synced and takes its place at once, else it is gone.

    A crash leaves the old file or the new one, never a part of one.
    """
    descriptor, name = tempfile.mkstemp(prefix=".intake-", suffix=".tmp", dir=destination.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(destination)
        _sync_folder(destination.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
