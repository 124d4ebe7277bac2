"""TRADES."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from auditor.hardening.hardening import Terms, TrainingStep
from auditor.hardening.learning.adversary import NearStart
from auditor.hardening.learning.passes import Passes


class TRADES(NearStart):
    """TRADES (Zhang et al. 2019, arXiv 1901.08573): CE(x, y) + beta KL(p(x) || p(x')), where x' is what makes the second largest.

    The attack does not look at the label. ``beta`` is the paper's 1 / lambda.
    """

    title: ClassVar[str] = "TRADES"
    kind: Literal["trades"] = "trades"
    beta: float = Field(6.0, ge=0, le=1e6, description="Weight of the divergence between an image and its twin.")

    @property
    def cost(self) -> Passes:
        return self.attack_cost.plus(3, 2)

    def loss(self, step: TrainingStep) -> Terms:
        with torch.no_grad():
            before = log_softmax(step.trainee.run(step.x), 1)
        step.trainee.count(forwards=len(step.x))

        def away(points: Tensor) -> Tensor:
            return divergence(before, log_softmax(step.trainee.run(points), 1)).sum()

        x_adv = self.adversarial(step, away)
        clean, adversarial = step.trainee.logits(step.x), step.trainee.logits(x_adv)
        natural = step.cross_entropy(clean)
        robust = divergence(log_softmax(clean, 1), log_softmax(adversarial, 1)).mean()
        return Terms(natural + self.beta * robust, {"clean": natural, "divergence": robust})


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """KL(p || q) of each row, (B,), from log p and log q, (B, K)."""
    return kl_div(other, one, reduction="none", log_target=True).sum(1)
