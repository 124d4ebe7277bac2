"""The loss on clean and adversarial images that PAT has alone and other methods add to."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, NamedTuple

from pydantic import Field
from torch import Tensor

from auditor.hardening.hardening import Terms, TrainingStep
from auditor.hardening.learning.adversary import Adversarial
from auditor.hardening.learning.passes import Passes
from auditor.hardening.learning.trainee import Features


class BothSides(NamedTuple):
    """Logits and features of a batch's clean and adversarial images, each from a pass of its own."""

    clean: Features
    adversarial: Features


class Mixture(Adversarial):
    """Trainings with the loss (1 - mix) CE(x, y) + mix CE(x', y), and maybe more."""

    pairs_sides: ClassVar[bool] = True
    """Whether the method needs the clean images as well as their twins, whatever their weight."""

    mix: float = Field(0.5, gt=0, le=1, description="Weight of the adversarial images; the clean images get the rest.")

    @property
    def cost(self) -> Passes:
        sides = 1 if self.mix == 1 and not self.pairs_sides else 2
        return self.attack_cost.plus(sides, sides)

    def trained(self, step: TrainingStep, x_adv: Tensor) -> Terms:
        """The loss alone; the clean images are left out where they have no weight."""
        if self.mix < 1:
            return self.mixed(step, self.both(step, x_adv))
        loss = step.cross_entropy(step.trainee.logits(x_adv))
        return Terms(loss, {"adversarial": loss})

    def both(self, step: TrainingStep, x_adv: Tensor, layers: Collection[str] = ()) -> BothSides:
        """A pass over each side, clean first, with the outputs of some layers."""
        return BothSides(step.trainee.features(step.x, layers), step.trainee.features(x_adv, layers))

    def mixed(self, step: TrainingStep, sides: BothSides) -> Terms:
        """The cross-entropies, weighted."""
        clean, adversarial = (step.cross_entropy(side.logits) for side in sides)
        loss = (1 - self.mix) * clean + self.mix * adversarial
        return Terms(loss, {"clean": clean, "adversarial": adversarial})
