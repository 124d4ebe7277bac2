"""A penalty on the loss gradient along the critical attacking route."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.hardening.hardening import Memory, Terms, TrainingStep
from auditor.hardening.learning.passes import Passes
from auditor.hardening.learning.routed import PREFIX, RoutePenalized
from auditor.hardening.learning.trainee import Features, full


class RouteGradient(RoutePenalized):
    """Small gradients on the critical attacking route (Li et al. 2021, Information Sciences, eq. 9-12): Vanilla_g and PAT_g.

    Adds lambda times the sum over layers and their channels of the L1 norm of dCE/dZ, mean over the batch, for the clean images
    and, under PAT, for the twins too. Lambda is not given in the paper: choose it on the validation images.
    """

    title: ClassVar[str] = "Route penalty, gradients"
    kind: Literal["route_gradient"] = "route_gradient"
    penalty: float = Field(1e-3, ge=0, le=1e6, description="Lambda, the weight of the penalty.")

    @property
    def cost(self) -> Passes:
        sides = 1 if self.base == "vanilla" else 2
        return super().cost.plus(0, 2 * sides)

    def loss(self, step: TrainingStep) -> Terms:
        clean, adversarial = sides = self.sides(step, self.watched(step.memory))
        if self.base == "vanilla":
            natural = step.cross_entropy(clean.logits)
            penalty = self._slope(step, clean)
            return Terms(natural + self.penalty * penalty, {"clean": natural, "route gradient": penalty})
        mixed = self.mixed(step, sides)
        penalty = self._slope(step, clean) + self._slope(step, adversarial)
        return Terms(mixed.loss + self.penalty * penalty, {**mixed.parts, "route gradient": penalty})

    def _slope(self, step: TrainingStep, side: Features) -> Tensor:
        """L_g (eq. 9): the sum of the cross-entropies is differentiated, so each image has its own gradient."""
        step.trainee.count(backwards=2 * len(step.x))  # this one, and the one through it
        total = cross_entropy(side.logits, step.labels, reduction="sum")
        slopes = torch.autograd.grad(total, list(side.outputs.values()), create_graph=True)
        return gradient_norm(dict(zip(side.outputs, slopes, strict=True)), step.memory)


def gradient_norm(slopes: dict[str, Tensor], memory: Memory) -> Tensor:
    """Sum over layers, channels and positions of |dL/dZ|, mean over the batch."""
    parts = [full(slope[:, memory[PREFIX + layer]]).abs().flatten(1).sum(1).mean() for layer, slope in slopes.items()]
    return torch.stack(parts).sum()
