"""Training on clean images: the control."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.hardening.hardening import Hardening, Terms, TrainingStep
from auditor.hardening.learning.passes import Passes


class FineTune(Hardening):
    """Training on clean images without an attack: the control, which shows what additional epochs alone do."""

    title: ClassVar[str] = "Fine-tuning (control)"
    kind: Literal["fine_tune"] = "fine_tune"

    @property
    def cost(self) -> Passes:
        return Passes(1, 1)

    def loss(self, step: TrainingStep) -> Terms:
        loss = step.cross_entropy(step.trainee.logits(step.x))
        return Terms(loss, {"clean": loss})
