"""Saturation."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np

from auditor.auditing.corruption import Array, Corruption, Draws


class Level(NamedTuple):
    """S of HSV becomes factor * S + shift."""

    factor: float
    shift: float


class Saturate(Corruption):
    """Less or more saturation (Hendrycks and Dietterich 2019, arXiv 1903.12261): S of HSV is scaled and shifted.

    The first two severities take colour away, the others add some. Hue and V stay. A grey pixel has hue 0, so a shift turns it
    reddish, as in the script.
    """

    title: ClassVar[str] = "Saturation"
    kind: Literal["saturate"] = "saturate"
    channels: ClassVar[frozenset[int]] = frozenset({3})
    small: ClassVar[tuple[Level, ...]] = (Level(0.3, 0), Level(0.1, 0), Level(1.5, 0), Level(2, 0.1), Level(2.5, 0.2))
    large: ClassVar[tuple[Level, ...]] = (Level(0.3, 0), Level(0.1, 0), Level(2, 0), Level(5, 0.1), Level(20, 0.2))

    def apply(self, x: Array, level: Level, draws: Draws) -> Array:
        value = x.max(1, keepdims=True)
        below = value - x  # V * S * (how far the hue lies from each primary)
        chroma = below.max(1, keepdims=True)
        saturation = chroma / np.where(value > 0, value, 1)
        target = np.clip(level.factor * saturation + level.shift, 0, 1)
        red = np.array([0.0, 1.0, 1.0]).reshape(1, 3, 1, 1)
        hue = np.where(chroma > 0, below / np.where(chroma > 0, chroma, 1), red)
        return value * (1 - target * hue)
