"""Fast adaptive boundary."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Query, Rows
from auditor.attacking.harness.boundary_projection import FastAdaptiveBoundary

TYPICAL_CLASSES = 9
"""For the estimate of its cost: classes that would do."""


class FAB(FastAdaptiveBoundary):
    """Fast adaptive boundary (Croce and Hein 2020, arXiv 1907.02044): projections onto the nearest linearized boundary, with
    a pull towards the clean image. It takes one backward pass per class that counts as success.
    """

    title: ClassVar[str] = "FAB"
    kind: Literal["fab"] = "fab"
    restarts: int = Field(1, ge=1, le=1000, description="Runs; each one after the first starts at a random point.")

    @property
    def runs(self) -> int:
        return self.restarts

    @property
    def cost(self) -> float:
        return self.steps * (2.0 + 2 * TYPICAL_CLASSES) + 1

    def plane(self, rows: Rows, query: Query) -> tuple[Tensor, Tensor]:
        def leads(logits: Tensor) -> Tensor:
            rivals, left = rows.criterion.reach(logits.detach()), rows.criterion.leave(logits.detach())
            return logits.gather(1, rivals) - logits.gather(1, left[:, None])

        slopes = query.jacobian(leads)
        lengths = torch.stack(
            [rows.ball.dual_length(slopes.value[:, index]) for index in range(slopes.outputs.shape[1])], 1
        )
        nearest = (slopes.outputs.abs() / lengths.clamp_min(1e-12)).argmin(1)
        each = torch.arange(len(rows), device=nearest.device)
        return slopes.outputs[each, nearest], slopes.value[each, nearest]
