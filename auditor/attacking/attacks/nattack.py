"""NAttack.

Values of the paper (section 3.1 and the appendix): 300 samples, sigma^2 = 0.01, step size 0.008; 100 iterations and a mean
that starts at 0 (the authors' code starts it at 0.001 times a normal number).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.criterion import Criterion
from auditor.attacking.harness.losses import margin
from auditor.attacking.harness.population import blocks, losses, projected
from auditor.attacking.threat import Norm

INSIDE = 0.999999
"""Pixels are drawn in by this factor, so arctanh is finite."""


class NAttack(Attack):
    """NAttack (Li et al. 2019, arXiv 1905.00441): learns the mean of a normal distribution of adversarial images.

    Samples are mapped by tanh into the box and projected on the ball; the mean moves along the natural evolution strategy's
    estimate with standardized rewards. The reward is the margin, clipped at 0.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})
    uses_gradients: ClassVar[bool] = False
    title: ClassVar[str] = "NAttack"
    kind: Literal["nattack"] = "nattack"
    steps: int = Field(100, ge=1, le=10_000, description="Steps of one run.")
    samples: int = Field(300, ge=2, le=10_000, description="Images drawn per step.")
    sigma: float = Field(0.1, gt=0, le=10, description="Standard deviation of the distribution, before tanh.")
    step_size: float = Field(0.008, gt=0, le=10, description="Step size of the mean, before tanh.")

    @property
    def iterations(self) -> int:
        return self.steps

    @property
    def cost(self) -> float:
        return self.steps * float(self.samples) + 1

    def start(self, rows: Rows, query: Query) -> Tensor:
        rows.memory["mean"] = torch.zeros_like(rows.x)
        return rows.x

    def step(self, rows: Rows, query: Query) -> Tensor:
        x, random = torch.atanh((2 * rows.x - 1) * INSIDE), rows.random("samples")
        rewards, noise_sum, rewarded = [], torch.zeros_like(rows.x), torch.zeros_like(rows.x)
        for count in blocks(self.samples):
            noise = random.normal(rows.x[:, None].expand(-1, count, -1, -1, -1))
            points = projected(rows, _image((x + rows.memory["mean"])[:, None] + self.sigma * noise))
            reward = losses(_reward, rows, query.logits(points))
            rewards.append(reward)
            noise_sum += noise.sum(1)
            rewarded += torch.einsum("bs,bschw->bchw", reward, noise)
        # The sum of standardized rewards times noise, without keeping the noise.
        spread, mean = torch.std_mean(torch.cat(rewards, 1), 1)
        slope = (rewarded - mean.view(-1, 1, 1, 1) * noise_sum) / (spread.view(-1, 1, 1, 1) + 1e-7)
        rows.memory["mean"] = rows.memory["mean"] + self.step_size / (self.samples * self.sigma) * slope
        return _image(x + rows.memory["mean"])


def _image(z: Tensor) -> Tensor:
    return (z.tanh() + 1) / 2


def _reward(criterion: Criterion, logits: Tensor) -> Tensor:
    return margin(criterion, logits).clamp(max=0)
