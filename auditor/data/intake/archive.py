"""The walls around a zip archive: its directory is judged before one byte is expanded; nothing is written by name."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from auditor.kit.errors import IntakeError
from auditor.kit.limits import MIB, Limits
from auditor.kit.wording import AGAIN, printable, shown, size_text

_END = b"PK\x05\x06"
_END_BYTES = 22
_END64 = b"PK\x06\x06"
_LOCATOR64 = b"PK\x06\x07"
_LOCATOR64_BYTES = 20
_END64_BYTES = 56 + _LOCATOR64_BYTES
"""The zip64 end record and its locator stand just before the end record; zipfile looks for them there, too."""

_ENTRY = b"PK\x01\x02"
_ENTRY_BYTES = 46
_COMMENT_BYTES = 65_535
_LOCAL = b"PK\x03\x04"
_LOCAL_HEADER_BYTES = 30
_DIRECTORY_BYTES_PER_MEMBER = 256
"""An entry of the directory takes 46 bytes, its name and its extra fields; ImageNet's take 110."""
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800
_UNIX = 3
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""bzip2 and lzma may ask for a dictionary of 4 GiB before they yield a byte."""


def damaged(name: str, what: str) -> IntakeError:
    """The refusal of an archive that cannot be read; ``what`` says which part."""
    return IntakeError(f"The archive {shown(name)} is damaged: {what}.", AGAIN)


@contextmanager
def opened(source: Path, name: str, limits: Limits, *, any_name: bool = False) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose directory passed every wall. ``name`` is what errors call it. ``any_name``: the caller asks for the
    ``name_fault`` of entries that it reads, and reads none that ``is_link``.

    Raises IntakeError: too many or encrypted entries, links, names that leave the archive or cannot be shown,
    duplicates, overlaps, an expansion over the limits, a directory that cannot be read.
    """
    count = _count_entries(source, name, limits)
    try:
        archive = zipfile.ZipFile(source)
    except Exception:  # the loader of untrusted bytes may raise anything; all of it means the same
        raise damaged(name, "its directory cannot be read") from None
    with archive:
        if len(archive.infolist()) != count:
            raise damaged(name, "its directory can be read in two ways")
        _check_entries(archive, name, limits, any_name)
        yield archive


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, limit: int) -> bytes:
    """All of one member, at most ``limit`` bytes, its checksum verified. Raises IntakeError."""
    if member.file_size > limit:
        raise IntakeError(
            f"{shown(member.orig_filename)} in {shown(name)} has {size_text(member.file_size)}, "
            f"the limit for it is {size_text(limit)}."
        )
    with member_stream(archive, member, name) as read:
        parts = []
        while part := read(MIB):
            parts.append(part)
    return b"".join(parts)


