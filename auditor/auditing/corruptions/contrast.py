"""Contrast."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.auditing.corruption import Array, Corruption, Draws


class Contrast(Corruption):
    """Lower contrast (Hendrycks and Dietterich 2019, arXiv 1903.12261): every value moves towards its channel's mean.

    The level is the share of the distance that is left.
    """

    title: ClassVar[str] = "Contrast"
    kind: Literal["contrast"] = "contrast"
    small: ClassVar[tuple[float, ...]] = (0.75, 0.5, 0.4, 0.3, 0.15)
    large: ClassVar[tuple[float, ...]] = (0.4, 0.3, 0.2, 0.1, 0.05)

    def apply(self, x: Array, level: float, draws: Draws) -> Array:
        mean = x.mean((2, 3), keepdims=True)
        return mean + level * (x - mean)
