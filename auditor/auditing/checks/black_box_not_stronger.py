"""An attack without gradients."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from auditor.attacking.attack import ATTACKS, Attack
from auditor.attacking.threat import ThreatModel
from auditor.auditing.allowance import Allowance
from auditor.auditing.check import ThreatCheck
from auditor.auditing.inquiry import Inquiry
from auditor.auditing.strength import gained, weakness
from auditor.kit.flag import Opinion

KIND = "square"


class BlackBoxNotStronger(ThreatCheck):
    """An attack that sees no gradient fools hardly any sample that the attacks with gradients leave (Carlini et al. 2019,
    arXiv 1902.06705, and AutoAttack's warning about Square).

    If the audit has no such attack, a short Square attack runs on some samples.
    """

    title: ClassVar[str] = "Black box is not stronger"
    kind: Literal["black_box_not_stronger"] = "black_box_not_stronger"
    queries: int = Field(100, ge=1, le=100_000, description="Queries of the Square attack.")

    def cost_within(self, threat: ThreatModel, allowance: Allowance) -> float:
        """Of the Square attack, where the audit has only attacks that follow gradients."""
        attack = self._square(threat)
        needed = all(attack.uses_gradients for attack in allowance.attacks[threat])
        return allowance.cost(attack) if needed and attack is not None else 0.0

    def _square(self, threat: ThreatModel) -> Attack | None:
        if KIND not in ATTACKS or threat.norm not in ATTACKS[KIND].norms:
            return None
        return ATTACKS.build(KIND, {"queries": self.queries})

    def examine(self, inquiry: Inquiry, threat: ThreatModel) -> Opinion:
        white = [item for item in inquiry.headline(threat) if item.attack.uses_gradients]
        if not white:
            return Opinion("no attack follows gradients", applies=False)
        name, positions, black = self._black_box(inquiry, threat)
        if not len(positions):
            return Opinion(f"no attack without gradients works in {threat.norm.symbol}", applies=False)
        missed = gained(black, np.maximum.reduce([inquiry.won(item, positions) for item in white]))
        evidence = f"{name} fools {int(missed.sum())} of {len(positions)} samples that no attack with gradients fools"
        flags = weakness(
            "black box is stronger",
            missed,
            f"An attack without gradients ({name}) fools samples that resist every attack with gradients ({threat}).",
            "Either the gradients are masked or the gradient attacks are too weak: the robust accuracy is too high.",
            most="warning" if inquiry.one_step(threat) else "severe",
            levels=(0.01, 0.05),
        )
        return Opinion(evidence, flags)

    def _black_box(self, inquiry: Inquiry, threat: ThreatModel) -> tuple[str, NDArray[np.int64], NDArray[np.float64]]:
        """Name, positions, and how far they were fooled without gradients."""
        own = [item for item in inquiry.headline(threat) if not item.attack.uses_gradients]
        if own:
            positions = np.flatnonzero(inquiry.correct)
            names = ", ".join(dict.fromkeys(item.attack.display_title() for item in own))
            return names, positions, np.maximum.reduce([inquiry.won(item, positions) for item in own])
        attack = self._square(threat)
        if attack is None:
            return "", np.zeros(0, np.int64), np.zeros(0)
        positions = inquiry.affordable(attack)
        standing = positions[
            ~np.logical_or.reduce([inquiry.fooled(item, positions) for item in inquiry.headline(threat)])
        ]
        won = np.zeros(len(positions))
        won[np.isin(positions, standing)] = inquiry.attack(attack, threat, standing).outcome.won
        return f"{attack.display_title()} ({self.queries} queries)", positions, won
