"""Carlini and Wagner's L2 attack.

Paper: c from 0.01, kappa 0, up to 20 binary steps of 10,000 iterations, step size 0.01. Defaults here: those of NIP, 3 times 300.
Without the paper's early abort, and without the last repetition at the largest c, both of which only save or add time.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.geometry import rows as per_row
from auditor.attacking.harness.adam import adam
from auditor.attacking.harness.losses import margin
from auditor.attacking.threat import Norm

INSIDE = 0.999999
"""Images are drawn in by this factor towards grey, so tanh reaches them."""


class CarliniWagner(Attack):
    """Carlini and Wagner's attack (2017, arXiv 1608.04644, section VI-A): least squared distance plus c times the hinge loss.

    Adam runs in tanh space. The weight c is searched per image: multiplied by 10 until a run succeeds, then bisected.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    bounded: ClassVar[bool] = False
    minimizes: ClassVar[bool] = True
    title: ClassVar[str] = "Carlini-Wagner"
    kind: Literal["carlini-wagner"] = "carlini-wagner"
    binary_steps: int = Field(3, ge=1, le=20, description="Values of c tried, one after another.")
    steps: int = Field(300, ge=1, le=10_000, description="Adam steps for each value of c.")
    step_size: float = Field(0.01, gt=0, le=1, description="Step size of Adam, in tanh space.")
    first_weight: float = Field(
        0.01, gt=0, le=1e6, description="The first c, the weight of the loss against the distance."
    )
    confidence: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Margin by which a wrong class must lead before c is lowered (kappa); the closest image counts in "
        "any case.",
    )

    @property
    def iterations(self) -> int:
        return self.binary_steps * self.steps

    def start(self, rows: Rows, query: Query) -> Tensor:
        zero = torch.zeros_like(rows.x)
        low = torch.zeros_like(rows.epsilon)
        start = _variable(rows.x)
        rows.memory.update({"variable": start, "mean": zero, "square": zero})
        rows.memory.update({"weight": low + self.first_weight, "low": low, "high": low + torch.inf, "found": low > 0})
        return _image(start)

    def step(self, rows: Rows, query: Query) -> Tensor:
        start, variable, weight = _variable(rows.x), rows.memory["variable"], rows.memory["weight"]
        count = rows.steps % self.steps + 1
        lead = query.gradient(loss=margin)
        found = rows.memory["found"] | (lead.loss > self.confidence)
        # d/dx of |x_adv - x|^2 + c max(kappa - lead, 0), and on through the tanh.
        hinge = per_row(weight * (lead.loss < self.confidence), variable) * lead.value
        slope = 2 * (_image(variable) - _image(start)) - hinge
        slope = slope * (1 - variable.tanh().square()) / 2
        step, mean, square = adam(slope, rows.memory["mean"], rows.memory["square"], count, self.step_size)

        over = count == self.steps  # this value of c is done with; the next begins at the clean image
        high = torch.where(over & found, weight, rows.memory["high"])
        low = torch.where(over & ~found, weight, rows.memory["low"])
        following = torch.where(high.isinf(), weight * 10, (low + high) / 2)
        again = per_row(over, variable)
        variable = torch.where(again, start, variable - step)
        rows.memory.update(
            {
                "variable": variable,
                "mean": mean.masked_fill(again, 0),
                "square": square.masked_fill(again, 0),
            }
        )
        rows.memory.update(
            {
                "weight": torch.where(over, following, weight),
                "low": low,
                "high": high,
                "found": found & ~over,
            }
        )
        return _image(variable)


def _variable(x: Tensor) -> Tensor:
    return ((2 * x - 1) * INSIDE).atanh()


def _image(variable: Tensor) -> Tensor:
    return (variable.tanh() + 1) / 2
