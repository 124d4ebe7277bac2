"""Files: what an upload holds, each by its path, whether it came as a zip, as a tar, or as one bare file."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from auditor.data.intake import archive
from auditor.kit.errors import IntakeError
from auditor.kit.limits import MIB, Limits
from auditor.kit.wording import AGAIN, shown, size_text

_MAX_TAR_HEADER = MIB
"""Bytes of a long name or of a pax header: tarfile reads it whole, whatever size it states; an honest one has a kilobyte."""

Read = Callable[[int], bytes]
"""Reads up to so many bytes, b"" at the end."""


class Entry(NamedTuple):
    """A file of an upload: its path, its size in bytes, and where it lies. ``link``: a link or a device, which is never read."""

    path: str
    size: int
    member: zipfile.ZipInfo | None = None
    offset: int = 0
    link: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the path."""
        return tuple(self.path.split("/"))


class Files(ABC):
    """The files of one upload, in the order in which they lie there; ``folders`` are those that it names by themselves."""

    def __init__(self, name: str, entries: list[Entry], folders: list[str], limits: Limits) -> None:
        self.name, self.entries, self.folders, self.limits = name, entries, folders, limits
        self.excluded: frozenset[str] = frozenset()

    @abstractmethod
    @contextmanager
    def stream(self, entry: Entry) -> Iterator[Read]:
        """A function that reads the file from its start. Raises IntakeError where it is damaged."""

    def read(self, entry: Entry, limit: int) -> bytes:
        """All of a file. Raises IntakeError over ``limit`` bytes, or where it is damaged."""
        if entry.size > limit:
            raise IntakeError(
                f"{shown(entry.path)} in {shown(self.name)} has {size_text(entry.size)}, "
                f"the limit for it is {size_text(limit)}."
            )
        with self.stream(entry) as read:
            parts = []
            while part := read(MIB):
                parts.append(part)
        return b"".join(parts)

    @contextmanager
    def seekable(self, entry: Entry) -> Iterator[BinaryIO]:
        """A file that can be read anywhere: a copy in a temporary file that has no name."""
        with tempfile.TemporaryFile() as copy:
            with self.stream(entry) as read:
                while part := read(MIB):
                    copy.write(part)
            copy.seek(0)
            yield copy

    @contextmanager
    def copied(self, entry: Entry) -> Iterator[Path]:
        """The path of a copy, which is gone at the end. A file and no folder: the sandbox lets nobody make one."""
        with tempfile.NamedTemporaryFile() as copy:
            with self.stream(entry) as read:
                while part := read(MIB):
                    copy.write(part)
            copy.flush()
            yield Path(copy.name)

    def _check(self, entry: Entry) -> None:
        """Refuse to read a link or a device. Raises IntakeError."""
        if entry.link:
            raise archive.link_fault(entry.path, self.name)

    def exclude(self, paths: Collection[str]) -> None:
        """Forget these files, but for their paths (``excluded``), which a list may name."""
        self.excluded |= frozenset(paths)
        self.entries = [entry for entry in self.entries if entry.path not in self.excluded]

    def under(self, path: str) -> Files:
        """The files below a folder, called by the rest of their paths."""
        return _Below(self, path.strip("/") + "/") if path.strip("/") else self


class _Below(Files):
    def __init__(self, whole: Files, prefix: str) -> None:
        entries = [entry for entry in whole.entries if entry.path.startswith(prefix)]
        super().__init__(
            whole.name,
            [entry._replace(path=entry.path[len(prefix) :]) for entry in entries],
            [folder[len(prefix) :] for folder in whole.folders if folder.startswith(prefix) and folder != prefix],
            whole.limits,
        )
        self.excluded = frozenset(path[len(prefix) :] for path in whole.excluded if path.startswith(prefix))
        self._whole = whole
        self._original = {entry.path[len(prefix) :]: entry for entry in entries}

    @contextmanager
    def stream(self, entry: Entry) -> Iterator[Read]:
        with self._whole.stream(self._original[entry.path]) as read:
            yield read

    @contextmanager
    def seekable(self, entry: Entry) -> Iterator[BinaryIO]:
        with self._whole.seekable(self._original[entry.path]) as file:
            yield file


class ZippedFiles(Files):
    """The files of a zip archive that passed ``archive.opened``."""

    def __init__(self, file: zipfile.ZipFile, name: str, limits: Limits) -> None:
        members = file.infolist()
        super().__init__(
            name,
            [
                Entry(member.orig_filename, member.file_size, member, link=archive.is_link(member))
                for member in members
                if not member.orig_filename.endswith("/")
            ],
            [member.orig_filename for member in members if member.orig_filename.endswith("/")],
            limits,
        )
        self._file = file

    @contextmanager
    def stream(self, entry: Entry) -> Iterator[Read]:
        assert entry.member is not None
        self._check(entry)
        with archive.member_stream(self._file, entry.member, self.name) as read:
            yield read


