"""Speckle noise."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.auditing.corruption import Array, Corruption, Draws


class SpeckleNoise(Corruption):
    """Speckle noise (Hendrycks and Dietterich 2019, arXiv 1903.12261): normal noise in proportion to every value.

    The level is the standard deviation of the factor.
    """

    title: ClassVar[str] = "Speckle noise"
    kind: Literal["speckle_noise"] = "speckle_noise"
    small: ClassVar[tuple[float, ...]] = (0.06, 0.10, 0.12, 0.16, 0.20)
    large: ClassVar[tuple[float, ...]] = (0.15, 0.20, 0.35, 0.45, 0.60)

    def apply(self, x: Array, level: float, draws: Draws) -> Array:
        return x + x * level * draws.normal(*x.shape[1:])
