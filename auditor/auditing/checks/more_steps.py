"""More steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from auditor.attacking.attack import ATTACKS, Attack
from auditor.attacking.records import AttackRecord
from auditor.attacking.threat import ThreatModel
from auditor.auditing.allowance import changed
from auditor.auditing.inquiry import Inquiry
from auditor.auditing.strength import StrongestCheck, about, gained, weakness
from auditor.kit.flag import Opinion

LENGTHS = ("steps", "queries")
"""What attacks call the number of their steps."""


class MoreSteps(StrongestCheck):
    """More steps find hardly more, and never less (Carlini et al. 2019, arXiv 1902.06705).

    An attack that takes a single step is compared with PGD.
    """

    title: ClassVar[str] = "More steps find no more"
    kind: Literal["more_steps"] = "more_steps"
    factor: int = Field(5, ge=2, le=100, description="Factor on the number of steps.")

    def candidates(self, attacks: Sequence[Attack]) -> Sequence[Attack]:
        return [attack for attack in attacks if attack.uses_gradients] or attacks

    def examine(self, inquiry: Inquiry, threat: ThreatModel) -> Opinion:
        """Those that follow gradients go first, however few samples they fooled."""
        followers = inquiry.ranked(threat, gradients=True)
        return self.tried(inquiry, threat, followers or inquiry.ranked(threat))

    def judge(self, inquiry: Inquiry, threat: ThreatModel, record: AttackRecord) -> Opinion:
        longer = self.trial(record.attack, threat)
        if longer is None:
            return Opinion("the strongest attack has no number of steps to increase", applies=False)
        positions = inquiry.affordable(longer)
        before = inquiry.won(record, positions)
        after = inquiry.attack(longer, threat, positions).outcome.won
        more, fewer = gained(after, before), gained(before, after)
        name = record.attack.display_title()
        evidence = (
            f"{longer.display_title()} with {longer.iterations} steps instead of {name} with {record.attack.iterations} fools "
            f"{int(more.sum())} more and {int(fewer.sum())} fewer of {len(positions)} samples"
        )
        flags = weakness(
            "more steps find more",
            more,
            f"More steps fool samples that {name} ({threat}) leaves: the robust accuracy is too high.",
            "Give the attack more steps.",
            most="warning" if inquiry.one_step(threat) else "severe",
            unknown=~inquiry.known(threat, positions),
        ) + weakness(
            "more steps find less",
            fewer,
            f"More steps fool fewer samples than {name} ({threat}) does.",
            "The attack does not climb its loss: its gradients mislead it.",
            about=about(record),
        )
        return Opinion(evidence, flags)

    def trial(self, attack: Attack, threat: ThreatModel) -> Attack | None:
        """The same for more steps, or PGD."""
        for name in LENGTHS:
            if name in type(attack).model_fields:
                return changed(attack, **{name: self.factor * getattr(attack, name)})
        if attack.iterations == 1 and attack.uses_gradients and threat.norm in ATTACKS["pgd"].norms:
            return ATTACKS.build("pgd", {})
        return None
