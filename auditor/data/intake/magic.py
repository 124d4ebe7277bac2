"""What a file is by its first bytes, in words; a suffix proves nothing."""

from __future__ import annotations

from pathlib import Path

from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import shown, size_text

HEAD_BYTES = 1024
"""Bytes that are looked at: a tar header is 512 bytes long, every other magic lies within the first 16."""

ZIP = b"PK\x03\x04"
EMPTY_ZIP = b"PK\x05\x06"
NUMPY = b"\x93NUMPY"
PARQUET = b"PAR1"
ARROW = b"\xff\xff\xff\xff"
"""A message of an Arrow stream; its length follows, whose upper bytes are zero."""

_KINDS: tuple[tuple[bytes, str], ...] = (
    (ZIP, "a zip archive"),
    (EMPTY_ZIP, "an empty zip archive"),
    (b"PK\x07\x08", "a part of a split zip archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a RIFF file (WebP, WAV or AVI)"),
    (b"BM", "a BMP image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (NUMPY, "a single NumPy array (.npy)"),
    (b"\x89HDF", "an HDF5 file (Keras, MATLAB)"),
    (PARQUET, "a Parquet file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"SQLite format", "an SQLite database"),
    (b"version https://git-lfs", "a Git LFS pointer (the file itself was not fetched)"),
)
_PICKLE_PROTOCOLS = range(2, 6)
_TAR_CHECKSUM = slice(148, 156)


def kind_of(head: bytes) -> str:
    """What a file with these first bytes is, with its article: ``a PNG image``, ``a text``, ``an unknown format``."""
    if not head:
        return "an empty file"
    # First, since the length with which a safetensors file starts may read "BM" or "MZ".
    if is_safetensors(head):
        return "a safetensors file"
    for magic, name in _KINDS:
        if head.startswith(magic):
            return name
    if head.startswith(ARROW) and head[7:8] == b"\x00":
        return "an Arrow stream"
    if is_tar(head):
        return "a tar archive"
    if is_pickle(head):
        return "a Python pickle"
    if head[:1] == b"P" and head[1:2].isdigit() and head[2:3].isspace():
        return "a PBM, PGM or PPM image"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head")):
        return "a web page (HTML, XML or SVG)"
    if head and not head.strip(b"\x00"):
        return "a block of zeros"
    if head and b"\x00" not in head and sum(byte < 9 or 13 < byte < 32 for byte in head) == 0:
        return "a text"
    return "of an unknown format"


def is_tar(head: bytes) -> bool:
    """Whether the first 512 bytes are a tar header: the sum of the bytes is written in them, in octal."""
    if len(head) < 512:
        return False
    block = head[:512]
    try:
        stated = int(block[_TAR_CHECKSUM].strip(b"\x00 "), 8)
    except ValueError:
        return False
    # The checksum counts its own field as spaces.
    return stated == sum(block) - sum(block[_TAR_CHECKSUM]) + 8 * ord(" ")


def is_pickle(head: bytes) -> bool:
    """Whether the file starts as a pickle of protocol 2 or later."""
    return len(head) > 2 and head[0] == 0x80 and head[1] in _PICKLE_PROTOCOLS


def is_safetensors(head: bytes) -> bool:
    """Whether a JSON object follows an 8-byte length; a length has a zero byte, a text has none."""
    return head[8:9] == b"{" and 0 in head[:8]


def read_head(source: Path, name: str, limits: Limits) -> bytes:
    """The first bytes of an upload. Raises IntakeError when it is empty or over the limit."""
    size = source.stat().st_size
    if size == 0:
        raise IntakeError(f"{shown(name)} is empty.", "Upload it again.")
    if size > limits.upload_bytes:
        raise IntakeError(
            f"{shown(name)} has {size_text(size)}, the limit is {size_text(limits.upload_bytes)}.",
            "Upload a smaller file, or let the administrator raise the limit.",
        )
    with source.open("rb") as file:
        return file.read(HEAD_BYTES)
