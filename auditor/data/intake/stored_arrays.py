"""StoredArray: an array of an upload by its header, NumPy's or MNIST's; headers are compared with the bytes that are there."""

from __future__ import annotations

import gzip
import io
import math
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.data.intake import archive
from auditor.data.intake.files import Entry, Files, Read
from auditor.data.intake.magic import NUMPY
from auditor.data.intake.survey import BATCH_BYTES
from auditor.kit.errors import IntakeError
from auditor.kit.limits import MIB, Limits
from auditor.kit.wording import printable, shown, size_text

RECIPE = "Save it with numpy: np.savez_compressed('data.npz', images=images, labels=labels)"

_KINDS = "biufcUSmM"
"""Kinds of arrays that are read or refused by their type: numbers, text, times; no structures, no raw bytes."""

_MOST_AXES, _MOST_SIDE = 32, 2**48
"""numpy's own limit of axes, and a side that no file can have."""

_MAX_HEADER = 10_000
"""Characters of an array's header: numpy's own limit, since the header is parsed as a Python literal."""

_MAX_COLUMNS_BYTES = 256 * MIB
"""Bytes of an array stored column by column (Fortran order): it is read whole, once as it lies and once as rows."""

_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""The types of MNIST's IDX files, by the third byte of the file."""


class StoredArray(NamedTuple):
    """An array as its header describes it; ``offset`` is where its values start in what ``opened`` reads."""

    key: str
    source: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    opened: Callable[[], AbstractContextManager[Read]]
    columns: bool = False

    def rows(self) -> Iterator[NDArray[Any]]:
        """The array in pieces of whole rows, so memory does not grow with its length."""
        row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        per_batch = max(1, BATCH_BYTES // row_bytes)
        if self.columns:
            whole = self.all(_MAX_COLUMNS_BYTES + self.offset)
            yield from (whole[start : start + per_batch] for start in range(0, self.shape[0], per_batch))
            return
        with self.opened() as read:
            read(self.offset)
            for start in range(0, self.shape[0], per_batch):
                count = min(per_batch, self.shape[0] - start)
                data = _exactly(read, count * row_bytes)
                if len(data) != count * row_bytes:
                    raise archive.damaged(self.source, f"the array {shown(self.key)} ends early")
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def all(self, limit: int) -> NDArray[Any]:
        """The whole array. Raises IntakeError where it takes more than ``limit`` bytes, its header included."""
        size = self.offset + math.prod(self.shape) * self.dtype.itemsize
        if size > limit:
            raise IntakeError(
                f"{shown(self.key + '.npy')} in {shown(self.source)} has {size_text(size)}, "
                f"the limit for it is {size_text(limit)}."
            )
        with self.opened() as read:
            data = _exactly(read, size)
            if len(data) != size:
                raise archive.damaged(self.source, f"the array {shown(self.key)} ends early")
            read(1)  # the checksum is looked at behind the last byte
        return np.ndarray(self.shape, self.dtype, data, self.offset, order="F" if self.columns else "C")


def _exactly(read: Read, size: int) -> bytes:
    """So many bytes, in as many reads as that takes; fewer at the end."""
    data = read(size)
    if len(data) == size or not data:
        return data
    parts, left = [data], size - len(data)
    while left and (data := read(left)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


def npy(files: Files, entry: Entry, key: str) -> StoredArray:
    """The array of an .npy file; it must be as long as the bytes that are there, before one is read. Raises IntakeError."""
    name = files.name
    with files.stream(entry) as read:
        start = read(8)
        width = {(1, 0): 2, (2, 0): 4}.get((start[6], start[7])) if len(start) == 8 else None
        if not start.startswith(NUMPY) or width is None:
            raise invalid(key, name, "it does not start as an array")
        length = read(width)
        header_bytes = int.from_bytes(length, "little")
        if header_bytes > _MAX_HEADER:
            raise invalid(key, name, f"its header has {header_bytes:,} bytes, the limit is {_MAX_HEADER:,}")
        text = read(header_bytes)
    parse = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, fortran_order, dtype = parse(io.BytesIO(length + text), max_header_size=_MAX_HEADER)
    except Exception:  # the header is a Python literal that anybody may have written
        raise invalid(key, name, "its header cannot be read") from None
    if dtype.hasobject:
        raise IntakeError(
            f"The array {shown(key)} of {shown(name)} contains Python objects; expected numbers or text.",
            "Labels and names: convert them, for example np.array(values, dtype='int64') or dtype=str. Images: bring "
            "them to one size and save np.stack(images).",
        )
    if dtype.names is not None or dtype.subdtype is not None or dtype.itemsize == 0 or dtype.kind not in _KINDS:
        raise invalid(key, name, f"it is not a plain array of numbers or text but of the type {str(dtype)[:40]}")
    # A header may say True, which is an int to Python and to numpy; a size has one type, and a few digits.
    if not all(type(side) is int and 0 <= side <= _MOST_SIDE for side in shape) or len(shape) > _MOST_AXES:
        raise invalid(key, name, f"it is not a plain array: its shape is {printable(repr(shape))}")
    offset = 8 + width + header_bytes
    declared = math.prod(shape) * dtype.itemsize
    if offset + declared != entry.size:
        raise invalid(key, name, f"its header declares {declared:,} bytes, the archive holds {entry.size - offset:,}")
    columns = fortran_order and len(shape) > 1
    if columns and declared > _MAX_COLUMNS_BYTES:
        raise IntakeError(
            f"The array {shown(key)} of {shown(name)} is stored column by column (Fortran order) and has "
            f"{size_text(declared)}; such an array is read whole, up to {size_text(_MAX_COLUMNS_BYTES)}.",
            "Save np.ascontiguousarray(array) instead.",
        )
    return StoredArray(key, name, dtype, shape, offset, lambda: files.stream(entry), columns)


def invalid(key: str, name: str, what: str) -> IntakeError:
    """The refusal of an .npy file; ``what`` says why."""
    return IntakeError(f"The array {shown(key)} of {shown(name)} is not a valid .npy: {what}.", RECIPE)


def is_idx(path: str) -> bool:
    """Whether a file is called as MNIST's are: ``train-images-idx3-ubyte``, ``t10k-labels.idx1-ubyte.gz``."""
    name = PurePosixPath(path).name.lower().removesuffix(".gz")
    return name.endswith(("-ubyte", ".ubyte", ".idx")) or "idx1" in name or "idx3" in name


def idx_key(path: str) -> str:
    """The name of an IDX file's array: ``train-images`` of ``train-images-idx3-ubyte.gz``."""
    stem = path[: -len(".gz")] if path.lower().endswith(".gz") else path
    for ending in ("-ubyte", ".ubyte", ".idx", "-idx1", "-idx3", ".idx1", ".idx3", "-idx4", ".idx4"):
        stem = stem[: -len(ending)] if stem.lower().endswith(ending) else stem
    return stem


def idx(files: Files, entry: Entry, key: str, limits: Limits) -> StoredArray:
    """The array of an IDX file as MNIST's, plain or behind gzip. Raises IntakeError."""
    compressed = entry.path.lower().endswith(".gz")

    @contextmanager
    def opened() -> Iterator[Read]:
        with files.stream(entry) as read:
            yield _unzipped(read, entry, files.name) if compressed else read

    with opened() as read:
        start = _exactly(read, 4)
        axes = start[3] if len(start) == 4 else 0
        kind = _IDX_TYPES.get(start[2]) if len(start) == 4 and start[:2] == b"\x00\x00" else None
        sides = _exactly(read, 4 * axes)
        if kind is None or not 1 <= axes <= 4 or len(sides) < 4 * axes:
            raise IntakeError(
                f"The file {shown(entry.path)} of {shown(files.name)} does not start as an IDX file of MNIST's form does.",
                "Take it out of the archive, or save images and labels with numpy: "
                "np.savez_compressed('data.npz', images=images, labels=labels)",
            )
    shape = tuple(int.from_bytes(sides[4 * axis : 4 * axis + 4], "big") for axis in range(axes))
    dtype, offset = np.dtype(kind), 4 + 4 * axes
    size = offset + math.prod(shape) * dtype.itemsize
    if compressed:
        if size > limits.expanded_bytes or (size > limits.ratio_from_bytes and size > limits.ratio * entry.size):
            raise IntakeError(
                f"The entry {shown(entry.path)} of {shown(files.name)} expands from {size_text(entry.size)} to "
                f"{size_text(size)}, more than the limit of {limits.ratio}:1 or {size_text(limits.expanded_bytes)}.",
                "If the data is honest, store it uncompressed.",
            )
    elif size != entry.size:
        raise archive.damaged(
            files.name,
            f"the header of {shown(entry.path)} declares {size:,} bytes, the file has {entry.size:,}",
        )
    return StoredArray(key, files.name, dtype, shape, offset, opened)


def _unzipped(read: Read, entry: Entry, name: str) -> Read:
    """What gzip compressed, read as it is asked for."""

    class Raw(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
            data = read(len(buffer))
            buffer[: len(data)] = data
            return len(data)

    file = gzip.GzipFile(fileobj=io.BufferedReader(Raw()))

    def expanded(size: int) -> bytes:
        try:
            return file.read(size)
        except (OSError, EOFError, zlib.error):
            raise archive.damaged(name, f"the gzip stream of {shown(entry.path)} cannot be read to the end") from None

    return expanded