class _Source(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...


class _Ranged(Files):
    """Files that are ranges of one open file."""

    def __init__(self, file: _Source, name: str, entries: list[Entry], folders: list[str], limits: Limits) -> None:
        super().__init__(name, entries, folders, limits)
        self._file = file

    @contextmanager
    def stream(self, entry: Entry) -> Iterator[Read]:
        self._check(entry)
        at = entry.offset

        def read(size: int) -> bytes:
            nonlocal at
            self._file.seek(at)
            data = self._file.read(min(size, entry.offset + entry.size - at))
            if not data and size and at < entry.offset + entry.size:
                raise archive.damaged(self.name, f"the entry {shown(entry.path)} ends early")
            at += len(data)
            return data

        yield read

    @contextmanager
    def seekable(self, entry: Entry) -> Iterator[BinaryIO]:
        self._check(entry)
        yield io.BufferedReader(_Part(self._file, entry.offset, entry.size))


class _Part(io.RawIOBase):
    """A range of a file, as a file."""

    def __init__(self, file: _Source, offset: int, size: int) -> None:
        self._source, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._size - self._at))
        self._source.seek(self._offset + self._at)
        data = self._source.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@contextmanager
def one_file(source: Path, name: str, limits: Limits) -> Iterator[Files]:
    """An upload that is one file by itself."""
    with source.open("rb") as file:
        yield _Ranged(file, name, [Entry(name, source.stat().st_size)], [], limits)


@contextmanager
def zipped(source: Path, name: str, limits: Limits) -> Iterator[Files]:
    """The files of a zip archive. Raises IntakeError."""
    with archive.opened(source, name, limits, any_name=True) as file:
        yield ZippedFiles(file, name, limits)


@contextmanager
def tarred(source: Path, name: str, limits: Limits, *, compressed: bool) -> Iterator[Files]:
    """The files of a tar archive, plain or behind gzip. Nothing is unpacked by name.

    Links and devices are entries that cannot be read. Raises IntakeError: names that leave the archive, duplicates, too many
    entries, an expansion over the limits, damage.
    """
    with ExitStack() as stack:
        file: BinaryIO = stack.enter_context(source.open("rb"))
        if compressed:
            file = stack.enter_context(_expanded(file, source.stat().st_size, name, limits))
        yield tarred_stream(file, name, limits)


def tarred_stream(file: BinaryIO, name: str, limits: Limits) -> Files:
    """The files of an open, plain tar archive. Raises IntakeError, as ``tarred``."""
    entries, folders = _members(file, name, limits)
    return _Ranged(file, name, entries, folders, limits)


@contextmanager
def _expanded(file: BinaryIO, size: int, name: str, limits: Limits) -> Iterator[BinaryIO]:
    """What gzip compressed, in a temporary file that has no name: a tar archive is read at any place."""
    with tempfile.TemporaryFile() as copy:
        for part in gunzipped(gzip.GzipFile(fileobj=file).read, size, name, limits):
            copy.write(part)
        copy.seek(0)
        yield copy


def gunzipped(read: Read, size: int, name: str, limits: Limits) -> Iterator[bytes]:
    """The pieces that ``read`` yields from ``size`` compressed bytes. Raises IntakeError over the limits, or for damage."""
    expanded = 0
    while True:
        try:
            part = read(MIB)
        except Exception:  # of untrusted bytes: EOFError, zlib.error, BadGzipFile
            raise archive.damaged(name, "its gzip stream cannot be read to the end") from None
        if not part:
            return
        expanded += len(part)
        if expanded > limits.expanded_bytes:
            raise IntakeError(f"{shown(name)} expands to more than the limit of {size_text(limits.expanded_bytes)}.")
        if expanded > limits.ratio_from_bytes and expanded > limits.ratio * size:
            raise IntakeError(
                f"{shown(name)} expands from {size_text(size)} to more than {size_text(expanded)}, over the limit of "
                f"{limits.ratio}:1.",
                "If the data is honest, store it uncompressed.",
            )
        yield part


class _Guarded:
    """A tar file to tarfile, which reads headers of any length whole: a header longer than an honest one ends the reading."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_TAR_HEADER:
            raise tarfile.ReadError("a header of no honest length")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _members(file: BinaryIO, name: str, limits: Limits) -> tuple[list[Entry], list[str]]:
    entries: list[Entry] = []
    folders: list[str] = []
    seen: set[str] = set()
    total = 0
    try:
        with tarfile.open(fileobj=_Guarded(file), mode="r:", errorlevel=2) as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                tar.members.clear()  # it would keep all of them
                path = member.name[2:] if member.name.startswith("./") else member.name
                if path in ("", "."):
                    continue
                archive.check_inside(path, name)
                if member.isdir():
                    folders.append(path.rstrip("/") + "/")
                    continue
                if path in seen:
                    raise IntakeError(f"The entry {shown(path)} appears twice in {shown(name)}.")
                seen.add(path)
                link = not member.isreg() or member.issparse()
                total += 0 if link else member.size
                if total > limits.expanded_bytes:
                    raise IntakeError(f"{shown(name)} holds more than the limit of {size_text(limits.expanded_bytes)}.")
                entries.append(
                    Entry(path, 0 if link else member.size, offset=0 if link else member.offset_data, link=link)
                )
                if len(entries) > limits.members:
                    raise IntakeError(f"{shown(name)} has more than {limits.members:,} entries, which is the limit.")
    except IntakeError:
        raise
    except Exception:  # the loader of untrusted bytes may raise anything; all of it means the same
        raise archive.damaged(name, "its entries cannot be read as a tar archive to the end") from None
    end = file.seek(0, io.SEEK_END)
    if max((entry.offset + entry.size for entry in entries), default=0) > end:
        raise IntakeError(f"The archive {shown(name)} is damaged: its last entry ends early.", AGAIN)
    return entries, folders
