"""Gaussian blur."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.auditing.corruption import Array, Corruption, Draws
from auditor.auditing.imaging import smoothed


class GaussianBlur(Corruption):
    """Gaussian blur (Hendrycks and Dietterich 2019, arXiv 1903.12261).

    The level is the standard deviation in pixels; the edge is repeated.
    """

    title: ClassVar[str] = "Gaussian blur"
    kind: Literal["gaussian_blur"] = "gaussian_blur"
    small: ClassVar[tuple[float, ...]] = (0.4, 0.6, 0.7, 0.8, 1.0)
    large: ClassVar[tuple[float, ...]] = (1.0, 2.0, 3.0, 4.0, 6.0)

    def apply(self, x: Array, level: float, draws: Draws) -> Array:
        return smoothed(x, level)
