"""Fast adversarial training."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.hardening.hardening import Terms, TrainingStep
from auditor.hardening.learning.adversary import Adversarial
from auditor.hardening.learning.passes import Passes


class FastAT(Adversarial):
    """Fast adversarial training (Wong et al. 2020, arXiv 2001.03994): one step from a random point of the ball, twins alone.

    The step is longer than epsilon. Too long a step or too many epochs end in catastrophic overfitting: robust to one step, and
    not at all to several, which the validation's PGD shows.
    """

    title: ClassVar[str] = "Fast adversarial training"
    kind: Literal["fast_at"] = "fast_at"
    steps: int = Field(1, ge=1, le=1000, description="Steps of the training attack.")
    step_size: float = Field(1.25, gt=0, le=10, description="Length of one step, as a fraction of epsilon.")

    @property
    def cost(self) -> Passes:
        return self.attack_cost.plus(1, 1)

    def loss(self, step: TrainingStep) -> Terms:
        loss = step.cross_entropy(step.trainee.logits(self.adversarial(step)))
        return Terms(loss, {"adversarial": loss})
