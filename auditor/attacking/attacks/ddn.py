"""DDN. Paper's values are the defaults; it also rounds each image to 8 bits, which we do not."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.geometry import rows as per_row
from auditor.attacking.harness.annealing import cosine_annealed
from auditor.attacking.threat import Norm


class DDN(Attack):
    """Decoupled direction and norm (Rony et al. 2019, arXiv 1811.09600): gradient steps on a sphere that shrinks and grows.

    The sphere shrinks after an adversarial image and grows after any other image. Where the gradient is zero the
    direction is random.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    bounded: ClassVar[bool] = False
    minimizes: ClassVar[bool] = True
    kind: Literal["ddn"] = "ddn"
    steps: int = Field(100, ge=1, le=10_000, description="Gradient steps of one run.")
    first_radius: float = Field(1.0, gt=0, le=1000, description="Radius of the first sphere.")
    gamma: float = Field(0.05, gt=0, lt=1, description="Share by which the radius shrinks or grows after each step.")
    step_size: float = Field(
        1.0, gt=0, le=1000, description="Length of the first step; it falls to a hundredth along a cosine."
    )

    @property
    def iterations(self) -> int:
        return self.steps

    def start(self, rows: Rows, query: Query) -> Tensor:
        rows.memory["radius"] = torch.full_like(rows.epsilon, self.first_radius)
        return rows.x

    def step(self, rows: Rows, query: Query) -> Tensor:
        gradient, _, logits = query.gradient()
        size = cosine_annealed(rows.steps, self.steps, self.step_size, self.step_size / 100).to(gradient.dtype)
        moved = rows.x_adv - rows.x + per_row(size, gradient) * rows.ball.steepest(_seeing(gradient, rows), rows.x_adv)

        adversarial = rows.criterion.is_adversarial(logits)
        radius = rows.memory["radius"] * torch.where(adversarial, 1 - self.gamma, 1 + self.gamma)
        farthest = (rows.x < 0.5).to(rows.x.dtype)
        radius = rows.memory["radius"] = torch.minimum(radius, rows.ball.distance(farthest, rows.x))
        return rows.x + per_row(radius, moved) * rows.ball.steepest(moved, rows.x_adv)


def _seeing(gradient: Tensor, rows: Rows) -> Tensor:
    """The gradient, and a random direction where it is zero."""
    blind = ~gradient.flatten(1).any(1)
    if not blind.any():
        return gradient
    return torch.where(per_row(blind, gradient), rows.random("direction").normal(gradient), gradient)
