"""Pixels of an array: floating point in [0, 1] and finite; the refusals say what was found and how to save it anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.kit.errors import IntakeError
from auditor.kit.wording import counted, shown

LARGEST = "`--largest-value {0}` on the command line, 'Largest pixel value' on the page"

_TOLERANCE = 1e-5
"""How far a pixel may lie outside [0, 1]: rounding of float16 and float32 arithmetic; it is clipped."""

_BARELY = 2.0
"""Largest pixel up to which values above 1 look like an overshoot of [0, 1], not like another scale."""

_PLACES = 5


class PixelRange:
    """Watches the pixels of one array, ``key`` in errors. Every batch is looked at before the verdict.

    ``bad``: positions of images with NaN or infinite pixels.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._low, self._high = math.inf, -math.inf
        self._position = 0
        self.bad: list[int] = []

    def float32(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """A batch (B, ...) as float32 in [0, 1]; what had to be changed for that is remembered for the verdict."""
        if not batch.size:
            return np.asarray(batch, np.float32)
        values = np.asarray(batch, np.float64 if batch.dtype.itemsize == 8 else np.float32)
        finite = np.isfinite(values)
        if not finite.all():
            rows = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1))
            self.bad += (self._position + rows).tolist()
            values = np.where(finite, values, 0.5)
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))
        self._position += len(values)
        return np.clip(values, 0, 1).astype(np.float32)

    @property
    def in_range(self) -> bool:
        """Whether every pixel that is a number lies in [0, 1], to rounding."""
        return not self._position or (self._low >= -_TOLERANCE and self._high <= 1 + _TOLERANCE)

    def refusal(self, places: Sequence[int]) -> IntakeError:
        """The error about images with NaN or infinite pixels, at these places."""
        more = ", ..." if len(places) > _PLACES else ""
        return IntakeError(
            f"The array {shown(self._key)} has NaN or infinite pixels in {counted(len(places), 'image')} "
            f"({', '.join(f'#{place}' for place in places[:_PLACES])}{more}); expected numbers in [0, 1].",
            "Take these images out, or repair them.",
        )

    def finish(self, divided_by: int | None = None) -> None:
        """The verdict, after the last batch. ``divided_by``: what whole numbers were divided by. Raises IntakeError."""
        if self.bad:
            raise self.refusal(self.bad)
        if self.in_range:
            return
        if divided_by is not None:
            highest = round(self._high * divided_by)
            raise IntakeError(
                f"The array {shown(self._key)} has values from {round(self._low * divided_by):,} to {highest:,}; expected 0 to "
                f"{divided_by:,}, the largest value given.",
                f"Give {highest:,} or more." if self._low >= 0 else "Shift the values so that none is negative.",
            )
        raise IntakeError(
            f"The array {shown(self._key)} has pixels from {self._low:.6g} to {self._high:.6g}; expected [0, 1].",
            self._hint(),
        )

    def _hint(self) -> str:
        if self._low >= 0 and self._high <= _BARELY:
            return "Save images.clip(0, 1), or images / images.max() where the largest value is white."
        if self._low >= 0 and self._high <= 255:
            return "Divide by 255: save images / 255, or images.astype('uint8') if they are whole numbers."
        if self._low >= 0:
            scale = full_scale(math.ceil(self._high))
            return f"Divide by the value of white: images / {scale} if that is {scale}."
        if self._low >= -1 - _TOLERANCE and self._high <= 1 + _TOLERANCE:
            return "They look scaled to [-1, 1]: save (images + 1) / 2."
        return (
            "They look normalized: undo mean and deviation, save (images * std + mean).clip(0, 1). The normalization belongs "
            "to the model."
        )


def integer_hint(kind: np.dtype[Any], low: int, high: int) -> str:
    """What to do about an array of another type than uint8 and floating point, whose values go from ``low`` to ``high``."""
    if kind.kind == "b":
        return "Save (255 * images).astype('uint8')."
    if kind.kind not in "iu":
        return "Save the pixels as numbers: uint8, or floating point in [0, 1]."
    if low < 0:
        return f"Shift and scale them to [0, 1]: save (images.astype('float32') + {-low}) / {max(1, high - low)}."
    if high <= 255:
        return "Save images.astype('uint8')."
    scale = full_scale(high)
    return (
        f"Divide by the value of white, such as {scale}: save (images / {scale}).astype('float32'), or add it with "
        f"{LARGEST.format(scale)}."
    )


def full_scale(highest: int) -> int:
    """The smallest 2^bits - 1 that no value exceeds."""
    return int(2 ** highest.bit_length() - 1)


def reshape_hint(shape: Sequence[int]) -> str:
    """What to do about an array of images with another number of axes than three or four."""
    if len(shape) > 4:
        return "If the last three axes are those of an image, save images.reshape(-1, *images.shape[-3:])."
    if len(shape) == 2:
        for channels in (1, 3):
            side = math.isqrt(shape[1] // channels)
            if side and channels * side * side == shape[1]:
                return (
                    f"Reshape it: images.reshape(-1, {side}, {side})."
                    if channels == 1
                    else f"Reshape it: images.reshape(-1, 3, {side}, {side}) if a row holds channel after channel, "
                    f"images.reshape(-1, {side}, {side}, 3) if it holds pixel after pixel."
                )
    return "Save the images as one array with an axis each for image, height and width, and one for colour."
