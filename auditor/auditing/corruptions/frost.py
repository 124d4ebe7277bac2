"""Frost."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np

from auditor.auditing.corruption import Array, Corruption, Draws
from auditor.auditing.imaging import painted, plasma

TINT = np.array([0.89, 1.02, 1.09])
"""Colour of the frost in the script's five photographs, as factors of its grey value."""

DARKEST, LIGHTEST = 0.45, 0.8
"""Their mean grey values."""

ROUGHNESS, DECAY = 0.09, 1.1
"""The standard deviation of their grey values within a crop, on average, and the decay that makes neighbours differ as there: by
1.1 standard deviations in 32 x 32 (where the script takes every fifth pixel), by 0.65 in 224 x 224."""


class Level(NamedTuple):
    """Weights of the image and of the frost."""

    image: float
    frost: float


class Frost(Corruption):
    """Frost (Hendrycks and Dietterich 2019, arXiv 1903.12261): a weighted sum of the image and a picture of frost.

    The script crops five photographs; here the frost is made: the ridges of a plasma fractal, bluish white, with the
    photographs' mean, contrast and tint.
    """

    title: ClassVar[str] = "Frost"
    kind: Literal["frost"] = "frost"
    small: ClassVar[tuple[Level, ...]] = (
        Level(1, 0.2), Level(1, 0.3), Level(0.9, 0.4), Level(0.85, 0.4), Level(0.75, 0.45),
    )  # fmt: skip
    large: ClassVar[tuple[Level, ...]] = (
        Level(1, 0.4), Level(0.8, 0.6), Level(0.7, 0.7), Level(0.65, 0.7), Level(0.6, 0.75),
    )  # fmt: skip

    def apply(self, x: Array, level: Level, draws: Draws) -> Array:
        frost = crystals(draws, *x.shape[2:])[:, None] * painted(TINT, x.shape[1])
        return level.image * x + level.frost * np.clip(frost, 0, 1)


def crystals(draws: Draws, height: int, width: int) -> Array:
    """The grey frost of each sample, (B, H, W)."""
    mean = draws.uniform(1, 1, low=DARKEST, high=LIGHTEST)
    ridges = 1 - np.abs(2 * plasma(draws, height, width, decay=DECAY) - 1)
    ridges -= ridges.mean((1, 2), keepdims=True)
    return mean + ROUGHNESS * ridges / np.maximum(ridges.std((1, 2), keepdims=True), 1e-12)
