"""Targeted Auto-PGD over the most likely wrong classes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Loss, Query, Rows
from auditor.attacking.criterion import Criterion
from auditor.attacking.harness.auto_pgd import AutoPGD
from auditor.attacking.harness.losses import targeted_ratio
from auditor.attacking.harness.rivals import take_rival


class APGDT(AutoPGD):
    """Targeted Auto-PGD (Croce and Hein 2020, arXiv 2003.01690): one run towards each of the most likely wrong classes, on the
    targeted difference of logits ratio.

    If the audit's goal is one class, there is one run, towards that class.
    """

    title: ClassVar[str] = "APGD-T"
    kind: Literal["apgd-t"] = "apgd-t"
    restarts: int = Field(9, ge=1, le=1000, description="Classes to try, most likely first; one success is enough.")

    @property
    def cost(self) -> float:
        return super().cost + 1

    def start(self, rows: Rows, query: Query) -> Tensor:
        take_rival(rows, query)
        return super().start(rows, query)

    def loss(self, rows: Rows) -> Loss:
        def towards_rival(criterion: Criterion, logits: Tensor) -> Tensor:
            images = len(logits) // len(rows)
            rival = rows.memory["rival"].repeat_interleave(images)
            return targeted_ratio(logits, criterion.leave(logits.detach()), rival)

        return towards_rival

    def step(self, rows: Rows, query: Query) -> Tensor:
        query.retire(rows.memory["spare"])
        return super().step(rows, query)
