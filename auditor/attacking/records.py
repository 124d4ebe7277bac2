"""AttackRecord: what one attack did to the samples of an audit, as data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from auditor.attacking.attack import ATTACKS, Attack
from auditor.attacking.harness.outcome import Outcome
from auditor.attacking.threat import ThreatModel
from auditor.kit.capability import MemberOf
from auditor.kit.document import Data
from auditor.kit.statistics.estimate import Rate


class AttackRecord(Data):
    """One attack under one threat model. ``positions``: which entries of the sample table were attacked; the other lists
    run along it. ``closest``: distance of the closest adversarial image found, also beyond epsilon; None if there is none.
    ``blind``: a gradient was zero or not finite. Passes are counted per image.

    For a model with random outputs: ``share``, of fresh draws at the final image, how many gave the attacker what they want
    (``fooled``, ``prediction`` and ``closest`` are what most of them say), and ``chosen``, the same of other draws, -1 for an
    image that an attack within epsilon left beyond it (see ``worst_case``); else None.

    ``role`` "headline": every correctly classified sample was attacked; "curve": only those that nothing had fooled yet.
    """

    attack: Annotated[Attack, MemberOf(ATTACKS)]
    threat: ThreatModel
    role: Literal["headline", "curve"]
    positions: list[int]
    fooled: list[bool]
    prediction: list[int]
    confidence: list[float]
    distance: list[float]
    closest: list[float | None]
    forwards: list[int]
    backwards: list[int]
    blind: list[bool]
    seconds: float
    share: list[float] | None = None
    chosen: list[float] | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_it_was(cls, data: Any) -> Any:
        """A record from before ``closest`` was kept: of the images then looked for, the fooling ones are the closest known."""
        if isinstance(data, dict) and "closest" not in data and {"fooled", "distance"} <= data.keys():
            pairs = zip(data["fooled"], data["distance"], strict=False)
            return {**data, "closest": [distance if fooled else None for fooled, distance in pairs]}
        return data

    @classmethod
    def of(
        cls,
        attack: Attack,
        threat: ThreatModel,
        role: Literal["headline", "curve"],
        positions: NDArray[np.int64],
        outcome: Outcome,
    ) -> AttackRecord:
        """The record of an attack on these entries of the sample table."""
        columns = {name: value.tolist() for name, value in outcome._asdict().items() if isinstance(value, np.ndarray)}
        columns["closest"] = [value if np.isfinite(value) else None for value in outcome.closest]
        return cls(
            attack=attack, threat=threat, role=role, positions=positions.tolist(), seconds=outcome.seconds, **columns
        )

    @property
    def success(self) -> Rate:
        """Share of the attacked samples on which the attacker got what they wanted."""
        return Rate.of(np.array(self.fooled, bool))


def known_fooled(records: Iterable[AttackRecord], threat: ThreatModel, n: int) -> NDArray[np.bool_]:
    """For which of ``n`` samples one of the records holds an adversarial image within ``threat``.

    An image found under another epsilon of the same norm counts where it lies in this ball, too.
    """
    known = np.zeros(n, bool)
    for record in records:
        if record.threat.norm == threat.norm:
            closest = np.array([np.inf if value is None else value for value in record.closest])
            inside = closest <= threat.epsilon
            if record.threat.epsilon <= threat.epsilon:
                inside |= np.array(record.fooled, bool)
            known[np.array(record.positions, np.int64)] |= inside
    return known


class Worst(NamedTuple):
    """A model with random outputs, in the worst case.

    ``right``: the share of fresh draws that are right for each sample, (N,). ``fooled``: for which samples most of them give the
    attacker what they want, bool (N,).
    """

    right: NDArray[np.float64]
    fooled: NDArray[np.bool_]


def worst_case(
    records: Iterable[AttackRecord], threat: ThreatModel, right: NDArray[np.float64], chosen: NDArray[np.float64]
) -> Worst:
    """The image of each sample within ``threat``, of all records and the clean image, that most of the first draws got wrong, as
    fresh draws judge it: the least of several noisy shares would itself be too low.

    ``right`` and ``chosen``: the shares of fresh and of first draws that are right at the clean image, (N,).
    """
    counted, seen, fooled = right.copy(), 1 - chosen, np.zeros(len(right), bool)
    for record in records:
        if record.threat.norm != threat.norm or record.share is None or record.chosen is None:
            continue
        places, first = np.array(record.positions, np.int64), np.array(record.chosen)
        inside = np.array(record.distance) <= threat.epsilon
        if record.threat.epsilon <= threat.epsilon:  # in its own ball, but for rounding
            inside |= np.array(record.fooled, bool) | ((first >= 0) & (record.attack.budget == "fixed"))
        worse = inside & (first > seen[places])
        seen[places[worse]] = first[worse]
        counted[places[worse]] = 1 - np.array(record.share)[worse]
        fooled[places[worse]] = np.array([value is not None for value in record.closest])[worse]
    return Worst(counted, fooled)
