"""Shot noise."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.auditing.corruption import Array, Corruption, Draws


class ShotNoise(Corruption):
    """Shot noise (Hendrycks and Dietterich 2019, arXiv 1903.12261): every value becomes a Poisson count of photons.

    The level is the number of photons of a white value.
    """

    title: ClassVar[str] = "Shot noise"
    kind: Literal["shot_noise"] = "shot_noise"
    small: ClassVar[tuple[float, ...]] = (500, 250, 100, 75, 50)
    large: ClassVar[tuple[float, ...]] = (60, 25, 12, 5, 3)

    def apply(self, x: Array, level: float, draws: Draws) -> Array:
        return draws.poisson(level * x) / level
