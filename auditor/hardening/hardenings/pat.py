"""Adversarial training with PGD, on clean and adversarial images."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.hardening.hardening import Terms, TrainingStep
from auditor.hardening.learning.mixture import Mixture


class PAT(Mixture):
    """Adversarial training with PGD (Madry et al. 2018, arXiv 1706.06083), mixed with clean images.

    (1 - mix) CE(x, y) + mix CE(x', y), half and half by default (Zhang et al. 2020, arXiv 1909.06978); mix = 1 is Madry's own.
    """

    title: ClassVar[str] = "PGD adversarial training (PAT)"
    kind: Literal["pat"] = "pat"
    pairs_sides: ClassVar[bool] = False

    def loss(self, step: TrainingStep) -> Terms:
        return self.trained(step, self.adversarial(step))
