"""Pixels of arrays, batch by batch: the order of their axes, their type and range, channels and size as asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.data.intake.faults import Unusable
from auditor.data.intake.image_size import resize
from auditor.data.intake.reading import LEAVE_OUT, Reading
from auditor.data.intake.stored_arrays import StoredArray
from auditor.data.intake.survey import Pixels
from auditor.kit.errors import IntakeError
from auditor.kit.wording import shape_text, shown
from auditor.models.pixel_range import PixelRange, integer_hint, reshape_hint

CHANNELS = (1, 3)
"""Of images as they are stored: grey, colour."""


class Segment(NamedTuple):
    """One array of images in the order in which the pixels are written; ``keep``: which of its images, bool (N,)."""

    array: StoredArray
    channels_first: bool
    drop_alpha: bool
    keep: NDArray[np.bool_]


def same_kind(array: StoredArray, first: StoredArray) -> StoredArray:
    """The array, whose images are of the same type and shape as the first one's. Raises IntakeError."""
    if (array.dtype, array.shape[1:]) != (first.dtype, first.shape[1:]):
        raise IntakeError(
            f"The arrays {shown(first.key)} and {shown(array.key)} cannot be joined: {first.dtype.name} "
            f"{shape_text(first.shape)} and {array.dtype.name} {shape_text(array.shape)}.",
            "Add them as data sets of their own.",
        )
    return array


def layout_of(array: StoredArray, reading: Reading) -> tuple[int, int, int, int, bool]:
    """(N, H, W, C, whether the channels come first) of an array of images. Raises IntakeError."""
    shape, text = array.shape, shape_text(array.shape)
    if len(shape) == 3:
        return (*shape, 1, False)
    if len(shape) != 4:
        raise IntakeError(
            f"The array {shown(array.key)} has the shape {text}; expected images as NxHxWxC or NxHxW.",
            reshape_hint(shape),
        )
    taken = (*CHANNELS, reading.channels + 1) if reading.channels is not None else CHANNELS
    first, last = (
        shape[axis] in taken and reading.layout in ("auto", order) for axis, order in ((1, "NCHW"), (3, "NHWC"))
    )
    if first and last:
        raise IntakeError(
            f"The shape {text} of {shown(array.key)} is ambiguous: both NxCxHxW and NxHxWxC fit.",
            "Say which: `--layout NHWC` or `--layout NCHW` on the command line, 'Order of the axes' on the page.",
        )
    if not first and not last:
        raise IntakeError(
            f"The array {shown(array.key)} has the shape {text}; expected 1 or 3 channels"
            f"{'' if reading.layout == 'auto' else f', as {reading.layout}'}.",
            _fewer_channels(shape)
            if reading.layout == "auto"
            else "Leave the order of the axes out, or name the other one.",
        )
    return (shape[0], shape[2], shape[3], shape[1], True) if first else (*shape, False)


def pixel_bytes(array: StoredArray, reading: Reading) -> int:
    """Bytes of a stored pixel value: 1 for uint8, 4 for floating point. Raises IntakeError for other types."""
    if array.dtype.kind in "iu" and reading.largest_value is not None:
        return 4
    if array.dtype == np.uint8:
        return 1
    if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        return 4
    low, high = _reach(array) if array.dtype.kind in "iu" else (0, 0)
    reach = f" (from {low:,} to {high:,})" if array.dtype.kind in "iu" else ""
    raise IntakeError(
        f"The array {shown(array.key)} has the type {array.dtype.name}{reach}; expected uint8, or floating point in [0, 1].",
        integer_hint(array.dtype, low, high),
    )


def batches_of(segments: Sequence[Segment], channels: int, reading: Reading) -> Iterator[Pixels]:
    """The images that are kept, (B, H, W, C), as uint8 or float32 in [0, 1]. Raises IntakeError, also between batches."""
    bad: list[int] = []
    refusal: IntakeError | None = None
    start, kept = 0, sum(int(segment.keep.sum()) for segment in segments)
    for segment in segments:
        array = segment.array
        checked = PixelRange(array.key)
        full = reading.largest_value if array.dtype.kind in "iu" else None
        at = 0
        for rows in array.rows():
            rows = rows[segment.keep[at : (at := at + len(rows))]]
            if not len(rows):
                continue
            part = rows[..., None] if rows.ndim == 3 else rows.transpose(0, 2, 3, 1) if segment.channels_first else rows
            if segment.drop_alpha:
                part = part[..., :-1]
            scaled = part if full is None else part / np.float64(full)
            pixels: Any = scaled if scaled.dtype == np.uint8 else checked.float32(scaled)
            if pixels.shape[-1] != channels:
                pixels = np.repeat(pixels, 3, axis=-1) if channels == 3 else _grey(pixels)
            if reading.size is not None:
                pixels = np.stack([resize(image, reading.size) for image in np.ascontiguousarray(pixels)])
            yield pixels
        if checked.bad and checked.in_range:
            numbers = (start + np.flatnonzero(segment.keep)[checked.bad]).tolist()
            bad += numbers
            refusal = refusal or checked.refusal(numbers)
        else:
            checked.finish(full)
        start += array.shape[0]
    if refusal is None:
        return
    if len(bad) == kept:
        raise refusal
    if reading.leave_out:
        raise Unusable(dict.fromkeys(bad, refusal), start, "image")
    raise IntakeError(refusal.message, f"{refusal.hint} Or {LEAVE_OUT}.")


def _reach(array: StoredArray) -> tuple[int, int]:
    """The smallest and the largest value of an array of integers."""
    ends = [(int(rows.min()), int(rows.max())) for rows in array.rows()]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _fewer_channels(shape: tuple[int, ...]) -> str:
    """What to do about images with an alpha channel, or with other channels that no model for grey or colour images takes."""
    for axis, taken in ((3, "images[..., :{0}]"), (1, "images[:, :{0}]")):
        if shape[axis] in (2, 4):
            kept, what = (1, "the grey channel") if shape[axis] == 2 else (3, "the colours")
            return (
                f"If the last channel is alpha, save {what} alone: {taken.format(kept)}; or drop it: `--channels {kept}` on the "
                "command line, 'Channels' on the page."
            )
    return "Save images with 1 or 3 channels, for example the first three: images[..., :3] of NxHxWxC, images[:, :3] of NxCxHxW."


def _grey(pixels: Pixels) -> Pixels:
    """Colours (B, H, W, 3) to grey, by ITU-R 601, as Pillow does it: (299 R + 587 G + 114 B) / 1000."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    grey = (pixels.astype(np.float32) @ weights)[..., None]
    return np.rint(grey).astype(np.uint8) if pixels.dtype == np.uint8 else np.clip(grey, 0, 1)
