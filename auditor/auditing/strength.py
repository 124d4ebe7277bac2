"""Was the headline's attack as strong as it should be? Shares of samples that another attack found, and what they mean; and
which headline a doubt about one attack touches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from auditor.attacking.records import AttackRecord
from auditor.attacking.threat import ThreatModel
from auditor.auditing.check import ThreatCheck
from auditor.auditing.inquiry import Inquiry
from auditor.kit.flag import Flag, Opinion
from auditor.kit.statistics.estimate import Rate

WORTH_SAYING, TOO_MANY = 0.02, 0.10
"""Lower ends of the 95 % interval of a share of samples that call for a warning, and for withholding the headline."""


CLEARLY = 0.5
"""Share of draws by which an attack must win more often on a sample to have fooled it where another has not; without randomness
shares are 0 or 1. Less may be the luck of the draws."""


def gained(
    more: NDArray[np.float64] | NDArray[np.bool_], less: NDArray[np.float64] | NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which samples one attack fooled and another did not, from shares of draws, or from yes and no, (N,)."""
    return np.asarray(more, np.float64) - np.asarray(less, np.float64) >= CLEARLY


def weakness(
    name: str,
    missed: NDArray[np.bool_],
    message: str,
    remedy: str,
    *,
    most: Literal["warning", "severe"] = "severe",
    levels: tuple[float, float] = (WORTH_SAYING, TOO_MANY),
    unknown: NDArray[np.bool_] | None = None,
    about: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Flag, ...]:
    """The doubt that follows when an attack missed some of these samples; none when they may be chance.

    ``unknown``: those that no other attack of the audit fooled either. Where given, these alone can withhold the headline,
    which counts the others as fooled. ``about``: see the function of this name.
    """
    share, telling = Rate.of(missed), Rate.of(missed if unknown is None else missed & unknown)
    warned, severe = levels
    if share.low is None or telling.low is None or share.low < warned:
        return ()
    return (
        Flag(
            name=name,
            severity=most if telling.low >= severe else "warning",
            message=message,
            evidence=f"{share.hits} of {share.n} samples ({share})",
            remedy=remedy,
            **about,
        ),
    )


class StrongestCheck(ThreatCheck):
    """A check that tries the attack on which the headline rests: the strongest one.

    Where that attack fails severely, those are tried on which the headline could rest instead, until one does not fail.
    """

    gradients: ClassVar[bool] = False
    """Whether only attacks that follow gradients are tried."""

    def examine(self, inquiry: Inquiry, threat: ThreatModel) -> Opinion:
        return self.tried(inquiry, threat, inquiry.ranked(threat, gradients=self.gradients))

    def tried(self, inquiry: Inquiry, threat: ThreatModel, ranked: Sequence[AttackRecord]) -> Opinion:
        """What these attacks show, starting with the one on which the headline rests."""
        if not ranked:
            what = "no attack follows gradients" if self.gradients else "no attack ran"
            return Opinion(what, applies=False)
        opinions, failed = [self.judge(inquiry, threat, ranked[0])], [ranked[0]]
        for record in ranked[1:]:
            if not _severe(opinions[-1]):
                break
            if can_carry(inquiry, record, failed):
                opinions.append(self.judge(inquiry, threat, record))
                failed.append(record)
        return Opinion(
            "; ".join(opinion.evidence for opinion in opinions),
            tuple(flag for opinion in opinions for flag in opinion.flags),
            opinions[0].applies,
        )

    @abstractmethod
    def judge(self, inquiry: Inquiry, threat: ThreatModel, record: AttackRecord) -> Opinion:
        """Try one attack; its doubts name it in ``about`` where they are about this attack alone."""


def _severe(opinion: Opinion) -> bool:
    return any(flag.severity == "severe" and flag.about for flag in opinion.flags)


def about(record: AttackRecord) -> dict[str, str]:
    """The fields of a Flag that say that it is about this attack alone."""
    return {"about": record.attack.describe(), "within": str(record.threat)}


def settled(inquiry: Inquiry, flags: Sequence[Flag], every: Sequence[Flag]) -> tuple[Flag, ...]:
    """The doubts of a check, those about one attack as warnings where the headline does not rest on it.

    It does not where another attack, about which no check (``every`` doubt of all of them) has a severe doubt, carries the
    worst case: see ``can_carry``.
    """
    return tuple(_settled(inquiry, flag, every) for flag in flags)


def _settled(inquiry: Inquiry, flag: Flag, flags: Sequence[Flag]) -> Flag:
    if flag.severity != "severe" or not flag.about:
        return flag
    in_doubt = {item.about for item in flags if item.severity == "severe" and item.within == flag.within}
    for threat in inquiry.threats:
        if str(threat) != flag.within:
            continue
        ranked = inquiry.ranked(threat)
        doubted = [record for record in ranked if record.attack.describe() in in_doubt]
        for record in ranked:
            if record.attack.describe() not in in_doubt and can_carry(inquiry, record, doubted):
                name = record.attack.display_title()
                said = (
                    f"{flag.message} Its own number says little; the headline rests on {name}, which is not in doubt."
                )
                return flag.model_copy(update={"severity": "warning", "message": said})
    return flag


def can_carry(inquiry: Inquiry, record: AttackRecord, doubted: Collection[AttackRecord]) -> bool:
    """Whether the headline may rest on this attack in place of the ones in doubt.

    It takes more than one step, follows gradients if any of them does, is no mere control, and misses no more of what they
    fool than chance explains.
    """
    attack = record.attack
    weaker = attack.uses_gradients < max((item.attack.uses_gradients for item in doubted), default=False)
    if weaker or attack.control or attack.iterations == 1:
        return False
    positions = np.flatnonzero(inquiry.correct)
    known = [inquiry.fooled(item, positions) for item in doubted]
    missed = np.logical_or.reduce([*known, np.zeros(len(positions), bool)]) & ~inquiry.fooled(record, positions)
    low = Rate.of(missed).low
    return low is not None and low < WORTH_SAYING
