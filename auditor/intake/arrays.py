"""An .npz file to labelled images: headers are compared with the bytes that are there, pixels stream batch by batch."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.errors import IntakeError
from auditor.intake import archive
from auditor.intake.faults import Unusable, left_out
from auditor.intake.images import resize
from auditor.intake.labels import Labels, check_class_names, one_hot, read_labels
from auditor.intake.limits import MIB, Limits
from auditor.intake.magic import NUMPY
from auditor.intake.pixelrange import PixelRange, integer_hint
from auditor.intake.reading import LEAVE_OUT, Reading
from auditor.intake.survey import BATCH_BYTES, Pixels, Samples, check_size
from auditor.intake.wording import listed, printable, shape_text, shown, size_text

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
_KINDS = "biufcUSmM"
"""Kinds of arrays that are read or refused by their type: numbers, text, times; no structures, no raw bytes."""

_MOST_AXES, _MOST_SIDE = 32, 2**48
"""numpy's own limit of axes, and a side that no file can have."""

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
    """The arrays of one opened .npz archive; ``name`` is what errors call it.

    Images that cannot be used are refused together (Unusable); those handed to ``leave_out`` are left out and named instead.
    """

    def __init__(self, file: zipfile.ZipFile, name: str, limits: Limits) -> None:
        self._file, self._name, self._limits = file, name, limits
        self._out: list[str | int] = []
        self._members = {
            member.orig_filename.removesuffix(".npy"): member
            for member in file.infolist()
            if member.orig_filename.endswith(".npy")
        }

    def leave_out(self, found: Unusable) -> None:
        """Read the arrays without these images from now on."""
        self._out += found.faults

    def samples(self, reading: Reading) -> Samples:
        """Images, labels and class names. Raises IntakeError, also while the batches are read."""
        size = reading.size
        image_key, label_key = self._pair()
        notes: list[str] = []
        if (image_key, label_key) != PAIRS[0]:
            notes.append(f"The arrays {shown(image_key)} and {shown(label_key)} were taken as images and labels.")
        images = self._header(image_key)
        count, height, width, channels, channels_first = self._layout(images, reading.layout)
        if channels_first:
            notes.append(f"{shown(image_key)} has its channels before height and width (NCHW); they were moved last.")
        check_size(count, height, width, channels, 1, self._name, self._limits)
        element = self._check_dtype(images, reading)
        if (row := images.dtype.itemsize * height * width * channels) > self._limits.row_bytes:
            raise IntakeError(
                f"An image of {shown(image_key)} has {size_text(row)}, the limit is {size_text(self._limits.row_bytes)}.",
                "Save them as uint8, or smaller.",
            )
        if reading.channels is not None and channels != reading.channels:
            channels = reading.channels
            notes.append(
                "The grey images got three equal channels, as asked."
                if channels == 3
                else "The images in colour became grey, as asked."
            )
        check_size(count, height, width, channels, element, self._name, self._limits)
        if size is not None:
            height, width = size.height, size.width
            check_size(count, height, width, channels, element, self._name, self._limits)
        class_names, names_key = self._class_names()
        labels = self._labels(label_key, count, class_names, reading)
        notes += labels.notes
        given_names = self._header(label_key).dtype.kind in "US"
        if images.dtype.kind == "f" and images.dtype.itemsize != 4:
            notes.append(f"The pixels are {images.dtype.name}; they are stored as float32.")
        if reading.largest_value is not None and images.dtype.kind in "iu":
            notes.append(f"The pixels were divided by {reading.largest_value:,}, as asked.")
        ignored = [shown(key) for key in self._members if key not in (image_key, label_key, names_key)]
        if ignored:
            notes.append(f"Other arrays of the file were ignored: {listed(ignored, 5)}.")
        keep = np.ones(count, bool)
        keep[[number for number in self._out if isinstance(number, int)]] = False
        if self._out:
            notes.append(left_out(sorted(self._out), count, "image"))
            check_size(int(keep.sum()), height, width, channels, element, self._name, self._limits)
        names = [f"#{number}" for number in np.flatnonzero(keep)] if self._out else None
        return Samples(
            shape=(int(keep.sum()), height, width, channels),
            dtype="uint8" if element == 1 else "float32",
            labels=labels.values[keep],
            class_names=labels.class_names,
            names=names,
            batches=self._batches(images, channels_first, channels, reading, keep),
            labels_from="names" if given_names else "integers",
            rescalable=element == 1,
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
        if dtype.names is not None or dtype.subdtype is not None or dtype.itemsize == 0 or dtype.kind not in _KINDS:
            raise self._invalid(key, f"it is not a plain array of numbers or text but of the type {str(dtype)[:40]}")
        # A header may say True, which is an int to Python and to numpy; a size has one type, and a few digits.
        if not all(type(side) is int and 0 <= side <= _MOST_SIDE for side in shape) or len(shape) > _MOST_AXES:
            raise self._invalid(key, f"it is not a plain array: its shape is {printable(repr(shape))}")
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

    def _layout(self, array: _Array, layout: Literal["auto", "NHWC", "NCHW"]) -> tuple[int, int, int, int, bool]:
        """(N, H, W, C, whether the channels come first) of an array of images."""
        shape, text = array.shape, shape_text(array.shape)
        if len(shape) == 3:
            return (*shape, 1, False)
        if len(shape) != 4:
            raise IntakeError(
                f"The array {shown(array.key)} has the shape {text}; expected images as NxHxWxC or NxHxW.",
                "Reshape it, for example images.reshape(-1, 28, 28).",
            )
        first, last = (
            shape[axis] in _CHANNELS and layout in ("auto", order) for axis, order in ((1, "NCHW"), (3, "NHWC"))
        )
        if first and last:
            raise IntakeError(
                f"The shape {text} of {shown(array.key)} is ambiguous: both NxCxHxW and NxHxWxC fit.",
                "Say which: `--layout NHWC` or `--layout NCHW` on the command line, 'Order of the axes' on the page.",
            )
        if not first and not last:
            raise IntakeError(
                f"The array {shown(array.key)} has the shape {text}; expected 1 or 3 channels"
                f"{'' if layout == 'auto' else f', as {layout}'}.",
                _fewer_channels(shape)
                if layout == "auto"
                else "Leave the order of the axes out, or name the other one.",
            )
        return (shape[0], shape[2], shape[3], shape[1], True) if first else (*shape, False)

    def _check_dtype(self, array: _Array, reading: Reading) -> int:
        """Bytes of a stored pixel value: 1 for uint8, 4 for floating point. Raises IntakeError for other types."""
        if array.dtype.kind in "iu" and reading.largest_value is not None:
            return 4
        if array.dtype == np.uint8:
            return 1
        if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
            return 4
        low, high = self._reach(array) if array.dtype.kind in "iu" else (0, 0)
        reach = f" (from {low:,} to {high:,})" if array.dtype.kind in "iu" else ""
        raise IntakeError(
            f"The array {shown(array.key)} has the type {array.dtype.name}{reach}; expected uint8, or floating point in [0, 1].",
            integer_hint(array.dtype, low, high),
        )

    def _reach(self, array: _Array) -> tuple[int, int]:
        """The smallest and the largest value of an array of integers."""
        ends = [(int(rows.min()), int(rows.max())) for rows in self._rows(array)]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def _batches(
        self, array: _Array, channels_first: bool, channels: int, reading: Reading, keep: NDArray[np.bool_]
    ) -> Iterator[Pixels]:
        checked = PixelRange(array.key)
        full = reading.largest_value if array.dtype.kind in "iu" else None
        at = 0
        for rows in self._rows(array):
            rows = rows[keep[at : (at := at + len(rows))]]
            part = rows[..., None] if rows.ndim == 3 else rows.transpose(0, 2, 3, 1) if channels_first else rows
            scaled = part if full is None else part / np.float64(full)
            pixels: Any = scaled if scaled.dtype == np.uint8 else checked.float32(scaled)
            if not len(pixels):
                continue
            if pixels.shape[-1] != channels:
                pixels = np.repeat(pixels, 3, axis=-1) if channels == 3 else _grey(pixels)
            if reading.size is not None:
                pixels = np.stack([resize(image, reading.size) for image in np.ascontiguousarray(pixels)])
            yield pixels
        if checked.bad and checked.in_range and len(checked.bad) < int(keep.sum()):
            numbers = np.flatnonzero(keep)[checked.bad].tolist()
            refusal = checked.refusal(numbers)
            if reading.leave_out:
                raise Unusable(dict.fromkeys(numbers, refusal), len(keep), "image")
            raise IntakeError(refusal.message, f"{refusal.hint} Or {LEAVE_OUT}.")
        checked.finish(full)

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

    def _labels(self, key: str, count: int, class_names: tuple[str, ...] | None, reading: Reading) -> Labels:
        array = self._header(key)
        shape = array.shape
        notes: tuple[str, ...] = ()
        if (
            len(shape) not in (1, 2)
            or 0 in shape[1:]
            or (len(shape) == 2 and shape[1] > 1 and array.dtype.kind not in "biuf")
        ):
            raise IntakeError(
                f"The array {shown(key)} has the shape {shape_text(shape)} and the type {array.dtype.name}; "
                "expected one label for each image.",
                "Save one class number, or one class name, for each image: an array of as many entries as there are images.",
            )
        if shape[0] != count:
            raise IntakeError(
                f"The array {shown(key)} has {shape[0]:,} labels for {count:,} images; expected one for each."
            )
        if len(shape) == 2 and shape[1] > 1:
            values: NDArray[Any] = one_hot(self._rows(array), count, key)
            notes = (
                f"{shown(key)} has the shape {shape_text(shape)} and marks one class in each row; that is the label.",
            )
        else:
            if len(shape) == 2:
                notes = (f"{shown(key)} has the shape {shape_text(shape)}; it was taken as {count:,} labels.",)
            most = _MAX_TEXT_BYTES if array.dtype.kind in "US" else self._limits.samples * _MAX_LABEL_BYTES
            values = self._all(array, most + array.offset).reshape(count)
        read = read_labels(values, key, class_names, self._limits, reading.first_label)
        return read._replace(notes=(*notes, *read.notes))

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


def _fewer_channels(shape: tuple[int, ...]) -> str:
    """What to do about images with an alpha channel, or with other channels that no model for grey or colour images takes."""
    for axis, taken in ((3, "images[..., :{0}]"), (1, "images[:, :{0}]")):
        if shape[axis] in (2, 4):
            kept, what = (1, "the grey channel") if shape[axis] == 2 else (3, "the colours")
            return f"If the last channel is alpha, save {what} alone: {taken.format(kept)}."
    return "Save images with 1 or 3 channels, for example the first three: images[..., :3] of NxHxWxC, images[:, :3] of NxCxHxW."


def _grey(pixels: Pixels) -> Pixels:
    """Colours (B, H, W, 3) to grey, by ITU-R 601, as Pillow does it: (299 R + 587 G + 114 B) / 1000."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    grey = (pixels.astype(np.float32) @ weights)[..., None]
    return np.rint(grey).astype(np.uint8) if pixels.dtype == np.uint8 else np.clip(grey, 0, 1)
