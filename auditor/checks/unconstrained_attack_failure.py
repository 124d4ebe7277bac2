"""Indicator of attack failure 6."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.attack import Attack
from auditor.flag import Flag, Opinion
from auditor.inquiry import Inquiry, changed, whole_box
from auditor.metrics import Rate
from auditor.records import AttackRecord
from auditor.strength import StrongestCheck, about
from auditor.threat import ThreatModel

SOME, MOST = 0.1, 0.5
"""Shares of samples that resist an attack without a constraint, for a warning and for withholding the headline."""


class UnconstrainedAttackFailure(StrongestCheck):
    """Indicator 6 (Pintor et al. 2022, arXiv 2106.09947): from the clean image and without a constraint, the attack succeeds.

    "Without a constraint" is the whole box [0, 1]. The attack starts at the clean image where it lets itself be told so: a
    random start in the whole box would be an image of noise, which fools most models without any attack.
    """

    title: ClassVar[str] = "Indicator 6: unconstrained attack failure"
    gradients: ClassVar[bool] = True
    kind: Literal["unconstrained_attack_failure"] = "unconstrained_attack_failure"

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
            message=f"{attack.display_title()} does not succeed even where every image is allowed.",
            evidence=evidence,
            remedy="The attack does not find its way: its gradients are masked, or its steps too few. Its robust accuracy "
            "says nothing.",
            **about(record),
        )
        return Opinion(evidence, (flag,))


def _from_the_clean_image(attack: Attack) -> Attack:
    changes = {"random_start": False, "restarts": 1}
    known = {name: value for name, value in changes.items() if name in type(attack).model_fields}
    return changed(attack, **known) if "random_start" in known else attack
