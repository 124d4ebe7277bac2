"""Floating point pixels must be in [0, 1] and finite; the refusal says what range was found in the whole array."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.errors import IntakeError
from auditor.intake.wording import shown

_TOLERANCE = 1e-5
"""How far a pixel may lie outside [0, 1]: rounding of float16 and float32 arithmetic; it is clipped."""

_PLACES = 5


class PixelRange:
    """Watches the pixels of one array, ``key`` in errors. Every batch is looked at before the verdict."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._low, self._high = math.inf, -math.inf
        self._bad: list[int] = []
        self._bad_count = 0
        self._position = 0

    def float32(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """A batch (B, ...) as float32 in [0, 1]; what had to be changed for that is remembered for the verdict."""
        values = np.asarray(batch, np.float64 if batch.dtype.itemsize == 8 else np.float32)
        finite = np.isfinite(values)
        if not finite.all():
            rows = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1))
            self._bad_count += len(rows)
            self._bad += (self._position + rows[: _PLACES - len(self._bad)]).tolist()
            values = np.where(finite, values, 0.5)
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))
        self._position += len(values)
        return np.clip(values, 0, 1).astype(np.float32)

    def finish(self) -> None:
        """The verdict, after the last batch. Raises IntakeError."""
        if self._bad_count:
            raise IntakeError(
                f"The array {shown(self._key)} has NaN or infinite pixels in {self._bad_count:,} images "
                f"({', '.join(f'#{place}' for place in self._bad)}); expected numbers in [0, 1].",
                "Take these images out, or repair them.",
            )
        if not self._position or (self._low >= -_TOLERANCE and self._high <= 1 + _TOLERANCE):
            return
        raise IntakeError(
            f"The array {shown(self._key)} has pixels from {self._low:.6g} to {self._high:.6g}; expected [0, 1].",
            self._hint(),
        )

    def _hint(self) -> str:
        if self._low >= 0 and self._high <= 255:
            return "Divide by 255, or save uint8."
        if self._low >= -1 - _TOLERANCE and self._high <= 1 + _TOLERANCE:
            return "They look scaled to [-1, 1]: save (images + 1) / 2."
        return "They look normalised: undo mean and deviation. The normalisation belongs to the model."
