"""DeepFool. Paper: all classes, overshoot 0.02; foolbox 2.3, as in NIP: 10 classes, 100 steps, each 1.05 times as long."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.geometry import rows as per_row

NUDGE = 1e-3
"""Every step is longer by this share of the way so far: steps to a curved boundary get ever shorter and end before it.
The authors and foolbox add 1e-4, which in L-infinity is much against distances such as 0.003."""


class DeepFool(Attack):
    """DeepFool (Moosavi-Dezfooli et al. 2016, arXiv 1511.04599): steps to the nearest linearized class boundary.

    The classes considered are the most likely at every step (the paper: on the clean image). A run ends at its first
    adversarial image, which is then cut to the epsilon ball as one more attempt.
    """

    bounded: ClassVar[bool] = False
    minimizes: ClassVar[bool] = True
    kind: Literal["deepfool"] = "deepfool"
    steps: int = Field(100, ge=1, le=10_000, description="Maximum steps of one run; most runs end after a few.")
    candidates: int = Field(
        10, ge=2, le=1000, description="How many of the most likely classes to consider, including the one to leave."
    )
    overshoot: float = Field(
        0.02, ge=0, le=1, description="How far to go past the boundary, as a share of the way to it."
    )
    overshoot_at: Literal["end", "step"] = Field(
        "end",
        description="end: judge images with overshoot, go on from those without (the paper). step: overshoot every "
        "step (foolbox 2.3, with 0.05; foolbox 3, with 0.02).",
    )

    @property
    def iterations(self) -> int:
        return self.steps

    @property
    def cost(self) -> float:
        return 2.0 * self.candidates * self.steps + 1

    def start(self, rows: Rows, query: Query) -> Tensor:
        rows.memory["base"] = rows.x
        return rows.x

    def step(self, rows: Rows, query: Query) -> Tensor:
        def leads(logits: Tensor) -> Tensor:
            rivals = rows.criterion.reach(logits)[:, : self.candidates - 1]
            return logits.gather(1, rivals) - logits.gather(1, rows.criterion.leave(logits)[:, None])

        x, base = rows.x, rows.memory["base"]
        ahead = rows.criterion.is_adversarial(query.logits())
        slopes, values, logits = query.jacobian(leads, base)
        over = ahead | rows.criterion.is_adversarial(logits)
        query.retire(over)

        speeds = rows.ball.dual_length(slopes.flatten(0, 1)).view_as(values)
        distance, nearest = (values.abs() / speeds.clamp_min(1e-38)).min(1)
        slope = slopes[torch.arange(len(rows), device=x.device), nearest]
        length = distance + NUDGE * rows.ball.distance(base, x)
        step = per_row(length, x) * rows.ball.steepest(slope, base)
        if self.overshoot_at == "step":
            step = (1 + self.overshoot) * step
        base = rows.memory["base"] = (base + step).clamp(0, 1)
        proposal = x + (1 + self.overshoot) * (base - x) if self.overshoot_at == "end" else base
        return torch.where(per_row(over, x), rows.ball.project(rows.x_adv, x), proposal)
