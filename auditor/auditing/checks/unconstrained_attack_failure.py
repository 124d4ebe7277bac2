"""Indicator of attack failure 6."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.attacking.attack import Attack
from auditor.attacking.records import AttackRecord
from auditor.attacking.threat import ThreatModel
from auditor.auditing.allowance import changed
from auditor.auditing.inquiry import Inquiry, whole_box
from auditor.auditing.strength import StrongestCheck, about
from auditor.kit.flag import Flag, Opinion
from auditor.kit.statistics.estimate import Rate

SOME, MOST = 0.1, 0.5
"""Shares of samples that resist an attack without a constraint, for a warning and for withholding the headline."""


class UnconstrainedAttackFailure(StrongestCheck):
    """Indicator 6 (Pintor et al. 2022, arXiv 2106.09947): from the clean image and without a constraint, the attack succeeds.

    "Without a constraint" is the whole box [0, 1]. The attack starts at the clean image if it has a parameter for that:
    a random start in the whole box would be an image of noise, which fools most models without any attack.
    """

    title: ClassVar[str] = "Indicator 6: unconstrained attack failure"
    gradients: ClassVar[bool] = True
    kind: Literal["unconstrained_attack_failure"] = "unconstrained_attack_failure"

    def trial(self, attack: Attack, threat: ThreatModel) -> Attack | None:
        return _from_the_clean_image(attack) if attack.uses_gradients else None

    def judge(self, inquiry: Inquiry, threat: ThreatModel, record: AttackRecord) -> Opinion:
        attack = _from_the_clean_image(record.attack)
        positions = inquiry.affordable(attack)
        resisted = Rate.of(
            ~inquiry.attack(attack, whole_box(threat, inquiry.classifier.input_shape), positions).outcome.fooled
        )
        evidence = f"{attack.display_title()} in the whole box fails on {resisted.hits} of {resisted.n} samples"
        if resisted.value is None or resisted.value < SOME:
            return Opinion(evidence)
        lenient = inquiry.one_step(threat) or inquiry.targeted
        flag = Flag(
            name="unconstrained attack failure",
            severity="severe" if resisted.value >= MOST and not lenient else "warning",
            message=f"{attack.display_title()} does not succeed even when every image is allowed.",
            evidence=evidence,
            remedy="The attack fails because its gradients are masked or its steps are too few. Its robust accuracy "
            "says nothing.",
            **about(record),
        )
        return Opinion(evidence, (flag,))


def _from_the_clean_image(attack: Attack) -> Attack:
    changes = {"random_start": False, "restarts": 1}
    known = {name: value for name, value in changes.items() if name in type(attack).model_fields}
    return changed(attack, **known) if "random_start" in known else attack
