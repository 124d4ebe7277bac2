"""Targeted fast adaptive boundary over the most likely wrong classes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Query, Rows
from auditor.attacking.criterion import Criterion
from auditor.attacking.harness.boundary_projection import FastAdaptiveBoundary
from auditor.attacking.harness.rivals import take_rival


class FABT(FastAdaptiveBoundary):
    """Targeted fast adaptive boundary (Croce and Hein 2020, arXiv 2003.01690): the closest image behind the boundary to each
    of the most likely wrong classes, one run per class.
    """

    title: ClassVar[str] = "FAB-T"
    kind: Literal["fab-t"] = "fab-t"
    classes: int = Field(9, ge=1, le=1000, description="Classes to try, most likely first.")

    @property
    def runs(self) -> int:
        return self.classes

    @property
    def cost(self) -> float:
        return super().cost + 1

    def start(self, rows: Rows, query: Query) -> Tensor:
        take_rival(rows, query)
        return rows.x

    def plane(self, rows: Rows, query: Query) -> tuple[Tensor, Tensor]:
        query.retire(rows.memory["spare"])

        def lead_of_rival(criterion: Criterion, logits: Tensor) -> Tensor:
            left = logits.gather(1, criterion.leave(logits.detach())[:, None])
            return (logits.gather(1, rows.memory["rival"][:, None]) - left).squeeze(1)

        slope = query.gradient(loss=lead_of_rival)
        return slope.loss, slope.value
