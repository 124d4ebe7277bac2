"""Simultaneous perturbation stochastic approximation.

Values of the paper: Adam with step size 0.01, 100 iterations; delta, which it does not give, is 0.01 as in cleverhans. There
"samples" counts pairs, too. The paper takes up to 8192 of them; 128 is what cleverhans defaults to.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.harness.adam import adam
from auditor.attacking.harness.losses import margin
from auditor.attacking.harness.population import blocks, losses
from auditor.attacking.threat import Norm


class SPSA(Attack):
    """SPSA (Uesato et al. 2018, arXiv 1802.05666): Adam along slopes of the margin estimated from pairs of opposite points.

    The slope is the mean of (f(x + delta v) - f(x - delta v)) / (2 delta) * v over random sign vectors v. The model is
    asked about the image itself as well, because the pairs around it lie outside the ball.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})
    uses_gradients: ClassVar[bool] = False
    title: ClassVar[str] = "SPSA"
    kind: Literal["spsa"] = "spsa"
    steps: int = Field(100, ge=1, le=10_000, description="Steps of one run.")
    samples: int = Field(128, ge=1, le=8192, description="Pairs of points per step.")
    step_size: float = Field(0.01, gt=0, le=1, description="Step size of Adam, for pixels in [0, 1].")
    delta: float = Field(0.01, gt=0, le=1, description="Distance of the points of a pair from the image, per entry.")

    @property
    def iterations(self) -> int:
        return self.steps

    @property
    def cost(self) -> float:
        return self.steps * (2.0 * self.samples + 1) + 1

    def start(self, rows: Rows, query: Query) -> Tensor:
        rows.memory["mean"] = torch.zeros_like(rows.x)
        rows.memory["square"] = torch.zeros_like(rows.x)
        return rows.x

    def step(self, rows: Rows, query: Query) -> Tensor:
        query.logits()
        moved = adam(
            -self._slope(rows, query), rows.memory["mean"], rows.memory["square"], rows.steps + 1, self.step_size
        )
        rows.memory["mean"], rows.memory["square"] = moved.mean, moved.square
        return rows.x_adv - moved.step

    def _slope(self, rows: Rows, query: Query) -> Tensor:
        """The estimated gradient of the margin, by which it grows."""
        x_adv, random = rows.x_adv[:, None], rows.random("pairs")
        total = torch.zeros_like(rows.x)
        for pairs in blocks(self.samples):
            uniform = random.uniform(x_adv.expand(-1, pairs, -1, -1, -1))
            signs = 1 - 2 * (uniform < 0.5).to(uniform)
            points = torch.cat([x_adv + self.delta * signs, x_adv - self.delta * signs], 1)
            above, below = losses(margin, rows, query.logits(points)).chunk(2, 1)
            total += torch.einsum("bs,bschw->bchw", above - below, signs)
        return total / (2 * self.delta * self.samples)
