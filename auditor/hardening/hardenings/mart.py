"""MART."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch.nn.functional import log_softmax

from auditor.hardening.hardening import Terms, TrainingStep
from auditor.hardening.learning.adversary import NearStart
from auditor.hardening.learning.passes import Passes

FLOOR = 1e-4
"""Added to 1 - p before the logarithm, so it stays finite (the authors' code: log(1.0001 - p))."""


class MART(NearStart):
    """Misclassification-aware adversarial training (Wang et al. 2020, ICLR, equation 11).

    BCE(x', y) + beta (1 - p_y(x)) KL(p(x) || p(x')): images that the network gets wrong count more. BCE is the cross-entropy
    with a margin, - log p_y - log(1 - max of the others' p).
    """

    title: ClassVar[str] = "MART"
    kind: Literal["mart"] = "mart"
    beta: float = Field(5.0, ge=0, le=1e6, description="Weight of the divergence between an image and its twin.")

    @property
    def cost(self) -> Passes:
        return self.attack_cost.plus(2, 2)

    def loss(self, step: TrainingStep) -> Terms:
        x_adv = self.adversarial(step)
        clean, adversarial = step.trainee.logits(step.x), step.trainee.logits(x_adv)
        natural, moved = log_softmax(clean, 1), log_softmax(adversarial, 1)
        label = step.labels[:, None]
        others = moved.exp().scatter(1, label, 0.0).amax(1)
        boosted = step.cross_entropy(adversarial) - torch.log(1 + FLOOR - others).mean()
        doubt = 1 - natural.exp().gather(1, label).squeeze(1)
        divergence = (natural.exp() * (natural - moved)).sum(1)
        weighted = (doubt * divergence).mean()
        return Terms(boosted + self.beta * weighted, {"boosted": boosted, "weighted divergence": weighted})
