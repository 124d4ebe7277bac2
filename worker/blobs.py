"""Files named by their content: written whole or not at all, checked when they are read, swept when nothing names them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path

from auditor.kit.disk import outages_named
from auditor.kit.errors import NotFoundError, ServiceError
from auditor.kit.scratch import remove_stale as sweep_scratch
from auditor.kit.scratch import scratch
from worker.private import FILE, private_folder

KEEP_SECONDS = 86_400
"""Age at which an unreferenced blob or a temporary file is swept: longer than any row is behind its blob."""


class BlobStore:
    """A folder of files, each named by the SHA-256 of its content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty folder on the same file system, for files in the making; gone at the end, whatever happens.

        A disk that gets full meanwhile is an OutageError that names it.
        """
        with outages_named(self.folder), ExitStack() as stack:
            with self._usable():
                private_folder(self.folder)
                folder = stack.enter_context(scratch("staging", private_folder(self.folder / "staging")))
            yield folder

    def put(self, content: bytes) -> str:
        """Keep these bytes; returns their SHA-256. Raises OutageError when the disk is full."""
        with self.staging() as folder:
            file = folder / "content"
            file.write_bytes(content)
            return self.take(file)

    def take(self, file: Path) -> str:
        """Keep a file of the staging folder (it is moved); returns its SHA-256. Raises OutageError when the disk is full."""
        sha256 = hash_file(file)
        target = self._path(sha256)
        with outages_named(self.folder), self._usable():
            private_folder(target.parent)
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
            file.chmod(FILE)
            file.replace(target)
            _sync_folder(target.parent)
        return sha256

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise ServiceError(
                f"The folder of stored files, {self.folder}, cannot be written to ({error.strerror}).",
                "Make it writable for the user that runs the worker and the dashboard.",
            ) from error

    def path(self, sha256: str, *, verify: bool = True) -> Path:
        """Where a blob lies. Raises NotFoundError when it is missing, ServiceError when its content is damaged."""
        path = self._path(sha256)
        if not path.is_file():
            raise NotFoundError(f"The stored file {sha256} is missing.", "Add it again, or restore the blobs folder.")
        if verify and hash_file(path) != sha256:
            raise ServiceError(f"The stored file {sha256} is damaged.", "Add it again, or restore the blobs folder.")
        return path

    def sweep(self, referenced: Set[str], *, older_than: float = KEEP_SECONDS) -> list[str]:
        """Delete what no row names and what was left half-written, once it is old enough; returns what went."""
        limit = time.time() - older_than
        gone = []
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                if path.name not in referenced and path.stat().st_mtime < limit:
                    path.unlink()
                    gone.append(path.name)
        gone += [path.name for path in sweep_scratch(self.folder / "staging")]
        for path in (self.folder / "staging").glob("*"):  # of processes of another machine, or of an earlier version
            with contextlib.suppress(FileNotFoundError):
                if (
                    max(file.stat().st_mtime for file in (path, *path.rglob("*"))) < limit
                ):  # a long job writes into its own
                    shutil.rmtree(path, ignore_errors=True)
                    gone.append(path.name)
        return gone

    def _path(self, sha256: str) -> Path:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise NotFoundError("That is not the name of a stored file.")
        return self.folder / sha256[:2] / sha256


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
