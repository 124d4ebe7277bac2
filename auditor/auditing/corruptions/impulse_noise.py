"""Impulse noise."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from auditor.auditing.corruption import Array, Corruption, Draws


class ImpulseNoise(Corruption):
    """Impulse noise, salt and pepper (Hendrycks and Dietterich 2019, arXiv 1903.12261): some values become 0 or 1.

    The level is their share; each channel has its own.
    """

    title: ClassVar[str] = "Impulse noise"
    kind: Literal["impulse_noise"] = "impulse_noise"
    small: ClassVar[tuple[float, ...]] = (0.01, 0.02, 0.03, 0.05, 0.07)
    large: ClassVar[tuple[float, ...]] = (0.03, 0.06, 0.09, 0.17, 0.27)

    def apply(self, x: Array, level: float, draws: Draws) -> Array:
        chance = draws.uniform(*x.shape[1:])
        peppered = np.where(chance < level / 2, 0.0, x)
        return np.where(chance >= 1 - level / 2, 1.0, peppered)
