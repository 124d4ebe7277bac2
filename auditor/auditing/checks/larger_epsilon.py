"""A larger budget."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.attacking.attack import Attack
from auditor.attacking.records import AttackRecord
from auditor.attacking.threat import Norm, ThreatModel
from auditor.auditing.inquiry import Inquiry
from auditor.auditing.strength import StrongestCheck, about, gained, weakness
from auditor.kit.flag import Opinion


class LargerEpsilon(StrongestCheck):
    """A larger epsilon is never weaker (Carlini et al. 2019, arXiv 1902.06705): what was fooled is fooled again."""

    title: ClassVar[str] = "Larger epsilon is not weaker"
    kind: Literal["larger_epsilon"] = "larger_epsilon"
    factor: float = Field(2.0, gt=1, le=100, description="Factor on epsilon.")

    def trial(self, attack: Attack, threat: ThreatModel) -> Attack:
        return attack

    def judge(self, inquiry: Inquiry, threat: ThreatModel, record: AttackRecord) -> Opinion:
        positions = inquiry.affordable(record.attack)
        positions = positions[inquiry.fooled(record, positions)]
        if not len(positions):
            return Opinion("no sample was fooled at the smaller epsilon", applies=False)
        epsilon = self.factor * threat.epsilon
        larger = threat.model_copy(update={"epsilon": round(epsilon) if threat.norm is Norm.L0 else epsilon})
        lost = gained(inquiry.won(record, positions), inquiry.attack(record.attack, larger, positions).outcome.won)
        name = record.attack.display_title()
        evidence = f"{name}, {larger}: {int(lost.sum())} of {len(positions)} samples that {threat} fools resist"
        flags = weakness(
            "larger epsilon is weaker",
            lost,
            f"{name} fails at {larger} on samples that it fools at {threat}.",
            "The attack does not follow the loss: its steps are too long, or its gradients mislead it.",
            most="warning" if inquiry.one_step(threat) else "severe",
            about=about(record),
        )
        return Opinion(evidence, flags)
