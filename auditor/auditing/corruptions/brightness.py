"""Brightness."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from auditor.auditing.corruption import Array, Corruption, Draws


class Brightness(Corruption):
    """More brightness (Hendrycks and Dietterich 2019, arXiv 1903.12261): the level is added to V of HSV.

    Hue and saturation stay, so the three values of a pixel grow by one factor; black becomes grey.
    """

    title: ClassVar[str] = "Brightness"
    kind: Literal["brightness"] = "brightness"
    small: ClassVar[tuple[float, ...]] = (0.05, 0.1, 0.15, 0.2, 0.3)
    large: ClassVar[tuple[float, ...]] = (0.1, 0.2, 0.3, 0.4, 0.5)

    def apply(self, x: Array, level: float, draws: Draws) -> Array:
        value = x.max(1, keepdims=True)
        brighter = np.minimum(value + level, 1)
        return np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)