@contextmanager
def member_stream(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Iterator[Callable[[int], bytes]]:
    """A function that reads up to so many bytes of one member, b"" at its end; the checksum is verified there.

    Never yields more than the size that the directory states. Raises IntakeError when the member is damaged.
    """

    def failed(error: Exception) -> IntakeError:
        return damaged(name, f"the entry {shown(member.orig_filename)} cannot be read ({_reason(error)})")

    try:
        file = archive.open(member)
    except Exception as error:
        raise failed(error) from None
    left = member.file_size

    def read(size: int) -> bytes:
        nonlocal left
        try:
            data = file.read(size)
        except Exception as error:
            raise failed(error) from None
        left -= len(data)
        if not data and size and left:
            raise damaged(name, f"the entry {shown(member.orig_filename)} ends {left:,} bytes early")
        return data

    with file:
        yield read


def data_offset(archive: zipfile.ZipFile, raw: BinaryIO, member: zipfile.ZipInfo, name: str) -> int:
    """Where the bytes of a stored member begin in the file ``raw``: behind its local header, before the directory."""
    raw.seek(member.header_offset)
    header = raw.read(_LOCAL_HEADER_BYTES)
    length, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    start = member.header_offset + _LOCAL_HEADER_BYTES + length + extra
    encoding = "utf-8" if member.flag_bits & _UTF8 else "cp437"
    same = raw.read(length) == member.orig_filename.encode(encoding, "replace")
    if not header.startswith(_LOCAL) or not same or start + member.compress_size > archive.start_dir:
        raise damaged(name, f"the entry {shown(member.orig_filename)} is not where the directory says")
    return start


def verify_checksums(archive: zipfile.ZipFile, raw: BinaryIO, name: str) -> None:
    """Read every member, all of them stored as they are, from the file ``raw``, so a changed byte is found. Raises IntakeError.

    ``member_stream`` would find the same; this goes without its copies.
    """
    buffer = memoryview(bytearray(MIB))
    for member in archive.infolist():
        if member.is_dir():
            continue
        raw.seek(data_offset(archive, raw, member, name))
        left, checksum = member.file_size, 0
        while left:
            count = raw.readinto(buffer[: min(left, MIB)])  # type: ignore[attr-defined]
            if not count:
                raise damaged(name, f"the entry {shown(member.orig_filename)} ends {left:,} bytes early")
            checksum = zlib.crc32(buffer[:count], checksum)
            left -= count
        if checksum != member.CRC:
            raise damaged(name, f"the entry {shown(member.orig_filename)} cannot be read (wrong checksum)")


def _reason(error: Exception) -> str:
    return "wrong checksum" if "CRC" in str(error) else "not as the directory describes it"


def _count_entries(source: Path, name: str, limits: Limits) -> int:
    """Count the entries before zipfile makes an object of each, ten times as large; the stated count may lie."""
    size = source.stat().st_size
    with source.open("rb") as file:
        start = max(0, size - _END_BYTES - _COMMENT_BYTES - _END64_BYTES)
        file.seek(start)
        tail = file.read()
        end = tail.rfind(_END)
        if end < 0 or len(tail) - end < _END_BYTES:
            raise damaged(name, "it ends early, without the directory that a zip archive has at its end")
        length = int.from_bytes(tail[end + 12 : end + 16], "little")
        end64 = end - _END64_BYTES
        if end64 >= 0 and tail.startswith(_END64, end64) and tail.startswith(_LOCATOR64, end - _LOCATOR64_BYTES):
            end, length = end64, int.from_bytes(tail[end64 + 40 : end64 + 48], "little")
        if length > start + end:
            raise damaged(name, "its directory is longer than the file")
        if length > limits.members * _DIRECTORY_BYTES_PER_MEMBER:
            raise IntakeError(
                f"The directory of {shown(name)} has {size_text(length)}; {limits.members:,} entries, which is the "
                f"limit, need at most {size_text(limits.members * _DIRECTORY_BYTES_PER_MEMBER)}."
            )
        file.seek(start + end - length)
        count = 0
        while length > 0:
            entry = file.read(_ENTRY_BYTES)
            if not entry.startswith(_ENTRY) or len(entry) < _ENTRY_BYTES:
                raise damaged(name, "its directory cannot be read")
            rest = sum(int.from_bytes(entry[at : at + 2], "little") for at in (28, 30, 32))
            file.seek(rest, os.SEEK_CUR)
            length -= _ENTRY_BYTES + rest
            count += 1
            if count > limits.members:
                raise IntakeError(f"{shown(name)} has more than {limits.members:,} entries, which is the limit.")
    return count


def _check_entries(archive: zipfile.ZipFile, name: str, limits: Limits, any_name: bool) -> None:
    members = archive.infolist()
    seen: set[str] = set()
    expanded = 0
    for member in members:
        check_inside(member.orig_filename, name)
        fault = None if any_name else name_fault(member.orig_filename, limits)
        if fault is not None:
            raise fault
        if member.orig_filename in seen:
            raise IntakeError(f"The entry {shown(member.orig_filename)} appears twice in {shown(name)}.")
        seen.add(member.orig_filename)
        if is_link(member) and not any_name:
            raise link_fault(member.orig_filename, name)
        _check_kind(member, name)
        _check_ratio(member, name, limits)
        expanded += member.file_size
    if expanded > limits.expanded_bytes:
        raise IntakeError(
            f"{shown(name)} expands to {size_text(expanded)}, more than the limit of {size_text(limits.expanded_bytes)}."
        )
    _check_overlap(archive, members, name)


def name_fault(entry: str, limits: Limits) -> IntakeError | None:
    """Why an entry's name cannot be shown or kept, or None."""
    if len(entry) > limits.name_length:
        return IntakeError(
            f"The entry {shown(entry)} has an unsupported name: {len(entry):,} characters, "
            f"the limit is {limits.name_length}.",
            "Rename it and make the archive again.",
        )
    if not entry or "\\" in entry or not entry.isprintable():
        return IntakeError(
            f"The entry '{printable(entry.replace(chr(92), chr(92) * 2))}' has an unsupported name: "
            "back-slashes, control and invisible characters are not allowed.",
            "Rename it and make the archive again.",
        )
    parts = entry.split("/")
    if "" in parts[:-1] or "." in parts:
        return IntakeError(
            f"The entry {shown(entry)} has an unsupported name: a part of its path is empty or '.'.",
            "Rename it and make the archive again.",
        )
    return None


def is_link(member: zipfile.ZipInfo) -> bool:
    """Whether an entry is a link or a device: it is neither followed nor read."""
    kind = stat.S_IFMT(member.external_attr >> 16) if member.create_system == _UNIX else 0
    return kind not in (0, stat.S_IFREG, stat.S_IFDIR)


def link_fault(entry: str, name: str) -> IntakeError:
    """The refusal of an entry that is a link or a device."""
    return IntakeError(
        f"The entry {shown(entry)} of {shown(name)} is a link or a device; links are not allowed.",
        "Put the file itself into the archive.",
    )


def check_inside(entry: str, name: str) -> None:
    """Refuse the name of an entry that leads out of the archive. Raises IntakeError."""
    if entry.startswith("/") or ".." in entry.split("/") or entry[1:2] == ":":
        raise IntakeError(
            f"The entry {shown(entry)} leaves the archive {shown(name)}.",
            "Names must be relative, without '..' and without a drive.",
        )


def _check_kind(member: zipfile.ZipInfo, name: str) -> None:
    entry = shown(member.orig_filename)
    if member.flag_bits & _ENCRYPTED:
        raise IntakeError(
            f"The archive {shown(name)} is password protected (entry {entry}).", "Make it again without a password."
        )
    if member.compress_type not in _METHODS:
        raise IntakeError(
            f"The entry {entry} of {shown(name)} is compressed by method {member.compress_type}; "
            "expected stored or deflated.",
            "Make the archive again with ordinary zip compression.",
        )


def _check_ratio(member: zipfile.ZipInfo, name: str, limits: Limits) -> None:
    if member.file_size > limits.ratio_from_bytes and member.file_size > limits.ratio * max(1, member.compress_size):
        raise IntakeError(
            f"The entry {shown(member.orig_filename)} of {shown(name)} expands from {size_text(member.compress_size)} "
            f"to {size_text(member.file_size)}, more than the limit of {limits.ratio}:1.",
            "If the data is honest, store it uncompressed.",
        )


def _check_overlap(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], name: str) -> None:
    """Entries that share bytes make a bomb of any ratio. zipfile looks for them only since Python 3.11.8."""
    end, before = 0, None
    for member in sorted(members, key=lambda item: item.header_offset):
        if before is not None and member.header_offset < end:
            raise damaged(name, f"the entries {shown(before)} and {shown(member.orig_filename)} overlap")
        before = member.orig_filename
        end = member.header_offset + _LOCAL_HEADER_BYTES + len(member.orig_filename) + member.compress_size
    if before is not None and end > archive.start_dir:
        raise damaged(name, f"the entry {shown(before)} reaches into the directory")
