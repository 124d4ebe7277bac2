"""Doubts about the evaluation of a defense: hidden gradients, random answers, attacks whose order makes no sense."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from auditor.defending.comparing import EVERY_ATTACK, SampleTest
from auditor.defending.defense import Defense
from auditor.defending.table import RobustRow, StaticRow
from auditor.kit.flag import Flag
from auditor.models.dataset import ImageDataset
from auditor.models.defended import DefendedClassifier
from auditor.models.drawing import DRAWS, View
from auditor.models.preflight import no_gradient

CLEARLY = 0.02
"""Difference of two accuracies from which it is worth a doubt."""

LEVEL = 0.05
"""Adjusted p below which a difference from a control counts."""


def doubts(
    model: DefendedClassifier,
    images: Tensor,
    robust: Sequence[RobustRow],
    static: Sequence[StaticRow],
    draws: int = DRAWS,
) -> tuple[Flag, ...]:
    """Every doubt, as data. ``images``: some clean ones on the model's device. ``draws``: how many judge a random model."""
    return (*_gradients(model, images), *_draws(model, draws), *_order(robust), *_gap(robust, static))


def seen_before(known: int, samples: int, dataset: ImageDataset) -> tuple[Flag, ...]:
    """Was the defense fitted on images that it is evaluated on? ``known``: on how many of the ``samples``."""
    if not known:
        return ()
    return (
        Flag(
            name="evaluated on fitted images",
            severity="warning",
            message=f"The defense was fitted on images of this very data set, {dataset.name}, that it is evaluated on.",
            evidence=f"{known} of {samples} images",
            remedy="Its numbers here say little about new images: evaluate it on another data set, or draw unseen "
            "images only.",
        ),
    )


def no_better(defenses: Sequence[Defense], tests: Sequence[SampleTest]) -> tuple[Flag, ...]:
    """Controls under which as many samples hold, as far as can be told."""
    if all(defense.control for defense in defenses):
        return ()
    return tuple(
        Flag(
            name="no better than a control",
            severity="warning",
            message=f"{test.other} holds under attack as well as the defense does.",
            evidence=f"difference under {test.attack} {100 * test.difference:+.1f} points [{100 * test.low:.1f}, "
            f"{100 * test.high:.1f}], p {test.adjusted:.2g} (McNemar, Holm), {test.n} images",
            remedy="What the defense knows about the network and the image adds nothing here beyond chance.",
        )
        for test in tests
        if test.attack == EVERY_ATTACK and (test.difference <= 0 or test.adjusted >= LEVEL)
    )


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


def _draws(model: DefendedClassifier, draws: int) -> tuple[Flag, ...]:
    if not model.random:
        return ()
    return (
        Flag(
            name="random defense",
            severity="info",
            message="The defended model has random outputs: its accuracies are means over draws.",
            evidence=f"{model.draws} draws per answer; an attacker averages over {draws} of its own, and {draws} fresh answers "
            "judge each image.",
            remedy="Quote the number of draws with the accuracy; if the mean and the majority vote differ, quote both.",
        ),
    )


def _lowest(rows: Sequence[RobustRow], knowledge: str) -> RobustRow | None:
    chosen = [row for row in rows if row.knowledge == knowledge and row.within]
    return min(chosen, key=lambda row: row.accuracy.value or 0.0) if chosen else None


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
                    remedy="The approximation misleads the gradient: use more draws, steps or restarts.",
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
            message="The defense restores images made for the undefended model, but an attacker who knows it breaks "
            "it.",
            evidence=f"success on {row.attack.display_title()} ({row.budget}): {row.success}; {best.name}: {best.accuracy}",
            remedy="Quote the robust accuracy of the defended model, not the defense success rate.",
        ),
    )
