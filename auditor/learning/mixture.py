"""The loss on clean and adversarial images that PAT has alone and other methods add to."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from pydantic import Field
from torch import Tensor

from auditor.hardening import Terms, TrainingStep
from auditor.learning.adversary import Adversarial
from auditor.learning.passes import Passes
from auditor.learning.trainee import Features


class BothSides(NamedTuple):
    """Logits and features of a batch's clean and adversarial images, each from a pass of its own."""

    clean: Features
    adversarial: Features


class Mixture(Adversarial):
    """Trainings with the loss (1 - mix) CE(x, y) + mix CE(x', y), and maybe more."""

    mix: float = Field(
        0.5, gt=0, le=1, description="Weight of the adversarial images; that of the clean ones is the rest."
    )

    @property
    def cost(self) -> Passes:
        return self.attack_cost.plus(2, 2)

    def both(self, step: TrainingStep, x_adv: Tensor, layers: Collection[str] = ()) -> BothSides:
        """A pass over each side, clean first, with the outputs of some layers."""
        return BothSides(step.trainee.features(step.x, layers), step.trainee.features(x_adv, layers))

    def mixed(self, step: TrainingStep, sides: BothSides) -> Terms:
        """The cross-entropies, weighted."""
        clean, adversarial = (step.cross_entropy(side.logits) for side in sides)
        loss = (1 - self.mix) * clean + self.mix * adversarial
        return Terms(loss, {"clean": clean, "adversarial": adversarial})
