"""FMN. Paper's values are the defaults, but that it tunes the step size to norm and network (0.3 is better in L2 on plain ones).

In L0 the paper counts entries; here, as everywhere, pixels. The first radius reaches 0.1 % past the linearized boundary: at the
boundary itself rounding decides, and where it decides against the attacker the paper's form stays there to the end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.geometry import L2
from auditor.attacking.geometry import rows as per_row
from auditor.attacking.harness.annealing import cosine_annealed
from auditor.attacking.harness.losses import margin
from auditor.attacking.threat import Norm

LAST_GAMMA = 0.001


class FMN(Attack):
    """Fast minimum norm (Pintor et al. 2021, arXiv 2102.12827): gradient steps in a ball that adapts its radius.

    Until an adversarial image is found the radius reaches to the linearized boundary; then it shrinks after an
    adversarial image and grows after any other, by less and less.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)
    bounded: ClassVar[bool] = False
    minimizes: ClassVar[bool] = True
    kind: Literal["fmn"] = "fmn"
    steps: int = Field(100, ge=1, le=10_000, description="Gradient steps of one run.")
    step_size: float = Field(
        1.0, gt=0, le=1000, description="L2 length of the first step; it falls to a hundredth along a cosine."
    )
    gamma: float = Field(
        0.05, gt=0, lt=1, description="Share by which the radius changes at first; it falls to 0.001 along a cosine."
    )

    @property
    def iterations(self) -> int:
        return self.steps

    def start(self, rows: Rows, query: Query) -> Tensor:
        rows.memory["radius"] = torch.full_like(rows.epsilon, torch.inf)
        return rows.x

    def step(self, rows: Rows, query: Query) -> Tensor:
        lead = query.gradient(loss=margin)
        size = cosine_annealed(rows.steps, self.steps, self.step_size, self.step_size / 100).to(lead.value.dtype)
        gamma = cosine_annealed(rows.steps, self.steps, self.gamma, LAST_GAMMA).to(lead.value.dtype)

        ball, radius = rows.ball, rows.memory["radius"]
        to_boundary = lead.loss.abs() / ball.dual_length(lead.value).clamp_min(1e-12)
        first = (ball.distance(rows.x_adv, rows.x) + to_boundary.clamp_min(ball.grain)) * (1 + LAST_GAMMA)
        larger = torch.maximum(radius * (1 + gamma), radius + ball.grain)
        smaller = torch.minimum(radius * (1 - gamma), radius - ball.grain).clamp_min(ball.grain)
        radius = torch.where(
            rows.criterion.is_adversarial(lead.logits),
            torch.minimum(smaller, query.best_distance),
            torch.where(query.best_distance.isinf(), first, larger),
        )
        farthest = (rows.x < 0.5).to(rows.x.dtype)
        radius = rows.memory["radius"] = torch.minimum(radius, ball.distance(farthest, rows.x))
        moved = rows.x_adv + per_row(size, rows.x) * L2.steepest(lead.value, rows.x_adv)
        return replace(ball, epsilon=per_row(radius, rows.x)).project(moved, rows.x)
