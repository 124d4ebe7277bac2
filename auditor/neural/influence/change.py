"""Change of the influence of front, tail and remaining neurons under attack (Chen et al. 2021, arXiv 2112.13060)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Generic, Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.kit.statistics.estimate import Estimate, Rate
from auditor.models.classifier import Classifier, finite
from auditor.neural.analysis import Pair
from auditor.neural.found import Found, shown
from auditor.neural.influence.influence import confidence_slope, head_influence, split_parts
from auditor.neural.influence.totals import Influences, InfluenceTotals
from auditor.neural.probes.head import Head, penultimate
from auditor.neural.twins.rows import rows_of

PARTS = ("front", "tail", "remaining")
ExplainedClass = Literal["own", "clean"]
"""The class that influence on a twin is about: that of the twin itself, or of the clean image."""
InfluenceScale = Literal["margin", "softmax"]
"""Influence as it is shown: on the log odds of the class, or on its softmax confidence. Neurons are ordered by the former."""
UNITS: dict[InfluenceScale, str] = {"margin": "log odds", "softmax": "confidence"}


class Parted(Found):
    """A mean over the images, and over the neurons of each part."""

    front: Estimate
    tail: Estimate
    remaining: Estimate


P = TypeVar("P")


class ByReading(Found, Generic[P]):
    """Under each reading."""

    own: P
    clean: P


class InfluenceChange(Found):
    """Change of influence under one kind of twins: twin minus clean, with the parts picked on the clean image and on the twin;
    and on what share of the images the front falls and the tail rises. ``fooled``: of all images, those left out too."""

    name: str
    fooled: Rate
    change: ByReading[Parted]
    change_picked_on_twin: ByReading[Parted]
    front_falls: ByReading[Rate]
    tail_rises: ByReading[Rate]

    def shares(self, reading: ExplainedClass, about: str) -> InfluenceChangeRow:
        """Under one reading, which ``about`` names."""
        picked = getattr(self.change_picked_on_twin, reading)
        return InfluenceChangeRow(
            name=self.name,
            about=about,
            n=getattr(self.change, reading).front.n,
            fooled=self.fooled.value,
            front_falls=getattr(self.front_falls, reading).value,
            tail_rises=getattr(self.tail_rises, reading).value,
            front_twin=picked.front.value,
            tail_twin=picked.tail.value,
        )


class InfluenceChangeRow(Found):
    """A row on one kind of twins under one reading. ``front_twin``, ``tail_twin``: change of the parts picked on the twin."""

    name: str = shown("Twins")
    about: str = shown("Influence on")
    n: int = shown("Images")
    fooled: float | None = shown("Fooled", ".1%")
    front_falls: float | None = shown("Front falls", ".1%")
    tail_rises: float | None = shown("Tail rises", ".1%")
    front_twin: float | None = shown("Change of the twin's front", ".3g")
    tail_twin: float | None = shown("Change of the twin's tail", ".3g")


def influences(
    classifier: Classifier, head: Head, pair: Pair, explained: ExplainedClass, value: InfluenceScale
) -> Influences:
    """Influence of each feature before the head on some images and on their twins, there on the class of that reading."""
    with torch.no_grad():
        clean = penultimate(classifier, head, pair.x.to(classifier.dtype))
        twin = penultimate(classifier, head, pair.x_adv.to(classifier.dtype))
    predicted = finite(clean.logits).argmax(1)
    about = predicted if explained == "clean" else finite(twin.logits).argmax(1)
    own = head_influence(clean.features, clean.logits, head.weight, predicted)
    other = head_influence(twin.features, twin.logits, head.weight, about)
    if value == "margin":
        return Influences(own, other, own, other)
    slope, other_slope = (
        confidence_slope(part.logits.double(), classes)[:, None]
        for part, classes in ((clean, predicted), (twin, about))
    )
    return Influences(own, other, own * slope, other * other_slope)


def change_of_influence(
    name: str,
    classifier: Classifier,
    head: Head,
    pairs: Iterable[Pair],
    *,
    front: int,
    tail: int,
    value: InfluenceScale,
    only_success: bool,
    totals: InfluenceTotals | None = None,
    explained: ExplainedClass = "own",
) -> InfluenceChange:
    """Under the twins called ``name``, of every neuron before the head.

    ``totals``, if any, sum up the influences themselves, those on a twin on the class of the reading ``explained``.
    """
    rows: dict[tuple[str, str], list[NDArray[np.float64]]] = defaultdict(list)
    fooled: list[NDArray[np.bool_]] = []
    for whole in pairs:
        fooled.append(whole.fooled)
        pair = rows_of(whole, whole.fooled) if only_success else whole
        if len(pair.sample) == 0:
            continue
        for reading in get_args(ExplainedClass):
            seen = influences(classifier, head, pair, reading, value)
            clean, twin = (split_parts(values, front, tail) for values in (seen.clean, seen.twin))
            change = seen.twin_value - seen.clean_value
            for part in PARTS:
                rows[reading, part].append(change.gather(1, getattr(clean, part)).mean(1).cpu().numpy())
                rows[f"{reading} on twin", part].append(change.gather(1, getattr(twin, part)).mean(1).cpu().numpy())
            if totals is not None and reading == explained:
                totals.add(seen, clean, twin)

    def parted(key: str) -> Parted:
        return Parted(**{part: Estimate.of_mean(of(key, part)) for part in PARTS})

    def of(key: str, part: str) -> NDArray[np.float64]:
        return np.concatenate([np.empty(0), *rows[key, part]])

    return InfluenceChange(
        name=name,
        fooled=Rate.of(np.concatenate(fooled)),
        change=ByReading(own=parted("own"), clean=parted("clean")),
        change_picked_on_twin=ByReading(own=parted("own on twin"), clean=parted("clean on twin")),
        front_falls=ByReading(own=Rate.of(of("own", "front") < 0), clean=Rate.of(of("clean", "front") < 0)),
        tail_rises=ByReading(own=Rate.of(of("own", "tail") > 0), clean=Rate.of(of("clean", "tail") > 0)),
    )
