"""One step against many."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from auditor.attacking.threat import ThreatModel
from auditor.auditing.check import ThreatCheck
from auditor.auditing.inquiry import Inquiry
from auditor.auditing.strength import gained, weakness
from auditor.kit.flag import Opinion


class OneStepNotStronger(ThreatCheck):
    """An attack of one step fools hardly any sample that attacks of many steps leave (Carlini et al. 2019, arXiv 1902.06705)."""

    title: ClassVar[str] = "One step is not stronger than many"
    kind: Literal["one_step_not_stronger"] = "one_step_not_stronger"

    def examine(self, inquiry: Inquiry, threat: ThreatModel) -> Opinion:
        records = [item for item in inquiry.headline(threat) if item.attack.uses_gradients]
        single = [item for item in records if item.attack.iterations == 1]
        many = [item for item in records if item.attack.iterations > 1]
        if not single or not many:
            return Opinion("the audit does not have both kinds of attacks", applies=False)
        positions = np.flatnonzero(inquiry.correct)
        one, all_of_them = (
            np.maximum.reduce([inquiry.won(item, positions) for item in part]) for part in (single, many)
        )
        missed = gained(one, all_of_them)
        names = ", ".join(item.attack.display_title() for item in single)
        evidence = f"{names} fools {int(missed.sum())} of {len(positions)} samples that no attack of many steps fools"
        flags = weakness(
            "one step is stronger",
            missed,
            f"{names} ({threat}) fools samples that attacks of many steps leave.",
            "The attacks of many steps do not follow the loss: their steps are too long, or the gradients mislead "
            "them.",
        )
        return Opinion(evidence, flags)
