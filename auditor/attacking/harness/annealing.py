"""Cosine annealing for rows of different age."""

from __future__ import annotations

import math

from torch import Tensor


def cosine_annealed(steps_done: Tensor, steps: int, first: float, last: float) -> Tensor:
    """From ``first`` at step 0 down to ``last`` at step ``steps`` along half a cosine, one value per row, float64."""
    return last + (first - last) * (1 + (steps_done.double() * (math.pi / steps)).cos()) / 2
