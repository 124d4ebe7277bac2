"""Indicator of attack failure 5."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from auditor.attacking.attack import Attack
from auditor.attacking.harness.attack_run import PROBED
from auditor.attacking.harness.fast import fast_copy
from auditor.attacking.threat import ThreatModel
from auditor.auditing.allowance import Allowance
from auditor.auditing.check import ThreatCheck
from auditor.auditing.inquiry import Inquiry
from auditor.auditing.strength import weakness
from auditor.kit.flag import Flag, Opinion
from auditor.models.classifier import Classifier


class TransferFailure(ThreatCheck):
    """Indicator 5 (Pintor et al. 2022, arXiv 2106.09947): what fools the attacked network also fools the network that
    judges.

    Attacks run on a faster copy of the network (its batch norms folded), and the network itself judges.
    """

    title: ClassVar[str] = "Indicator 5: transfer failure"
    kind: Literal["transfer_failure"] = "transfer_failure"

    def trial(self, attack: Attack, threat: ThreatModel) -> Attack:
        return attack

    def trial_cost(self, trial: Attack, allowance: Allowance) -> float:
        """A model with random outputs has no copy; else the network and its copy judge each final image."""
        return 0.0 if allowance.random else allowance.cost(trial) + 2 * allowance.affordable(trial)

    def examine(self, inquiry: Inquiry, threat: ThreatModel) -> Opinion:
        record = inquiry.strongest(threat)
        if record is None:
            return Opinion("no attack ran", applies=False)
        positions = inquiry.affordable(record.attack)
        copy = fast_copy(inquiry.classifier, inquiry.clean(positions[:PROBED]))
        if copy is inquiry.classifier:
            return Opinion("attacks run on the network itself, not on a copy")
        trial, wanted = inquiry.attack(record.attack, threat, positions), inquiry.wanted(positions)
        judged = wanted.is_adversarial(_logits(inquiry.classifier, trial.x_adv, inquiry)).cpu().numpy()
        attacked = wanted.is_adversarial(_logits(copy, trial.x_adv, inquiry)).cpu().numpy()
        failed = attacked & ~judged
        evidence = (
            f"{int(failed.sum())} of {len(positions)} final images fool the copy that is attacked but not the network"
        )
        flags: tuple[Flag, ...] = weakness(
            "transfer failure",
            failed,
            f"Images that fool the copy under attack do not fool the network ({threat}).",
            "The copy is not the same function: report this network.",
        )
        return Opinion(evidence, flags)


def _logits(network: Classifier | torch.nn.Module, images: torch.Tensor, inquiry: Inquiry) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([network(part.to(inquiry.classifier.device)) for part in images.split(inquiry.batch_size)])
