"""Zoom blur."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np

from auditor.auditing.corruption import Array, Corruption, Draws
from auditor.auditing.imaging import enlarged


class Level(NamedTuple):
    """Zoom factors from 1 in steps to ``end``, which is left out (or not, by rounding: the script's ranges end so, too)."""

    end: float
    step: float


class ZoomBlur(Corruption):
    """Zoom blur (Hendrycks and Dietterich 2019, arXiv 1903.12261): the mean of the image and of its enlarged middles."""

    title: ClassVar[str] = "Zoom blur"
    kind: Literal["zoom_blur"] = "zoom_blur"
    small: ClassVar[tuple[Level, ...]] = (
        Level(1.06, 0.01), Level(1.11, 0.01), Level(1.16, 0.01), Level(1.21, 0.01), Level(1.26, 0.01),
    )  # fmt: skip
    large: ClassVar[tuple[Level, ...]] = (
        Level(1.11, 0.01), Level(1.16, 0.01), Level(1.21, 0.02), Level(1.26, 0.02), Level(1.31, 0.03),
    )  # fmt: skip

    def apply(self, x: Array, level: Level, draws: Draws) -> Array:
        factors = np.arange(1, level.end, level.step)
        return (x + sum(enlarged(x, factor) for factor in factors)) / (len(factors) + 1)
