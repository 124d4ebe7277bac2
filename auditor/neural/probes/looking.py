"""What neurons look at: the most and the least sensitive ones of a layer, pictures of their regions, and how these overlap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from auditor.kit.errors import EvaluationError
from auditor.kit.randomness import derive_seed
from auditor.kit.statistics.estimate import Estimate
from auditor.models.classifier import Classifier
from auditor.models.neurons import list_layers
from auditor.neural.analysis import Subject
from auditor.neural.found import Found, OfPairs, shown
from auditor.neural.probes.regions import Maps, darkened, overlaps, thresholds_of
from auditor.neural.ranking.agreement import descending
from auditor.neural.ranking.sensitivity import LayerSensitivity
from auditor.show.blocks import Image
from auditor.show.pictures import picture

LEAST_SIDE = 8
"""By default the last layer whose maps have at least 8 pixels on a side: coarser ones show little of where a neuron looks."""

Group = Literal["most", "least", "random"]
GROUPS: dict[Group, str] = {
    "most": "most sensitive",
    "least": "least sensitive",
    "random": "random others",
}


class LookingNeuron(Found):
    """One neuron: what its clean activations must exceed to count as looking, and how far its regions on images and twins
    overlap. ``pictures``: clean and adversarial in turn."""

    group: Group
    neuron: int = shown("Neuron")
    sensitivity: float = shown("Sensitivity", ".4g")
    threshold: float
    overlap: Estimate = shown("Overlap [95 % interval]")
    pictures: tuple[Image, ...]

    @property
    def group_title(self) -> str:
        """What a reader calls the group."""
        return GROUPS[self.group]


class Looking(OfPairs):
    """Neurons of one layer of ``neurons`` with maps of ``size``; ``overlap``: of each group, mean over neurons, then images."""

    layer: str
    size: tuple[int, int]
    neurons: int
    rows: tuple[LookingNeuron, ...]
    overlap: dict[Group, Estimate]

    def of(self, group: Group) -> list[LookingNeuron]:
        """The neurons of a group."""
        return [row for row in self.rows if row.group == group]


def layer_with_maps(classifier: Classifier, name: str) -> str:
    """That of this name; without a name the last activation with fine maps. Raises EvaluationError if there is none."""
    layers = [layer for layer in list_layers(classifier) if len(layer.spatial) == 2]
    if name:
        if name not in [layer.name for layer in layers]:
            raise EvaluationError(f"The network has no layer {name} with maps.", "Pick one from its layers.")
        return name
    if not layers:
        raise EvaluationError("The network has no layer with maps, so no place in an image can be shown.")
    candidates = [layer for layer in layers if layer.kind == "activation"] or layers
    fine = [layer for layer in candidates if min(layer.spatial) >= LEAST_SIDE]
    return fine[-1].name if fine else max(candidates, key=lambda layer: min(layer.spatial)).name


def groups_of(layer: LayerSensitivity, most: int, seed: int) -> dict[Group, NDArray[np.int64]]:
    """At most so many of the most and of the least sensitive neurons, most and least sensitive first, and as many others as a
    control.

    Neurons that do not change at all are left out: most of them are dead and look at nothing.
    """
    order = descending(layer.sensitivity)
    order = order[layer.sensitivity[order] > 0]
    if len(order) < 2:
        raise EvaluationError(f"In layer {layer.name} fewer than two neurons change under the attack.", "Pick another.")
    count = min(most, len(order) // 2)
    rest = order[count : len(order) - count]
    random = np.random.default_rng(derive_seed(seed, "random neurons", layer.name)).permutation(rest)[:count]
    groups: dict[Group, NDArray[np.int64]] = {
        "most": order[:count], "least": order[::-1][:count], "random": np.sort(random)
    }  # fmt: skip
    return {group: members for group, members in groups.items() if len(members)}


def looking(
    subject: Subject,
    layer: LayerSensitivity,
    groups: dict[Group, NDArray[np.int64]],
    maps: Maps,
    share: float,
    images: int,
) -> Looking:
    """From the maps of all neurons of the groups, one group after the other. ``share``: of a neuron's clean activations that
    count as looking. ``images``: shown for each neuron of the most and the least sensitive ones."""
    placed = [(group, neuron) for group, members in groups.items() for neuron in members.tolist()]
    thresholds = thresholds_of(maps.clean, share)
    overlap = overlaps(maps.clean, maps.moved, thresholds)
    wanted = {
        place: descending(maps.clean[:, place].flatten(1).amax(1).double().numpy())[:images].tolist()
        for place, (group, _) in enumerate(placed)
        if group != "random"
    }
    drawn = _LookingPictures(subject, maps, thresholds, {index for indices in wanted.values() for index in indices})
    height, width = maps.clean.shape[2:]
    return Looking(
        images=len(maps.samples),
        pairs=subject.pairs_from,
        layer=layer.name,
        size=(height, width),
        neurons=len(layer.sensitivity),
        rows=tuple(
            LookingNeuron(
                group=group,
                neuron=neuron,
                sensitivity=layer.sensitivity[neuron],
                threshold=thresholds[place],
                overlap=Estimate.of_rate(overlap[:, place]),
                pictures=tuple(item for index in wanted.get(place, []) for item in drawn.of(place, index)),
            )
            for place, (group, neuron) in enumerate(placed)
        ),
        overlap={group: _together(overlap[:, [other == group for other, _ in placed]]) for group in groups},
    )


class _LookingPictures:
    """Draws where neurons look on the images with these places among the maps, and on their twins."""

    def __init__(self, subject: Subject, maps: Maps, thresholds: NDArray[np.float64], places: set[int]) -> None:
        self.dataset, self.maps, self.thresholds = subject.dataset, maps, thresholds
        self.images: dict[int, tuple[Tensor, Tensor]] = {}
        needed = maps.samples[sorted(places)]
        for pair in subject.pairs:
            for row in np.flatnonzero(np.isin(pair.sample, needed)).tolist():
                self.images[int(pair.sample[row])] = pair.x[row].float().cpu(), pair.x_adv[row].float().cpu()

    def of(self, place: int, index: int) -> Iterator[Image]:
        """Clean and adversarial picture of one image, for the neuron in one place."""
        sample = int(self.maps.samples[index])
        name = self.dataset.sample_name(sample)
        sides = zip(("clean", "adversarial"), self.images[sample], (self.maps.clean, self.maps.moved), strict=True)
        for what, image, activity in sides:
            yield picture(
                darkened(image, activity[index, place], float(self.thresholds[place])),
                f"{what} {name}",
                f"where the neuron looks, {what} image {name}",
            )


def _together(overlap: NDArray[np.float64]) -> Estimate:
    """The mean over a group's neurons, (N, neurons), of each image, then over images."""
    counts = (~np.isnan(overlap)).sum(1)
    return Estimate.of_rate(np.where(counts > 0, np.nansum(overlap, axis=1) / np.maximum(counts, 1), np.nan))
