"""Doubts about a training, read from its curves."""

from __future__ import annotations

from collections.abc import Sequence

import scipy

from auditor.hardening.result import BestWeights, TrainingPoint, started
from auditor.hardening.spec import TrainingSpec
from auditor.kit.flag import Flag

COLLAPSE = 0.5
"""Robust accuracy that falls below this share of its best has collapsed."""


FEW = 0.02
"""Where no more than this share of the validation images resists, which epoch has the most of them is an accident."""


COSTLY = 0.20
"""Points of clean accuracy that are much to pay for robustness."""

NOTHING = 0.05
"""Level of the test below which a gain is more than chance."""


def doubts(
    spec: TrainingSpec, points: Sequence[TrainingPoint], best: BestWeights, stopped: str, classes: int
) -> tuple[Flag, ...]:
    """What a reader of the result should know. ``points``: of the whole training."""
    found = (
        _still_rising(spec, points, best, stopped),
        _collapsed(points),
        _chance(best, classes),
        _by_accident(spec, best),
        _paid_for_nothing(spec, started(points), best),
    )
    return tuple(flag for flag in found if flag is not None)


def _still_rising(spec: TrainingSpec, points: Sequence[TrainingPoint], best: BestWeights, stopped: str) -> Flag | None:
    robust = [point.robust for point in points if point.robust is not None]
    if spec.select != "robust" or stopped != "finished" or len(robust) < 3:
        return None
    before, last = robust[-2], robust[-1]
    if last.hits <= max(rate.hits for rate in robust[:-1]):
        return None
    return Flag(
        name="robust accuracy still rising",
        severity="info",
        message="Robust validation accuracy was highest at the very end: more epochs may give more.",
        evidence=f"{before} one epoch before the end, {last} at the end.",
        remedy="Compare methods at the same budget, or train for longer.",
    )


def _collapsed(points: Sequence[TrainingPoint]) -> Flag | None:
    robust = [point.robust.value for point in points if point.robust is not None and point.robust.value is not None]
    if not robust or max(robust) < 0.1 or robust[-1] >= COLLAPSE * max(robust):
        return None
    return Flag(
        name="robust accuracy collapsed",
        severity="warning",
        message="Robust validation accuracy fell far below its best during the training.",
        evidence=f"{100 * max(robust):.1f} % at its best, {100 * robust[-1]:.1f} % at the end.",
        remedy="With one-step attacks this is catastrophic overfitting: use more steps or a smaller step size. "
        "Training on clean images alone forgets robustness; that is what the control shows.",
    )


def _chance(best: BestWeights, classes: int) -> Flag | None:
    if best.clean is None or best.clean.high is None or best.clean.high >= 2 / classes:
        return None
    return Flag(
        name="no better than chance",
        severity="severe",
        message="The kept weights classify clean validation images hardly better than chance.",
        evidence=f"clean validation accuracy {best.clean}, {classes} classes.",
        remedy="The training failed: lower the learning rate or the weights of the loss's parts, or train more layers.",
    )


def _by_accident(spec: TrainingSpec, best: BestWeights) -> Flag | None:
    if spec.select != "robust" or best.robust is None or best.robust.value is None or best.robust.value > FEW:
        return None
    return Flag(
        name="weights chosen by accident",
        severity="warning",
        message="Hardly any validation image resisted the attack, so a few images decided which epoch to keep.",
        evidence=f"robust validation accuracy {best.robust}, clean {best.clean}, of epoch {best.epoch}.",
        remedy="Train again with select = clean, or validate with a smaller epsilon.",
    )


def _paid_for_nothing(spec: TrainingSpec, start: BestWeights, best: BestWeights) -> Flag | None:
    """Did clean accuracy go, and no robustness come?

    The two networks see the same images, but only their counts are kept: Fisher's exact test, which takes them for different
    images and so asks for a little more than a paired test would.
    """
    if spec.from_scratch or not best.epoch or start.clean is None or start.robust is None:
        return None
    if best.clean is None or best.robust is None or not start.clean.n:
        return None
    lost = (start.clean.hits - best.clean.hits) / start.clean.n
    table = [[rate.hits, rate.n - rate.hits] for rate in (best.robust, start.robust)]
    p = float(scipy.stats.fisher_exact(table, alternative="greater").pvalue)
    if lost < COSTLY or p < NOTHING:
        return None
    return Flag(
        name="clean accuracy paid for nothing",
        severity="warning",
        message=f"The training cost {100 * lost:.0f} points of clean accuracy, and the robustness that it gained may "
        "be chance.",
        evidence=f"clean {start.clean} before, {best.clean} after; robust {start.robust} before, {best.robust} after "
        f"(p = {p:.2g}).",
        remedy="Train for longer or with a milder attack (fewer steps or a smaller epsilon), and validate on more images.",
    )
