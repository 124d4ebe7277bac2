"""How alike the most sensitive neurons of several target classes are, layer by layer (Zhang et al. 2020, eq. 7-10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from auditor.kit.randomness import derive_seed
from auditor.kit.statistics.estimate import Estimate
from auditor.neural.found import Found, LayerRow, Values, shown
from auditor.neural.ranking.agreement import (
    average_pair_similarity,
    front_odds,
    fronts,
    levenshtein_similarity,
    random_jaccard,
    random_similarity,
    share_of,
    total_jaccard,
)
from auditor.neural.ranking.class_sensitivity import ClassSensitivity
from auditor.neural.twins.targeted import TargetClass


class SharedLayer(LayerRow):
    """One layer. ``similarity``: of its ``count`` most sensitive neurons, over pairs of classes. ``halves``: of each class's
    neurons on two halves of its images. ``jaccard``: total, over all classes. ``random_...``: the same of random neurons.

    ``moving``: neurons that change for any class. ``front``: for each neuron, for how many classes it is among the most
    sensitive (a fraction where ties leave it open). ``silent``: whether neurons that do not change are among those compared.
    ``moving`` and ``front`` are None where they were not counted.
    """

    count: int = shown("Compared")
    similarity: Estimate
    random_similarity: float = shown("Similarity, random", ".3f")
    halves: Estimate
    jaccard: float = shown("Total Jaccard", ".3f")
    random_jaccard: float = shown("Total Jaccard, random", ".3g")
    moving: int | None = shown("That change for any class")
    front: Values | None
    silent: bool


class Sharing(Found):
    """What the classes have in common; ``compared`` of ``all_classes`` were reached often enough."""

    attack: str
    classes: tuple[TargetClass, ...]
    compared: int
    all_classes: int
    layers: tuple[SharedLayer, ...]


def shared_layers(
    classes: Sequence[ClassSensitivity], k: int, top: float, substitution: int, seed: int
) -> Iterator[SharedLayer]:
    """Every layer, compared over at least two classes. ``k`` neurons are compared, or if 0 the share ``top``."""
    for depth, layer in enumerate(classes[0].layers):
        neurons = len(layer.sensitivity)
        count = min(k, neurons) if k else share_of(neurons, top)
        every = [item.layers[depth].sensitivity for item in classes]
        sequences = _sequences(every, count, derive_seed(seed, "ties", layer.name))
        first, second = (
            _sequences(
                [item.halves[half][depth].sensitivity for item in classes],
                count,
                derive_seed(seed, "ties", layer.name, half),
            )
            for half in (0, 1)
        )
        moving = int((np.stack(every) > 0).any(0).sum())
        moving = moving if moving >= count else neurons
        chance = random_similarity(moving, count, substitution, derive_seed(seed, "random sequences"))
        yield SharedLayer(
            name=layer.name,
            kind=layer.kind,
            neurons=neurons,
            count=count,
            similarity=average_pair_similarity(sequences, substitution),
            random_similarity=chance.mean,
            halves=Estimate.of_rate(levenshtein_similarity(first, second, substitution).mean(0)),
            jaccard=total_jaccard(sequences),
            random_jaccard=random_jaccard(moving, count, len(classes)),
            moving=moving,
            front=np.sum([front_odds(values, count) for values in every], axis=0),
            silent=any(bool((np.sort(values)[-count:] == 0).any()) for values in every),
        )


def _sequences(sensitivity: list[NDArray[np.float64]], count: int, seed: int) -> NDArray[np.int64]:
    """The most sensitive neurons for each of Y classes, (D, Y, count), D draws of the ties."""
    drawn = [fronts(values, count, derive_seed(seed, place)) for place, values in enumerate(sensitivity)]
    return np.stack(np.broadcast_arrays(*drawn), axis=1)
