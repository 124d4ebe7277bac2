"""An .npz file to labelled images: headers are compared with the bytes that are there, pixels stream batch by batch."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.errors import IntakeError
from auditor.intake import archive
from auditor.intake.images import ImageSize, resize
from auditor.intake.labels import check_class_names, check_labels
from auditor.intake.limits import MIB, Limits
from auditor.intake.magic import NUMPY
from auditor.intake.pixelrange import PixelRange
from auditor.intake.survey import BATCH_BYTES, Pixels, Samples, check_size
from auditor.intake.wording import listed, shape_text, shown

PAIRS = (
    ("images", "labels"),
    ("image", "label"),
    ("x", "y"),
    ("data", "targets"),
    ("data", "labels"),
    ("images", "targets"),
    ("x_test", "y_test"),
    ("test_images", "test_labels"),
    ("x_train", "y_train"),
    ("train_images", "train_labels"),
)
"""Names under which the two arrays are looked for, in this order; the first is ours, the others are common."""

CLASS_NAMES = ("class_names", "classes", "label_names")

_CHANNELS = (1, 3)
_MAX_HEADER = 10_000
"""Characters of an array's header: numpy's own limit, since the header is parsed as a Python literal."""

_MAX_TEXT_BYTES = 64 * MIB
"""Bytes of the array of class names: 100,000 names of 160 characters, four bytes each."""

_MAX_LABEL_BYTES = 16
"""Bytes of one label: twice a 64-bit integer, so that a wrong type is named by its type and not by its size."""

_RECIPE = "Save it with numpy: np.savez_compressed('data.npz', images=images, labels=labels)"


class _Array(NamedTuple):
    """A member of the archive, as its header describes it; ``offset`` is where its values start."""

    key: str
    member: zipfile.ZipInfo
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int


class ArrayReader:
    """The arrays of one opened .npz archive; ``name`` is what errors call it."""

    def __init__(self, file: zipfile.ZipFile, name: str, limits: Limits) -> None:
        self._file, self._name, self._limits = file, name, limits
        self._members = {
            member.orig_filename.removesuffix(".npy"): member
            for member in file.infolist()
            if member.orig_filename.endswith(".npy")
        }

    def samples(self, size: ImageSize | None) -> Samples:
        """Images, labels and class names. Raises IntakeError, also while the batches are read."""
        image_key, label_key = self._pair()
        notes: list[str] = []
        if (image_key, label_key) != PAIRS[0]:
            notes.append(f"The arrays {shown(image_key)} and {shown(label_key)} were taken as images and labels.")
        images = self._header(image_key)
        count, height, width, channels, channels_first = self._layout(images)
        if channels_first:
            notes.append(f"{shown(image_key)} has its channels before height and width (NCHW); they were moved last.")
        element = self._check_dtype(images)
        check_size(count, height, width, channels, element, self._name, self._limits)
        if size is not None:
            height, width = size.height, size.width
            check_size(count, height, width, channels, element, self._name, self._limits)
        class_names, names_key = self._class_names()
        labels = self._labels(label_key, count, class_names, notes)
        if images.dtype.kind == "f" and images.dtype.itemsize != 4:
            notes.append(f"The pixels are {images.dtype.name}; they are stored as float32.")
        ignored = [shown(key) for key in self._members if key not in (image_key, label_key, names_key)]
        if ignored:
            notes.append(f"Other arrays of the file were ignored: {listed(ignored, 5)}.")
        return Samples(
            shape=(count, height, width, channels),
            dtype="uint8" if element == 1 else "float32",
            labels=labels,
            class_names=class_names,
            names=None,
            batches=self._batches(images, channels_first, size),
            notes=notes,
        )

    def _pair(self) -> tuple[str, str]:
        lower = {key.lower(): key for key in self._members} | {key: key for key in self._members}
        for pair in PAIRS:
            if pair[0] in lower and pair[1] in lower:
                return lower[pair[0]], lower[pair[1]]
        wanted = [key for key in PAIRS[0] if key not in lower]
        raise IntakeError(
            f"{shown(self._name)} has no array '{wanted[0]}': expected 'images' and 'labels', "
            f"it holds {listed([shown(key) for key in self._members], 8)}.",
            _RECIPE,
        )

    def _header(self, key: str) -> _Array:
        """What the array claims to be; it must be as long as the bytes that are there, before one is read."""
        member = self._members[key]
        with archive.member_stream(self._file, member, self._name) as read:
            start = read(8)
            width = {(1, 0): 2, (2, 0): 4}.get((start[6], start[7])) if len(start) == 8 else None
            if not start.startswith(NUMPY) or width is None:
                raise self._invalid(key, "it does not start as an array")
            length = read(width)
            header_bytes = int.from_bytes(length, "little")
            if header_bytes > _MAX_HEADER:
                raise self._invalid(key, f"its header has {header_bytes:,} bytes, the limit is {_MAX_HEADER:,}")
            text = read(header_bytes)
        parse = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shape, fortran_order, dtype = parse(io.BytesIO(length + text), max_header_size=_MAX_HEADER)
        except Exception as error:  # the header is a Python literal that anybody may have written
            raise self._invalid(key, f"its header cannot be read ({type(error).__name__})") from None
        if dtype.hasobject:
            raise IntakeError(
                f"The array {shown(key)} of {shown(self._name)} contains Python objects; expected numbers or text.",
                "Convert it, for example np.array(values, dtype='int64') or dtype=str.",
            )
        if dtype.names is not None or dtype.subdtype is not None or min(shape, default=0) < 0:
            raise self._invalid(key, "it is not a plain array of numbers")
        offset = 8 + width + header_bytes
        declared = math.prod(shape) * dtype.itemsize
        if offset + declared != member.file_size:
            raise self._invalid(
                key, f"its header declares {declared:,} bytes, the archive holds {member.file_size - offset:,}"
            )
        if fortran_order and len(shape) > 1:
            raise IntakeError(
                f"The array {shown(key)} of {shown(self._name)} is stored column by column (Fortran order).",
                "Save np.ascontiguousarray(array) instead.",
            )
        return _Array(key, member, dtype, shape, offset)

    def _layout(self, array: _Array) -> tuple[int, int, int, int, bool]:
        """(N, H, W, C, whether the channels come first) of an array of images."""
        shape, text = array.shape, shape_text(array.shape)
        if len(shape) == 3:
            return (*shape, 1, False)
        if len(shape) != 4:
            raise IntakeError(
                f"The array {shown(array.key)} has the shape {text}; expected images as NxHxWxC or NxHxW.",
                "Reshape it, for example images.reshape(-1, 28, 28).",
            )
        first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
        if first and last:
            raise IntakeError(
                f"The shape {text} of {shown(array.key)} is ambiguous: both NxCxHxW and NxHxWxC fit.",
                "Save it so that only the last dimension is 1 or 3, or drop the channel of grey images.",
            )
        if not first and not last:
            raise IntakeError(
                f"The array {shown(array.key)} has the shape {text}; expected 1 or 3 channels, in the last place.",
                "Save the images as NxHxWxC.",
            )
        return (shape[0], shape[2], shape[3], shape[1], True) if first else (*shape, False)

    def _check_dtype(self, array: _Array) -> int:
        """Bytes of a stored pixel value: 1 for uint8, 4 for floating point."""
        if array.dtype == np.uint8:
            return 1
        if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
            return 4
        raise IntakeError(
            f"The array {shown(array.key)} has the type {array.dtype.name}; expected uint8, or floating point in [0, 1].",
            "If the values are 0 to 255, save images.astype('uint8').",
        )

    def _batches(self, array: _Array, channels_first: bool, size: ImageSize | None) -> Iterator[Pixels]:
        checked = PixelRange(array.key)
        for rows in self._rows(array):
            part = rows[..., None] if rows.ndim == 3 else rows.transpose(0, 2, 3, 1) if channels_first else rows
            pixels: Pixels = part if part.dtype == np.uint8 else checked.float32(part)
            if size is not None:
                pixels = np.stack([resize(image, size) for image in np.ascontiguousarray(pixels)])
            yield pixels
        checked.finish()

    def _rows(self, array: _Array) -> Iterator[NDArray[Any]]:
        """The array in pieces of whole rows, so that memory does not grow with its length."""
        row_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:]))
        per_batch = max(1, BATCH_BYTES // row_bytes)
        with archive.member_stream(self._file, array.member, self._name) as read:
            read(array.offset)
            for start in range(0, array.shape[0], per_batch):
                count = min(per_batch, array.shape[0] - start)
                data = read(count * row_bytes)
                if len(data) != count * row_bytes:
                    raise archive.damaged(self._name, f"the array {shown(array.key)} ends early")
                yield np.frombuffer(data, array.dtype).reshape(count, *array.shape[1:])

    def _all(self, array: _Array, limit: int) -> NDArray[Any]:
        data = archive.read_member(self._file, array.member, self._name, limit)
        return np.ndarray(array.shape, array.dtype, data, array.offset)

    def _labels(self, key: str, count: int, class_names: tuple[str, ...] | None, notes: list[str]) -> NDArray[np.int64]:
        array = self._header(key)
        shape = array.shape
        if len(shape) == 2 and shape[1] == 1:
            notes.append(f"{shown(key)} has the shape {shape_text(shape)}; it was taken as {shape[0]} labels.")
            shape = shape[:1]
        if len(shape) != 1:
            raise IntakeError(
                f"The array {shown(key)} has the shape {shape_text(shape)}; expected one integer per image.",
                "If it is one-hot, save labels.argmax(1)." if len(shape) == 2 else "",
            )
        if shape[0] != count:
            raise IntakeError(
                f"The array {shown(key)} has {shape[0]:,} labels for {count:,} images; expected one for each."
            )
        values = self._all(array, self._limits.samples * _MAX_LABEL_BYTES + array.offset).reshape(shape)
        return check_labels(values, key, class_names, self._limits)

    def _class_names(self) -> tuple[tuple[str, ...] | None, str | None]:
        """The names and the key of the array that holds them; (None, None) without one."""
        key = next((key for key in CLASS_NAMES if key in self._members), None)
        if key is None:
            return None, None
        array = self._header(key)
        if array.dtype.kind not in "US" or len(array.shape) != 1:
            raise IntakeError(
                f"The array {shown(key)} has the type {array.dtype.name} and the shape {shape_text(array.shape)}; "
                "expected a list of names.",
                "Save it as class_names=np.array(names, dtype=str).",
            )
        try:
            names = [
                item.decode("utf-8") if isinstance(item, bytes) else str(item)
                for item in self._all(array, _MAX_TEXT_BYTES).tolist()
            ]
        except ValueError:
            raise self._invalid(key, "a name is not valid text") from None
        return check_class_names(names, self._limits), key

    def _invalid(self, key: str, what: str) -> IntakeError:
        return IntakeError(f"The array {shown(key)} of {shown(self._name)} is not a valid .npy: {what}.", _RECIPE)
