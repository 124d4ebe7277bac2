"""The momentum iterative fast gradient sign method."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.geometry import rows as per_row

TINY = 1e-38
"""Stands in for the size of a gradient that is zero; about the smallest normal float32."""


class MIFGSM(Attack):
    """Momentum iterative FGSM (Dong et al. 2018, arXiv 1710.06081): steps along a decaying sum of normalized gradients.

    Defaults are the paper's: 10 steps of epsilon/10, decay 1. The paper divides each gradient by its L1 norm; here, as in
    foolbox and torchattacks, by the mean size of its entries, which differs by a constant factor and leaves every step as
    it is.
    """

    title: ClassVar[str] = "MI-FGSM"
    kind: Literal["mi-fgsm"] = "mi-fgsm"
    steps: int = Field(10, ge=1, le=10_000, description="Gradient steps.")
    step_size: float = Field(0.1, gt=0, le=10, description="Length of one step, as a fraction of epsilon.")
    decay: float = Field(
        1.0, ge=0, le=10, description="Weight of the earlier gradients' sum at each step (the paper's mu); 0 for none."
    )

    @property
    def iterations(self) -> int:
        return self.steps

    def start(self, rows: Rows, query: Query) -> Tensor:
        rows.memory["momentum"] = torch.zeros_like(rows.x)
        return rows.x

    def step(self, rows: Rows, query: Query) -> Tensor:
        gradient = query.gradient().value
        size = gradient.abs().flatten(1).mean(1).clamp_min(TINY)
        momentum = self.decay * rows.memory["momentum"] + gradient / per_row(size, gradient)
        rows.memory["momentum"] = momentum
        return rows.x_adv + self.step_size * rows.ball.epsilon * rows.ball.steepest(momentum, rows.x_adv)
