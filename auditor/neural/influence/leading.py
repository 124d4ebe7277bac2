"""Leading neurons: the k foremost of every layer on each image, and whether they stay the same on its twin (Chen et al. 2021,
arXiv 2112.13060, eq. 13)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from auditor.kit.randomness import RowRandom
from auditor.kit.statistics.estimate import Estimate
from auditor.models.classifier import Classifier
from auditor.models.neurons import LayerKind
from auditor.neural.analysis import Pair
from auditor.neural.found import Found, LayerRow, shown
from auditor.neural.influence.influence import (
    NeuronSlopes,
    chosen_mask,
    expected_jaccard,
    neuron_slopes,
    predicted_odds,
    shuffled_front,
)

LeadingBy = Literal["influence", "activation"]


class Covered(Found):
    """Mean consistency over the images, that of random sets, and how many neurons lead on any image."""

    neurons: int = shown("Neurons")
    consistency: Estimate
    random: float = shown("Random", ".1%")
    covered_clean: int
    covered_twin: int

    @property
    def share_clean(self) -> float:
        return self.covered_clean / self.neurons

    @property
    def share_twin(self) -> float:
        return self.covered_twin / self.neurons


class CoveredLayer(Covered, LayerRow):
    """Of one layer."""

    type: str


class _LeadingLayer(NamedTuple):
    """One layer of M neurons on a batch: ``consistency`` of each image, (B,), and whether each neuron leads on any, bool (M,)."""

    name: str
    kind: LayerKind
    type: str
    consistency: NDArray[np.float64]
    covered_clean: NDArray[np.bool_]
    covered_twin: NDArray[np.bool_]


class LeadingNeurons:
    """Consistency and coverage of the leading neurons over pairs that come batch by batch."""

    def __init__(self, classifier: Classifier, k: int, by: LeadingBy, seed: int) -> None:
        self.classifier, self.k, self.by, self.seed = classifier, k, by, seed
        self._batches: dict[str, list[_LeadingLayer]] = {}

    def add(self, pair: Pair) -> None:
        clean, twin = self._leading(pair.x, pair.sample, "clean"), self._leading(pair.x_adv, pair.sample, "twin")
        for name, (layer, first, lead) in clean.items():
            _, second, lead_twin = twin[name]
            either = (first | second).sum(1).double()
            share = ((first & second).sum(1).double() / either).cpu().numpy()
            covered = (mask.any(0).cpu().numpy() for mask in (lead, lead_twin))
            self._batches.setdefault(name, []).append(_LeadingLayer(name, layer.kind, layer.type, share, *covered))

    def layers(self) -> tuple[CoveredLayer, ...]:
        """Every layer with more than k neurons, but not the logits, in the order of execution."""
        return tuple(self._layer(parts) for parts in self._batches.values())

    def overall(self) -> Covered:
        """The mean over the layers, image by image, and the sums over them."""
        layers = self.layers()
        return Covered(
            neurons=sum(layer.neurons for layer in layers),
            consistency=Estimate.of_mean(np.mean([_of_images(parts) for parts in self._batches.values()], axis=0)),
            random=np.mean([layer.random for layer in layers]),
            covered_clean=sum(layer.covered_clean for layer in layers),
            covered_twin=sum(layer.covered_twin for layer in layers),
        )

    def _layer(self, parts: list[_LeadingLayer]) -> CoveredLayer:
        first, neurons = parts[0], len(parts[0].covered_clean)
        return CoveredLayer(
            name=first.name,
            kind=first.kind,
            type=first.type,
            neurons=neurons,
            consistency=Estimate.of_mean(_of_images(parts)),
            random=expected_jaccard(self.k, self.k, neurons),
            covered_clean=np.logical_or.reduce([part.covered_clean for part in parts]).sum(),
            covered_twin=np.logical_or.reduce([part.covered_twin for part in parts]).sum(),
        )

    def _leading(
        self, images: Tensor, sample: NDArray[np.int64], side: str
    ) -> dict[str, tuple[NeuronSlopes, Tensor, Tensor]]:
        """Each layer by its name, with the leading neurons of each image, bool (B, M), twice: ties broken at random, to compare
        an image with its twin, and by the lower index, which no neuron joins the leading ones by chance."""
        leading = {}
        for layer in neuron_slopes(self.classifier, images.to(self.classifier.dtype), predicted_odds):
            values = layer.influence if self.by == "influence" else layer.output
            if values.shape[1] > self.k:
                order = values.sort(dim=1, descending=True, stable=True)
                by_index = chosen = order.indices[:, : self.k]
                if (order.values[:, self.k - 1] == order.values[:, self.k]).any():
                    random = RowRandom(self.seed, f"ties {side} {layer.name}", [(int(item),) for item in sample])
                    chosen = shuffled_front(values, self.k, random)
                neurons = values.shape[1]
                leading[layer.name] = (layer, chosen_mask(chosen, neurons), chosen_mask(by_index, neurons))
        return leading


def _of_images(parts: list[_LeadingLayer]) -> NDArray[np.float64]:
    return np.concatenate([part.consistency for part in parts])
