"""Attacks that had no gradient to follow, or asked for none."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from auditor.attacking.threat import ThreatModel
from auditor.auditing.check import ThreatCheck
from auditor.auditing.inquiry import Inquiry
from auditor.auditing.strength import about
from auditor.kit.flag import Flag, Opinion
from auditor.kit.statistics.estimate import Rate

REMEDY = "The loss saturates or the network hides its gradient; use an attack on the margin, or one without gradients."


class BlindGradients(ThreatCheck):
    """No sample resisted merely because attacks saw no gradient there (Carlini et al. 2019, arXiv 1902.06705).

    An attack that saw none on most of the samples that resist it does not carry a headline, and the headline is withheld when
    no attack saw one on most of the samples that resist them all.
    """

    title: ClassVar[str] = "Attacks saw gradients"
    kind: Literal["blind_gradients"] = "blind_gradients"
    some: float = Field(
        0.05, gt=0, le=1, description="Share of blind samples among the attacked that is worth a doubt."
    )
    most: float = Field(
        0.5, gt=0, le=1, description="Share among those that resist from which the headline is withheld."
    )

    def examine(self, inquiry: Inquiry, threat: ThreatModel) -> Opinion:
        records = [record for record in inquiry.headline(threat) if record.attack.uses_gradients]
        if not records:
            return Opinion("no attack follows gradients", applies=False)
        standing = ~np.logical_or.reduce([record.fooled for record in inquiry.headline(threat)])
        unseen, said, flags = standing.copy(), [], []
        for record in records:
            name, resisted = record.attack.display_title(), ~np.array(record.fooled, bool)
            unasked = resisted & (np.array(record.backwards) == 0)
            blind = resisted & np.array(record.blind, bool)
            unseen &= blind | unasked
            said.append(
                f"of {int(resisted.sum())} samples that resist {name}, it saw no gradient on {int(blind.sum())} and asked for "
                f"none on {int(unasked.sum())}"
            )
            if _share(blind) >= self.some:
                mostly = blind.sum() >= self.most * resisted.sum()
                flags.append(
                    Flag(
                        name="blind attack",
                        severity="severe" if mostly else "warning",
                        message=f"{name} ({threat}) had no gradient to follow on samples that it did not fool.",
                        evidence=f"{Rate.of(blind)} of {len(blind)} attacked samples resisted while their gradient was zero or "
                        "not finite",
                        remedy=REMEDY,
                        **about(record),
                    )
                )
            if _share(unasked) >= self.some:
                flags.append(
                    Flag(
                        name="no gradient asked for",
                        severity="severe",
                        message=f"{name} ({threat}) should follow gradients, but gave up on samples without asking for "
                        "one.",
                        evidence=f"{Rate.of(unasked)} of {len(unasked)} attacked samples",
                        remedy="This is not the attack that its name says; use another implementation.",
                        **about(record),
                    )
                )
        if _share(unseen) >= self.some and unseen.sum() >= self.most * standing.sum():
            flags.append(
                Flag(
                    name="blind attacks",
                    severity="severe",
                    message=f"Most samples that resist ({threat}) gave no attack a gradient to follow.",
                    evidence=f"{int(unseen.sum())} of the {int(standing.sum())} samples that resist every attack",
                    remedy=REMEDY,
                )
            )
        return Opinion("; ".join(said), tuple(flags))


def _share(samples: np.ndarray) -> float:
    return float(samples.mean()) if len(samples) else 0.0
