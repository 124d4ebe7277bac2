"""A budget that allows everything."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.attacking.attack import Attack
from auditor.attacking.records import AttackRecord
from auditor.attacking.threat import ThreatModel
from auditor.auditing.inquiry import Inquiry, whole_box
from auditor.auditing.strength import StrongestCheck, about
from auditor.kit.flag import Flag, Opinion
from auditor.kit.statistics.estimate import Rate


class HugeEpsilonReachesChance(StrongestCheck):
    """When every image is allowed, accuracy falls to chance or below (Carlini et al. 2019, arXiv 1902.06705)."""

    title: ClassVar[str] = "Huge epsilon reaches chance"
    kind: Literal["huge_epsilon_reaches_chance"] = "huge_epsilon_reaches_chance"

    def trial(self, attack: Attack, threat: ThreatModel) -> Attack:
        return attack

    def judge(self, inquiry: Inquiry, threat: ThreatModel, record: AttackRecord) -> Opinion:
        positions, everything = inquiry.affordable(record.attack), whole_box(threat, inquiry.classifier.input_shape)
        left = Rate.of(~inquiry.attack(record.attack, everything, positions).outcome.fooled)
        chance = 1 / inquiry.classifier.num_classes
        name = record.attack.display_title()
        evidence = f"{name}, {everything}: {left.hits} of {left.n} samples resist ({left}), chance {100 * chance:.1f} %"
        if left.low is None or left.low <= chance:
            return Opinion(evidence)
        flag = Flag(
            name="huge epsilon does not reach chance",
            severity="warning" if inquiry.one_step(threat) or inquiry.targeted else "severe",
            message=f"{name} leaves more than chance accuracy even when every image is allowed.",
            evidence=evidence,
            remedy="The attack is broken, or the gradients are masked: use an attack that needs no gradient.",
            **about(record),
        )
        return Opinion(evidence, (flag,))
