"""Fog."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np

from auditor.auditing.corruption import Array, Corruption, Draws
from auditor.auditing.imaging import plasma


class Level(NamedTuple):
    """``strength`` of the fog; ``decay``: how much smoother it is at each octave."""

    strength: float
    decay: float


class Fog(Corruption):
    """Fog (Hendrycks and Dietterich 2019, arXiv 1903.12261): a plasma fractal is added.

    The sum is scaled back so that full fog on the image's brightest value gives that value.
    """

    title: ClassVar[str] = "Fog"
    kind: Literal["fog"] = "fog"
    small: ClassVar[tuple[Level, ...]] = (Level(0.2, 3), Level(0.5, 3), Level(0.75, 2.5), Level(1, 2), Level(1.5, 1.75))
    large: ClassVar[tuple[Level, ...]] = (Level(1.5, 2), Level(2, 2), Level(2.5, 1.7), Level(2.5, 1.5), Level(3, 1.4))

    def apply(self, x: Array, level: Level, draws: Draws) -> Array:
        brightest = x.max((1, 2, 3), keepdims=True)
        clouds = plasma(draws, *x.shape[2:], decay=level.decay)[:, None]
        return (x + level.strength * clouds) * np.divide(brightest, brightest + level.strength)
