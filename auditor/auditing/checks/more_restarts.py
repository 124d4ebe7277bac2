"""More random starts."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.attacking.attack import Attack
from auditor.attacking.threat import ThreatModel
from auditor.auditing.allowance import changed
from auditor.auditing.check import ThreatCheck
from auditor.auditing.inquiry import Inquiry
from auditor.auditing.strength import gained, weakness
from auditor.kit.flag import Opinion


class MoreRestarts(ThreatCheck):
    """More random starts find hardly more (Carlini et al. 2019, arXiv 1902.06705)."""

    title: ClassVar[str] = "More restarts find no more"
    kind: Literal["more_restarts"] = "more_restarts"
    factor: int = Field(5, ge=2, le=100, description="Factor on the number of runs.")

    def trial(self, attack: Attack, threat: ThreatModel) -> Attack | None:
        fields = type(attack).model_fields
        if "restarts" not in fields:
            return None
        changes = {"restarts": self.factor * attack.runs} | ({"random_start": True} if "random_start" in fields else {})
        return changed(attack, **changes)

    def examine(self, inquiry: Inquiry, threat: ThreatModel) -> Opinion:
        record = inquiry.strongest(threat)
        again = self.trial(record.attack, threat) if record is not None else None
        if record is None or again is None:
            return Opinion("the strongest attack has no restarts", applies=False)
        positions = inquiry.affordable(again)
        before = inquiry.won(record, positions)
        more = gained(inquiry.attack(again, threat, positions).outcome.won, before)
        name = record.attack.display_title()
        evidence = (
            f"{name} with {again.runs} starts instead of {record.attack.runs} fools {int(more.sum())} more of "
            f"{len(positions)} samples"
        )
        flags = weakness(
            "more restarts find more",
            more,
            f"More random starts fool samples that {name} ({threat}) leaves: the robust accuracy is too high.",
            "Give the attack more restarts.",
            unknown=~inquiry.known(threat, positions),
        )
        return Opinion(evidence, flags)
