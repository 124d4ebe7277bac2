"""Fast adaptive boundary, shared by its two forms: projections onto the linearized decision boundary."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.geometry import rows as per_row
from auditor.attacking.threat import Norm


class FastAdaptiveBoundary(Attack):
    """Fast adaptive boundary (Croce and Hein 2020, arXiv 1907.02044, algorithm 1): a subclass gives the plane of each row."""

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2, Norm.L1})
    bounded: ClassVar[bool] = False
    minimizes: ClassVar[bool] = True

    steps: int = Field(100, ge=1, le=10_000, description="Projections of one run.")
    overshoot: float = Field(
        1.05, ge=1, le=2, description="How far past the plane a projection goes (the paper's eta)."
    )
    largest_bias: float = Field(
        0.1, ge=0, le=1, description="Largest weight of the step from the clean image (the paper's alpha_max)."
    )
    backward: float = Field(
        0.9, gt=0, le=1, description="Share of the way from the clean image kept after a success (the paper's beta)."
    )

    @property
    def iterations(self) -> int:
        return self.steps

    @property
    def cost(self) -> float:
        return 4.0 * self.steps + 1

    @abstractmethod
    def plane(self, rows: Rows, query: Query) -> tuple[Tensor, Tensor]:
        """The linearized boundary at ``x_adv``: its value there, (B,), positive where adversarial, and its gradient."""

    def start(self, rows: Rows, query: Query) -> Tensor:
        """The clean image; later runs start at random within half the distance known so far, at most epsilon."""
        inside = rows.ball.sample(rows.x, rows.random("start"))
        length = per_row(rows.ball.distance(inside, rows.x), rows.x).clamp_min(1e-12)
        radius = per_row(torch.minimum(rows.best_distance, rows.epsilon), rows.x) / 2
        first = torch.from_numpy(rows.restart == 0).to(rows.x.device)
        return torch.where(per_row(first, rows.x), rows.x, rows.x + (inside - rows.x) * (radius / length))

    def step(self, rows: Rows, query: Query) -> Tensor:
        x, x_adv, ball = rows.x, rows.x_adv, rows.ball
        value, gradient = self.plane(rows, query)
        offset = value - (gradient * x_adv).flatten(1).sum(1)
        from_here, from_clean = ball.onto_plane(x_adv, gradient, offset), ball.onto_plane(x, gradient, offset)
        zero = torch.zeros_like(x)
        near, far = ball.distance(from_here, zero).clamp_min(1e-8), ball.distance(from_clean, zero).clamp_min(1e-8)
        bias = per_row((near / (near + far)).clamp(0, self.largest_bias), x)
        proposal = (x_adv + self.overshoot * from_here) * (1 - bias) + (x + self.overshoot * from_clean) * bias
        proposal = proposal.clamp(0, 1)
        fooled = per_row(rows.criterion.is_adversarial(query.logits(proposal)), x)
        return torch.where(fooled, x + self.backward * (proposal - x), proposal)
