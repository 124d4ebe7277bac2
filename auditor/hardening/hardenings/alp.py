"""Adversarial logit pairing."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch.nn.functional import mse_loss

from auditor.hardening.hardening import Terms, TrainingStep
from auditor.hardening.learning.mixture import Mixture


class ALP(Mixture):
    """Adversarial logit pairing (Kannan et al. 2018, arXiv 1803.06373): PAT with a penalty that keeps an image's logits
    close to its twin's.

    The pairing is the mean over images and classes of the squared difference; gradients flow through both sides. Its robustness
    falls under strong attacks (Engstrom et al. 2018, arXiv 1807.10272).
    """

    title: ClassVar[str] = "Adversarial logit pairing (ALP)"
    kind: Literal["alp"] = "alp"
    pairing: float = Field(0.5, ge=0, le=1e6, description="Weight of the difference between the logits of a pair.")

    def loss(self, step: TrainingStep) -> Terms:
        sides = self.both(step, self.adversarial(step))
        mixed = self.mixed(step, sides)
        pairing = mse_loss(sides.adversarial.logits, sides.clean.logits)
        return Terms(mixed.loss + self.pairing * pairing, {**mixed.parts, "pairing": pairing})
