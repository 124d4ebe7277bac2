"""Random noise, the control that every attack must beat."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.threat import Norm


class RandomNoise(Attack):
    """Random noise (a control; see Carlini et al. 2019, arXiv 1902.06705): independent images drawn uniformly from the
    ball.

    It does not search: it fools what chance alone fools, and an attack that does no better has not worked. Points are
    drawn from the whole ball and then clipped to the box, so the faces of the box get what lay behind them.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2, Norm.L1})
    uses_gradients: ClassVar[bool] = False
    control: ClassVar[bool] = True
    title: ClassVar[str] = "Random noise"
    kind: Literal["random-noise"] = "random-noise"
    draws: int = Field(100, ge=2, le=100_000, description="Random images per sample; one success is enough.")

    @property
    def iterations(self) -> int:
        return self.draws - 1

    @property
    def cost(self) -> float:
        return float(self.draws)

    def start(self, rows: Rows, query: Query) -> Tensor:
        return rows.ball.sample(rows.x, rows.random("first"))

    def step(self, rows: Rows, query: Query) -> Tensor:
        query.logits()
        return rows.ball.sample(rows.x, rows.random("next"))
