"""A defense compared with its controls: rows on the same samples by McNemar, success rates over the attacks by t, both
by Holm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from auditor.attacking.attack import BUDGETS, Budget
from auditor.defending.metrics import holm, paired_tests
from auditor.defending.table import DefenseTable, RobustRow
from auditor.kit.document import Data
from auditor.kit.statistics.paired import paired_difference

EVERY_ATTACK = "every shared attack within epsilon"
GRADIENT_ATTACKS = "every gradient attack"
NO_DEFENSE = "no defense"


class SampleTest(Data):
    """Accuracy of the defended model minus that of another one under the same attack, on the same samples.

    ``low``, ``high``: 95 % interval (Agresti and Min 2005). ``only_defense``, ``only_other``: samples that just one of them
    gets right. ``p``: exact two-sided McNemar test; ``adjusted``: by Holm over the whole evaluation.
    """

    other: str
    attack: str
    difference: float
    low: float
    high: float
    n: int
    only_defense: int
    only_other: int
    p: float
    adjusted: float


class AttackTest(Data):
    """Mean over the static attacks of the defense success rate minus another one's: the NIP paper's two-sided paired t-test.

    ``t``: None where all differences are equal. ``adjusted``: p by Holm over the whole evaluation. The attacks are no independent
    samples, so even these p are too small.
    """

    other: str
    budget: Budget
    attacks: int
    difference: float
    t: float | None
    p: float
    adjusted: float


def sample_tests(evaluation: DefenseTable, others: Mapping[str, DefenseTable]) -> tuple[SampleTest, ...]:
    """All rows together and each row that the defense shares with one of the others; and the undefended model."""
    pairs = [
        (NO_DEFENSE, GRADIENT_ATTACKS, _all(evaluation.undefended),
         _all([row for row in evaluation.robust if row.knowledge == "white box"])),
    ]  # fmt: skip
    for name, other in others.items():
        rows = dict(_named(other.robust))
        shared = [(rows[key], row) for key, row in _named(evaluation.robust) if key in rows]
        both = [(theirs, ours) for theirs, ours in shared if theirs.within and ours.within]
        pairs.append((name, EVERY_ATTACK, _all([row for row, _ in both]), _all([row for _, row in both])))
        pairs += [(name, ours.name, np.array(theirs.held), np.array(ours.held)) for theirs, ours in shared]
    found = [(name, attack, paired_difference(theirs, ours)) for name, attack, theirs, ours in pairs]
    adjusted = holm(np.array([difference.p for _, _, difference in found]))
    return tuple(
        SampleTest(
            other=name, attack=attack, difference=item.value, low=item.low, high=item.high, n=item.n,
            only_defense=item.only_b, only_other=item.only_a, p=item.p, adjusted=float(value),
        )
        for (name, attack, item), value in zip(found, adjusted, strict=True)
    )  # fmt: skip


def attack_tests(evaluation: DefenseTable, others: Mapping[str, DefenseTable]) -> tuple[AttackTest, ...]:
    """For each of the others and each budget, where two or more attacks found images."""
    keys: list[tuple[str, Budget, int]] = []
    rates: list[tuple[str, list[float], list[float]]] = []
    for name, other in others.items():
        for budget in BUDGETS:
            pairs = [
                (ours.success.value, theirs.success.value)
                for ours, theirs in zip(evaluation.static, other.static, strict=True)
                if ours.budget == budget and ours.success.value is not None and theirs.success.value is not None
            ]
            if len(pairs) >= 2:
                keys.append((name, budget, len(pairs)))
                rates.append((name, [ours for ours, _ in pairs], [theirs for _, theirs in pairs]))
    return tuple(
        AttackTest(
            other=name, budget=budget, attacks=attacks, difference=test.difference,
            t=test.t if math.isfinite(test.t) else None, p=test.p, adjusted=test.adjusted,
        )
        for (name, budget, attacks), test in zip(keys, paired_tests(rates) if rates else (), strict=True)
    )  # fmt: skip


def _named(rows: Sequence[RobustRow]) -> Iterator[tuple[tuple[str, int], RobustRow]]:
    """Rows by name; where several are called the same, by their number among them."""
    seen: dict[str, int] = {}
    for row in rows:
        seen[row.name] = seen.get(row.name, 0) + 1
        yield (row.name, seen[row.name]), row


def _all(rows: Sequence[RobustRow]) -> NDArray[np.bool_]:
    """Samples that hold under each of these attacks."""
    return np.all([row.held for row in rows], axis=0)
