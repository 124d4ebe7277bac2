"""InfluenceTotals: the influence of neurons on images and their twins, summed up batch by batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.kit.statistics.estimate import Estimate
from auditor.neural.found import Found, Values, shown
from auditor.neural.influence.influence import Parts, chosen_mask, front_odds

CURVE_POINTS = 100
"""Points of the curve of sorted influence; where a layer has more neurons, neighbours are averaged."""


class Influences(NamedTuple):
    """Some images and their twins. ``clean``, ``twin``: influence by which neurons are ordered, float64 (B, M);
    ``clean_value``, ``twin_value``: influence as it is shown."""

    clean: Tensor
    twin: Tensor
    clean_value: Tensor
    twin_value: Tensor


class InfluencePoint(Found):
    """Mean influence of the neurons at one place in the order on the clean image."""

    position: float
    clean: float
    twin: float


class PartOverlap(Found):
    """Share of a part that is the same on an image and on its twin, and of as many random neurons."""

    mean: Estimate
    random: float


class Overlaps(Found):
    """Of both parts."""

    front: PartOverlap
    tail: PartOverlap


class NeuronRow(Found):
    """How often a neuron is front and tail, and its mean influence."""

    neuron: int = shown("Neuron")
    front_clean: float = shown("Front, clean", ".1%")
    front_twin: float = shown("Front, twin", ".1%")
    tail_clean: float = shown("Tail, clean", ".1%")
    tail_twin: float = shown("Tail, twin", ".1%")
    influence_clean: float = shown("Influence, clean", ".3g")
    influence_twin: float = shown("Influence, twin", ".3g")


class ByNeuron(Found):
    """The same of every neuron."""

    influence_clean: Values
    influence_twin: Values
    front_clean: Values
    front_twin: Values
    tail_clean: Values
    tail_twin: Values

    def most_often_front(self, count: int) -> list[int]:
        """On clean images, the most often first."""
        return np.argsort(-self.front_clean, kind="stable")[:count].tolist()

    def rows(self, neurons: list[int]) -> list[NeuronRow]:
        """Of some neurons."""
        return [
            NeuronRow(neuron=neuron, **{key: getattr(self, key)[neuron] for key in type(self).model_fields})
            for neuron in neurons
        ]


class InfluenceSummary(NamedTuple):
    """What the totals come to."""

    curve: tuple[InfluencePoint, ...]
    overlap: Overlaps
    by_neuron: ByNeuron


class InfluenceTotals:
    """Sums over images: each neuron's influence and parts, the sorted influence, and the overlap of each image."""

    def __init__(self, neurons: int) -> None:
        self.neurons, self.images = neurons, 0
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.overlaps: dict[str, list[NDArray[np.float64]]] = {"front": [], "tail": []}

    def add(self, seen: Influences, clean: Parts, twin: Parts) -> None:
        self.images += len(seen.clean)
        order = torch.cat([clean.front, clean.remaining, clean.tail], 1)
        summed = {
            "influence_clean": seen.clean_value, "influence_twin": seen.twin_value,
            "sorted_clean": seen.clean_value.gather(1, order), "sorted_twin": seen.twin_value.gather(1, order),
        }  # fmt: skip
        for part in ("front", "tail"):
            both = [chosen_mask(getattr(parts, part), self.neurons) for parts in (clean, twin)]
            summed |= {f"{part}_clean": both[0].double(), f"{part}_twin": both[1].double()}
            # Neurons of no influence have no order: by index they would be the same ones on an image and on its twin.
            sign, count = (1 if part == "front" else -1), getattr(clean, part).shape[1]
            one, other = (front_odds(sign * values, count) for values in (seen.clean, seen.twin))
            self.overlaps[part].append(((one * other).sum(1) / count).cpu().numpy())
        for key, values in summed.items():
            self.sums[key] = self.sums.get(key, np.zeros(self.neurons)) + values.sum(0).cpu().numpy()

    def summary(self, front: int, tail: int) -> InfluenceSummary:
        """Of one image or more. ``front``, ``tail``: how many neurons are either."""
        means = {key: total / self.images for key, total in self.sums.items()}
        groups = np.array_split(np.arange(self.neurons), min(self.neurons, CURVE_POINTS))
        return InfluenceSummary(
            curve=tuple(
                InfluencePoint(
                    position=group.mean() + 1,
                    clean=means["sorted_clean"][group].mean(),
                    twin=means["sorted_twin"][group].mean(),
                )
                for group in groups
            ),
            overlap=Overlaps(
                front=PartOverlap(mean=self._overlap("front"), random=front / self.neurons),
                tail=PartOverlap(mean=self._overlap("tail"), random=tail / self.neurons),
            ),
            by_neuron=ByNeuron(**{key: means[key] for key in ByNeuron.model_fields}),
        )

    def _overlap(self, part: str) -> Estimate:
        return Estimate.of_mean(np.concatenate(self.overlaps[part]))
