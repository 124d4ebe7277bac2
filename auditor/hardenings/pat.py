"""Adversarial training with PGD, on clean and adversarial images."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.hardening import Terms, TrainingStep
from auditor.learning.mixture import Mixture
from auditor.learning.passes import Passes


class PAT(Mixture):
    """Adversarial training with PGD (Madry et al. 2018, arXiv 1706.06083), mixed with clean images.

    (1 - mix) CE(x, y) + mix CE(x', y), half and half by default (Zhang et al. 2020, arXiv 1909.06978); mix = 1 is Madry's own.
    """

    title: ClassVar[str] = "PGD adversarial training (PAT)"
    kind: Literal["pat"] = "pat"

    @property
    def cost(self) -> Passes:
        sides = 1 if self.mix == 1 else 2
        return self.attack_cost.plus(sides, sides)

    def loss(self, step: TrainingStep) -> Terms:
        x_adv = self.adversarial(step)
        if self.mix < 1:
            return self.mixed(step, self.both(step, x_adv))
        loss = step.cross_entropy(step.trainee.logits(x_adv))
        return Terms(loss, {"adversarial": loss})
