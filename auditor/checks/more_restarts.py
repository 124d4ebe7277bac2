"""More random starts."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.check import ThreatCheck
from auditor.flag import Opinion
from auditor.inquiry import Inquiry, changed
from auditor.strength import gained, weakness
from auditor.threat import ThreatModel


class MoreRestarts(ThreatCheck):
    """More random starts find hardly more (Carlini et al. 2019, arXiv 1902.06705)."""

    title: ClassVar[str] = "More restarts find no more"
    kind: Literal["more_restarts"] = "more_restarts"
    factor: int = Field(5, ge=2, le=100, description="Times as many runs.")

    def examine(self, inquiry: Inquiry, threat: ThreatModel) -> Opinion:
        record = inquiry.strongest(threat)
        fields = type(record.attack).model_fields if record is not None else {}
        if record is None or "restarts" not in fields:
            return Opinion("the strongest attack has no restarts", applies=False)
        changes = {"restarts": self.factor * record.attack.runs} | (
            {"random_start": True} if "random_start" in fields else {}
        )
        again = changed(record.attack, **changes)
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
