"""Random noise of the same size."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack
from auditor.attacking.threat import Ball, Norm, ThreatModel
from auditor.auditing.allowance import Allowance
from auditor.auditing.check import ThreatCheck
from auditor.auditing.inquiry import Inquiry, Trial
from auditor.auditing.strength import about
from auditor.kit.flag import Flag, Opinion
from auditor.kit.randomness import RowRandom
from auditor.kit.statistics.estimate import Rate
from auditor.models.preflight import comparing

FEW = 10
"""With fewer samples than these on which attack and noise differ, nothing can be told."""


class RandomNoiseWeaker(ThreatCheck):
    """An attack raises the loss more than random noise of the same size does (Carlini et al. 2019, arXiv 1902.06705).

    Of each sample, the margin at the attack's final image is compared with the best of several draws of noise that is as large
    as the attack's own perturbation. Samples that noise fools, too, are left out.
    """

    title: ClassVar[str] = "Random noise is weaker"
    kind: Literal["random_noise_weaker"] = "random_noise_weaker"
    draws: int = Field(10, ge=1, le=1000, description="Draws of noise per sample.")
    clearly: float = Field(0.8, gt=0.5, le=1, description="Share of samples on which an attack must beat the noise.")
    hardly: float = Field(0.6, gt=0, le=1, description="Share up to which the headline is withheld.")

    def cost_within(self, threat: ThreatModel, allowance: Allowance) -> float:
        """Every attack once more; then its final images and the noise are judged."""
        if threat.norm is Norm.L0:
            return 0.0
        judged = (1 + self.draws) * allowance.answers
        return sum(
            allowance.cost(attack) + judged * allowance.affordable(attack) for attack in allowance.attacks[threat]
        )

    def examine(self, inquiry: Inquiry, threat: ThreatModel) -> Opinion:
        if threat.norm is Norm.L0:
            return Opinion("there is no uniform noise in L0", applies=False)
        strongest, said, flags = inquiry.strongest(threat), [], []
        for record in inquiry.headline(threat):
            name = record.attack.display_title()
            beats = self._beats_noise(inquiry, record.attack, threat)
            if beats.value is None or beats.n < FEW:
                said.append(f"{name}: noise does the same on all but {beats.n} samples")
                continue
            said.append(f"{name} beats it on {beats.hits} of {beats.n} samples")
            if beats.value >= self.clearly:
                continue
            trusted = record is strongest or record.attack.uses_gradients
            flags.append(
                Flag(
                    name="no better than noise",
                    severity="severe" if trusted and beats.value <= self.hardly else "warning",
                    message=f"{name} ({threat}) does not do clearly better than random noise of the same size.",
                    evidence=f"it beats the best of {self.draws} draws on {beats.hits} of {beats.n} samples ({beats})",
                    remedy="The attack does not do what its name says, or the model hides its gradients from it.",
                    **about(record),
                )
            )
        if not said:
            return Opinion("no attack ran", applies=False)
        return Opinion(", ".join(said), tuple(flags))

    def _beats_noise(self, inquiry: Inquiry, attack: Attack, threat: ThreatModel) -> Rate:
        positions = inquiry.affordable(attack)
        trial, wanted = inquiry.attack(attack, threat, positions), inquiry.wanted(positions)
        model = comparing(inquiry.classifier)
        reached = inquiry.margins(wanted, trial.x_adv, model)
        radius = _size(attack, threat, trial)
        random = RowRandom(inquiry.seed, "noise of the same size", [(int(item),) for item in inquiry.ids[positions]])
        ball = Ball(threat.norm, radius.view(-1, 1, 1, 1))
        noise = torch.full_like(reached, -torch.inf)
        for _ in range(self.draws):
            noise = torch.maximum(
                noise, inquiry.margins(wanted, ball.project(ball.sample(trial.x, random), trial.x), model)
            )
        telling = (radius > 0) & ~((reached > 0) & (noise > 0))
        return Rate.of((reached > noise)[telling].numpy())


def _size(attack: Attack, threat: ThreatModel, trial: Trial) -> Tensor:
    """How large the noise may be, (N,): as the attack's perturbation, or epsilon where the attack used that in vain."""
    distance = torch.from_numpy(trial.outcome.distance).to(trial.x.dtype)
    in_vain = torch.from_numpy(~np.isfinite(trial.outcome.closest))
    return torch.where(in_vain & attack.bounded, torch.full_like(distance, threat.epsilon), distance)
