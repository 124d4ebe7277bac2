"""Adam for rows of different age: every row has its own step counter."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from auditor.attacking.geometry import rows as per_row

FIRST, SECOND, TINY = 0.9, 0.999, 1e-8
"""beta_1, beta_2 and epsilon of the paper."""


class AdamStep(NamedTuple):
    """``step``: what to subtract to descend. ``mean``, ``square``: running means of the gradient and of its square."""

    step: Tensor
    mean: Tensor
    square: Tensor


def adam(gradient: Tensor, mean: Tensor, square: Tensor, count: Tensor, step_size: float) -> AdamStep:
    """One step of Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1); ``count``, (B,): this row's steps, with this one."""
    mean = FIRST * mean + (1 - FIRST) * gradient
    square = SECOND * square + (1 - SECOND) * gradient.square()
    count = per_row(count, gradient).to(gradient.dtype)
    step = step_size * (mean / (1 - FIRST**count)) / ((square / (1 - SECOND**count)).sqrt() + TINY)
    return AdamStep(step, mean, square)
