"""Indicator of attack failure 3."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.attacking.attack import Attack
from auditor.attacking.threat import ThreatModel
from auditor.auditing.allowance import Allowance
from auditor.auditing.check import ThreatCheck
from auditor.auditing.inquiry import Inquiry
from auditor.kit.flag import Flag, Opinion


class SilentSuccess(ThreatCheck):
    """Indicator 3 (Pintor et al. 2022, arXiv 2106.09947): every adversarial image that an attack finds on its way is
    counted.

    The attack runs again with all its steps and is judged by its last image alone. What fails by that measure but counts in
    the record was a silent success, which the harness counts. What succeeds by that measure but does not count is an error.
    """

    title: ClassVar[str] = "Indicator 3: silent success"
    kind: Literal["silent_success"] = "silent_success"

    def trial(self, attack: Attack, threat: ThreatModel) -> Attack | None:
        return attack if attack.single and attack.bounded else None

    def trial_cost(self, trial: Attack, allowance: Allowance) -> float:
        return 0.0 if allowance.random else super().trial_cost(trial, allowance)

    def examine(self, inquiry: Inquiry, threat: ThreatModel) -> Opinion:
        record = inquiry.strongest(threat)
        if record is None:
            return Opinion("no attack ran", applies=False)
        attack = record.attack
        if self.trial(attack, threat) is None:
            return Opinion(f"{attack.display_title()} has no single last image", applies=False)
        if inquiry.classifier.random:
            return Opinion(
                "the model has random outputs: fresh draws judge the image after the last step, so no step can succeed "
                "silently",
                applies=False,
            )
        positions = inquiry.affordable(attack)
        last = inquiry.attack(attack, threat, positions, early_stop=False).outcome.fooled
        counted = inquiry.fooled(record, positions)
        silent, lost = int((counted & ~last).sum()), int((last & ~counted).sum())
        evidence = (
            f"{attack.display_title()} on {len(positions)} samples: {silent} succeed on the way but not at the last image, and "
            f"are counted; {lost} succeed at the last image and are not"
        )
        if not lost:
            return Opinion(evidence)
        flag = Flag(
            name="success not counted",
            severity="severe",
            message=f"{attack.display_title()} ({threat}) found adversarial images that its record does not count.",
            evidence=evidence,
            remedy="The record and the attack disagree: run the audit again, and report this.",
        )
        return Opinion(evidence, (flag,))
