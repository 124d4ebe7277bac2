"""Doubts about the evaluation of a defense: hidden gradients, random answers, attacks whose order makes no sense."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from auditor.defended import DefendedClassifier, View
from auditor.defending.table import RobustRow, StaticRow
from auditor.flag import Flag
from auditor.preflight import no_gradient

CLEARLY = 0.02
"""Difference of two accuracies from which it is worth a doubt."""


def doubts(
    model: DefendedClassifier, images: Tensor, robust: Sequence[RobustRow], static: Sequence[StaticRow]
) -> tuple[Flag, ...]:
    """Every doubt, as data. ``images``: some clean ones on the model's device."""
    return (*_gradients(model, images), *_draws(model), *_order(robust), *_gap(robust, static))


def _gradients(model: DefendedClassifier, images: Tensor) -> tuple[Flag, ...]:
    deployed = no_gradient(model, images)
    seen = no_gradient(model.seen(View(adaptive=True, draws=1)), images).flags
    hidden = tuple(
        flag.model_copy(
            update={
                "name": "hidden gradient",
                "severity": "info" if not seen else flag.severity,
                "message": "The defense itself lets no gradient through: attacks that follow it are blind.",
                "remedy": "Only attacks through an approximation of it, or without gradients, count; both are in the table.",
            }
        )
        for flag in deployed.flags
    )
    return hidden + tuple(flag.model_copy(update={"name": "no gradient for the adaptive attacker"}) for flag in seen)


def _draws(model: DefendedClassifier) -> tuple[Flag, ...]:
    if not model.defense.random:
        return ()
    return (
        Flag(
            name="random defense",
            severity="info",
            message="The defense draws random numbers; they belong to the bytes of the image here.",
            evidence=f"{model.draws} draws per answer; an attacker averages over draws of his own.",
            remedy="Read the accuracy under averaged gradients, not under a single draw.",
        ),
    )


def _lowest(rows: Sequence[RobustRow], knowledge: str) -> RobustRow | None:
    chosen = [row for row in rows if row.knowledge == knowledge and row.within]
    return min(chosen, key=lambda row: row.accuracy.hits) if chosen else None


def _order(rows: Sequence[RobustRow]) -> tuple[Flag, ...]:
    """An attack that knows less is stronger than the strongest that knows all."""
    best = _lowest(rows, "white box")
    found = []
    for knowledge in ("black box", "static", "influence"):
        other = _lowest(rows, knowledge)
        if best is None or other is None or best.accuracy.value is None or other.accuracy.value is None:
            continue
        if other.accuracy.value < best.accuracy.value - CLEARLY:
            found.append(
                Flag(
                    name="gradient attack is weaker",
                    severity="warning",
                    message="An attack that knows less breaks more than the attacks through the defense.",
                    evidence=f"{other.name}: {other.accuracy}; {best.name}: {best.accuracy}",
                    remedy="The approximation misleads the gradient: take more draws, steps or restarts.",
                )
            )
    return tuple(found)


def _gap(rows: Sequence[RobustRow], static: Sequence[StaticRow]) -> tuple[Flag, ...]:
    """Static success that is not robustness."""
    best = _lowest(rows, "white box")
    rates = [(row, row.success.value) for row in static if row.success.value is not None]
    if best is None or best.accuracy.value is None or not rates:
        return ()
    row, value = max(rates, key=lambda item: item[1])
    if value < best.accuracy.value + 0.2:
        return ()
    return (
        Flag(
            name="static success",
            severity="warning",
            message="The defense restores images made for the undefended model, and falls to an attacker who knows it.",
            evidence=f"success on {row.attack.display_title()} ({row.budget}): {row.success}; {best.name}: {best.accuracy}",
            remedy="Quote the robust accuracy of the defended model, not the defense success rate.",
        ),
    )
