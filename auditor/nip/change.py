"""Change of the influence of front, tail and remaining neurons under attack (Chen et al. 2021, arXiv 2112.13060)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.analysis import Pair
from auditor.classifier import Classifier, finite
from auditor.metrics import Rate
from auditor.nip.influence import Parts, confidence_slope, head_influence, split
from auditor.nip.totals import Influences
from auditor.probes.head import Head, penultimate
from auditor.statistics.means import Mean
from auditor.twins.rows import rows_of

PARTS = ("front", "tail", "remaining")
Reading = Literal["own", "clean"]
"""The class that influence on a twin is about: that of the twin itself, or of the clean image."""
Value = Literal["margin", "softmax"]
"""Influence as it is shown: on the log odds of the class, or on its softmax confidence. Neurons are ordered by the former."""


def influences(classifier: Classifier, head: Head, pair: Pair, explained: Reading, value: Value) -> Influences:
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
    classifier: Classifier,
    head: Head,
    pairs: Iterable[Pair],
    *,
    front: int,
    tail: int,
    value: Value,
    only_success: bool,
    see: Callable[[Reading, Influences, Parts, Parts], None],
) -> dict[str, Any]:
    """Mean change of each part under each reading, parts picked on the clean image and on the twin, as plain data.

    ``see`` gets each batch's influences with the parts of the clean images and of the twins.
    """
    rows: dict[tuple[str, str], list[NDArray[np.float64]]] = defaultdict(list)
    fooled: list[NDArray[np.bool_]] = []
    for whole in pairs:
        fooled.append(whole.fooled)
        pair = rows_of(whole, whole.fooled) if only_success else whole
        if len(pair.sample) == 0:
            continue
        for reading in get_args(Reading):
            seen = influences(classifier, head, pair, reading, value)
            clean, twin = (split(values, front, tail) for values in (seen.clean, seen.twin))
            change = seen.twin_value - seen.clean_value
            for part in PARTS:
                rows[reading, part].append(change.gather(1, getattr(clean, part)).mean(1).cpu().numpy())
                rows[f"{reading} on twin", part].append(change.gather(1, getattr(twin, part)).mean(1).cpu().numpy())
            see(reading, seen, clean, twin)

    def of(key: str, part: str) -> NDArray[np.float64]:
        return np.concatenate([np.empty(0), *rows[key, part]])

    keys = get_args(Reading)
    return {
        "fooled": Rate.of(np.concatenate(fooled)).model_dump(),
        "change": {key: {part: Mean.of(of(key, part)).model_dump() for part in PARTS} for key in keys},
        "change_picked_on_twin": {
            key: {part: Mean.of(of(f"{key} on twin", part)).model_dump() for part in PARTS} for key in keys
        },
        "front_falls": {key: Rate.of(of(key, "front") < 0).model_dump() for key in keys},
        "tail_rises": {key: Rate.of(of(key, "tail") > 0).model_dump() for key in keys},
    }
