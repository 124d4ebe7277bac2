"""How the outputs of the last hidden layer are spread over the images, and how many of them are zero."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from auditor.kit.statistics.estimate import Estimate
from auditor.models.classifier import Classifier
from auditor.neural.analysis import Pair
from auditor.neural.delta.values import Activations, features_of
from auditor.neural.found import Found
from auditor.neural.probes.head import Head
from auditor.show.blocks import Row

IMAGES: dict[str, str] = {"clean": "clean images", "attacked": "attacked images"}
SpreadScale = Literal["layer", "neuron"]
"""What the lowest and the highest output are taken over: the whole layer, or each neuron."""


class NeuronActivations(Found):
    """Of every neuron: mean and standard deviation of its clean output, the share of clean and of attacked images where it is
    zero."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    zeros: tuple[float, ...]
    zeros_attacked: tuple[float, ...]

    @property
    def silent(self) -> list[int]:
        """The neurons that are zero on every clean image."""
        return [neuron for neuron, share in enumerate(self.zeros) if share == 1]


class LayerActivations(Found):
    """Inputs of ``layer`` on ``images`` and their ``twins``. ``lowest``, ``highest``: on clean images; ``outside``: scaled
    outputs beyond these. ``counts``: a histogram of the scaled outputs; ``zeros``: share of the neurons, mean over images."""

    layer: str
    neurons: int
    images: int
    twins: str
    outside: int
    lowest: float
    highest: float
    counts: dict[str, tuple[int, ...]]
    zeros: dict[str, Estimate]
    by_neuron: NeuronActivations

    def bins(self) -> tuple[Row, ...]:
        """Rows of the chart ``histogram``: shares of the outputs; each series ends with an empty bin."""
        return tuple(
            {
                "low": place / len(counts),
                "high": (place + 1) / len(counts),
                "share": count / sum(counts),
                "series": title,
            }
            for counts, title in ((self.counts[name], title) for name, title in IMAGES.items())
            for place, count in enumerate([*counts, 0])
        )


class ActivationSpread:
    """Counts the outputs on images and their twins, scaled from 0 (the lowest ``clean`` one) to 1 (the highest)."""

    def __init__(self, classifier: Classifier, head: Head, clean: Activations, scale: SpreadScale, bins: int) -> None:
        self.classifier, self.head, self.clean, self.scale, self.bins = classifier, head, clean, scale, bins
        self.counts = {name: torch.zeros(bins, dtype=torch.int64, device=classifier.device) for name in IMAGES}
        self.shares: dict[str, list[float]] = {name: [] for name in IMAGES}
        self.zeros = torch.zeros_like(clean.mean)
        self.outside = 0

    def add(self, pair: Pair) -> None:
        """Count some images and their twins."""
        for name, x in zip(IMAGES, (pair.x, pair.x_adv), strict=True):
            features = features_of(self.classifier, self.head, x)
            scaled = self._scaled(features)
            self.outside += int(((scaled < 0) | (scaled > 1)).sum())
            place = (scaled * self.bins).floor().clamp(0, self.bins - 1).long()
            self.counts[name] += place.flatten().bincount(minlength=self.bins)
            self.shares[name] += (features == 0).double().mean(1).tolist()
            self.zeros += (features == 0).sum(0) if name == "attacked" else 0

    def found(self, twins: str) -> LayerActivations:
        """All in all; ``twins``: how these were made."""
        clean = self.clean
        return LayerActivations(
            layer=self.head.name,
            neurons=len(clean.mean),
            images=clean.images,
            twins=twins,
            outside=self.outside,
            lowest=float(clean.lowest.min()),
            highest=float(clean.highest.max()),
            counts={name: values.tolist() for name, values in self.counts.items()},
            zeros={name: Estimate.of_mean(values).within(0, 1) for name, values in self.shares.items()},
            by_neuron=NeuronActivations(
                mean=clean.mean.tolist(),
                std=clean.std.tolist(),
                zeros=clean.zeros.tolist(),
                zeros_attacked=(self.zeros / clean.images).tolist(),
            ),
        )

    def _scaled(self, features: Tensor) -> Tensor:
        """Min-max scaling by the clean images; a range of zero width gives 0."""
        low, high = self.clean.lowest, self.clean.highest
        if self.scale == "layer":
            low, high = low.min(), high.max()
        width = high - low
        return (features - low) / torch.where(width > 0, width, torch.inf)
