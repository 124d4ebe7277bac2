"""Projected gradient descent."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.threat import Norm


class PGD(Attack):
    """Projected gradient descent (Madry et al. 2018, arXiv 1706.06083): steps along the gradient, each projected back.

    The step is the gradient's sign in L∞ and the gradient scaled to unit length in L2; in L1 the largest 5 % of its entries
    move alike (Tramèr and Boneh 2019, arXiv 1904.13000).
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2, Norm.L1})
    title: ClassVar[str] = "PGD"
    kind: Literal["pgd"] = "pgd"
    steps: int = Field(10, ge=1, le=10_000, description="Gradient steps of one run.")
    step_size: float = Field(0.25, gt=0, le=10, description="Length of one step, as a fraction of epsilon.")
    random_start: bool = Field(True, description="Start from a random point of the ball instead of the clean image.")
    restarts: int = Field(1, ge=1, le=1000, description="Independent random starts per image; one success is enough.")

    @model_validator(mode="after")
    def _restarts_differ(self) -> PGD:
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts = {self.restarts} without random_start would repeat the same run")
        return self

    @property
    def runs(self) -> int:
        return self.restarts

    @property
    def iterations(self) -> int:
        return self.steps

    def start(self, rows: Rows, query: Query) -> Tensor:
        return rows.ball.sample(rows.x, rows.random("start")) if self.random_start else rows.x

    def step(self, rows: Rows, query: Query) -> Tensor:
        step = self.step_size * rows.ball.epsilon * rows.ball.steepest(query.gradient().value, rows.x_adv)
        return rows.x_adv + step
