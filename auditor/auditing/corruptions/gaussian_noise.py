"""Gaussian noise."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.auditing.corruption import Array, Corruption, Draws


class GaussianNoise(Corruption):
    """Gaussian noise (Hendrycks and Dietterich 2019, arXiv 1903.12261): a normal number is added to every value.

    The level is its standard deviation.
    """

    title: ClassVar[str] = "Gaussian noise"
    kind: Literal["gaussian_noise"] = "gaussian_noise"
    small: ClassVar[tuple[float, ...]] = (0.04, 0.06, 0.08, 0.09, 0.10)
    large: ClassVar[tuple[float, ...]] = (0.08, 0.12, 0.18, 0.26, 0.38)

    def apply(self, x: Array, level: float, draws: Draws) -> Array:
        return x + level * draws.normal(*x.shape[1:])
