"""The basic iterative method."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows


class BIM(Attack):
    """Basic iterative method (Kurakin et al. 2017, arXiv 1607.02533): FGSM in small steps, each projected back, no random start.

    The paper takes steps of 1/255 (min(epsilon + 4, 1.25 epsilon) of them, epsilon in 1/255); the defaults are those of
    foolbox: 10 steps of epsilon/5.
    """

    title: ClassVar[str] = "BIM"
    kind: Literal["bim"] = "bim"
    steps: int = Field(10, ge=1, le=10_000, description="Gradient steps.")
    step_size: float = Field(0.2, gt=0, le=10, description="Length of one step, as a fraction of epsilon.")

    @property
    def iterations(self) -> int:
        return self.steps

    def step(self, rows: Rows, query: Query) -> Tensor:
        direction = rows.ball.steepest(query.gradient().value, rows.x_adv)
        return rows.x_adv + self.step_size * rows.ball.epsilon * direction
