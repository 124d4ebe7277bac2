"""TableSpec: how one table of a defense's evaluation is made."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from auditor.attacking.attack import ATTACKS, Attack
from auditor.attacking.threat import Norm, ThreatModel
from auditor.defending.nip.adaptive import InfluenceAttack
from auditor.defending.nip.published import PublishedCode
from auditor.kit.capability import MemberOf
from auditor.kit.document import Data


class TableSpec(Data):
    """How one table of an evaluation is made: one defense, or several in a row.

    Every attack on the defended model goes through the declared approximations and averages over ``draws``. Where a defense
    picks one of several candidates, the ``nearest`` of them are taken into account, too.
    """

    threat: ThreatModel = Field(default_factory=ThreatModel)
    static: tuple[Annotated[Attack, MemberOf(ATTACKS)], ...] = Field(
        default_factory=lambda: (ATTACKS.build("fgsm", {}), ATTACKS.build("pgd", {"steps": 40})),
        description="Attacks on the undefended model, each within epsilon and for the closest image.",
    )
    steps: int = Field(100, ge=1, le=10_000, description="Steps of APGD on the defended model.")
    restarts: int = Field(5, ge=1, le=100, description="Random starts of APGD.")
    draws: int = Field(20, ge=1, le=1000, description="Draws of a random defense that an attacker averages over.")
    nearest: int = Field(10, ge=1, le=100, description="Nearest candidates that an attacker takes into account.")
    queries: int = Field(2000, ge=1, le=100_000, description="Queries of the Square attack.")
    decision_steps: int = Field(
        500, ge=1, le=100_000, description="Steps of the boundary attack; a 20th for HopSkipJump."
    )
    influence: tuple[InfluenceAttack, ...] = Field((), description="Adaptive attacks of the NIP paper.")
    published: tuple[PublishedCode, ...] = Field(
        (), description="Levels of the published code of NIP, with its oracles."
    )
    seed: int = Field(0, description="Seed of everything random.")
    batch_size: int = Field(64, ge=1, description="Images at a time.")

    def white_box(self) -> tuple[Attack, ...]:
        values = {"steps": self.steps, "restarts": self.restarts}
        return tuple(ATTACKS.build(kind, values) for kind in ("apgd-ce", "apgd-dlr"))

    def black_box(self) -> tuple[Attack, ...]:
        """Square, and by decisions alone the boundary attack, which knows L2 only, or HopSkipJump."""
        if self.threat.norm is Norm.L2:
            decisions = ATTACKS.build("boundary", {"steps": self.decision_steps})
        else:
            values = {"steps": max(1, self.decision_steps // 20), "most_samples": 500}
            decisions = ATTACKS.build("hop-skip-jump", values)
        return ATTACKS.build("square", {"queries": self.queries}), decisions
