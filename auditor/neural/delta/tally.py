"""DeltaTally: the Delta-values of many images as running numbers, per neuron, per histogram bin, and a few per image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Self

import numpy as np
import torch
from torch import Tensor

from auditor.kit.statistics.estimate import Estimate
from auditor.neural.delta.log_bins import Bins, LogBins
from auditor.neural.delta.values import (
    ORDERINGS,
    Activations,
    Deltas,
    Ordering,
    leaves_prediction,
    order_agreement,
    scores,
)
from auditor.neural.found import Found, shown
from auditor.neural.probes.head import Head

TOP = 16
"""Neurons of each image that the orderings are compared on: as many as the largest k-NS attack of the paper targets."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MARGIN = 1e-4
"""Every value is verified: Delta (1 + 1e-4) must change the prediction, Delta (1 - 1e-4) must not."""


class Quantiles(Found):
    """Quantiles of the ``n`` values that are finite."""

    what: str = shown("Of")
    n: int = shown("n")
    q05: float | None = shown("5 %", ".4g", alias="0.05")
    q25: float | None = shown("25 %", ".4g", alias="0.25")
    q50: float | None = shown("50 %", ".4g", alias="0.5")
    q75: float | None = shown("75 %", ".4g", alias="0.75")
    q95: float | None = shown("95 %", ".4g", alias="0.95")

    @classmethod
    def of(cls, what: str, values: Sequence[float]) -> Self:
        """Of finite values; None if there are none."""
        found = np.quantile(values, QUANTILES).tolist() if values else [None] * len(QUANTILES)
        return cls(what=what, n=len(values), **dict(zip(("q05", "q25", "q50", "q75", "q95"), found, strict=True)))


class NeuronDeltas(Found):
    """Of every neuron, over the images.

    ``finite``: images where a change suffices; ``raised``: those of them where it must rise. ``nearest``: images of which it is
    the most sensitive neuron. ``raw``, ``scaled``: mean |Delta|, and divided by the deviation; None where never finite.
    ``target``: the class reached most often, -1 where none is; ``reached``: on so many images. ``mean``, ``std``: its output.
    """

    finite: tuple[int, ...]
    raised: tuple[int, ...]
    nearest: tuple[int, ...]
    raw: tuple[float | None, ...]
    scaled: tuple[float | None, ...]
    target: tuple[int, ...]
    reached: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class OrderAgreement(Found):
    """How far two orderings of the neurons agree: means over ``n`` images, and standard deviations between them."""

    one: Ordering
    other: Ordering
    n: int = shown("Images")
    spearman: float | None = shown("Spearman", ".3f")
    spearman_std: float | None = shown("Spearman: deviation", ".3f")
    overlap: float | None
    overlap_std: float | None = shown("Overlap: deviation", ".1%")
    chance: float | None = shown("Overlap by chance", ".1%")

    @classmethod
    def of(cls, one: Ordering, other: Ordering, found: Sequence[tuple[float, float, float]]) -> Self:
        """From correlation, overlap and overlap by chance of each image."""
        nothing = (None, None, None)
        spearman, overlap, chance = np.mean(found, 0).tolist() if found else nothing
        spread, width, _ = np.std(found, 0).tolist() if found else nothing
        return cls(
            one=one, other=other, n=len(found), spearman=spearman, spearman_std=spread, overlap=overlap, overlap_std=width,
            chance=chance,
        )  # fmt: skip

    @property
    def ordering(self) -> str:
        """What a reader calls the one."""
        return ORDERINGS[self.one]

    @property
    def compared(self) -> str:
        """What a reader calls the other."""
        return ORDERINGS[self.other]


class LastLayerDeltas(Found):
    """Delta-values of the inputs of the last layer.

    ``floor``: lowest output that a neuron may be moved to; None: any. ``unverified``: values that do not mark the point of
    change. ``images``: those counted; ``tied``: those without a prediction, left out. ``infinite``: (image, neuron) pairs.
    ``bins``: by scale and by what is counted. ``median``: of the lowest |Delta| / deviation of each image.
    """

    layer: str
    floor: float | None
    unverified: int
    images: int
    tied: int
    neurons: int
    classes: int
    infinite: int
    bins: dict[str, dict[str, Bins]]
    median: Estimate
    quantiles: tuple[Quantiles, ...]
    by_neuron: NeuronDeltas
    orderings: tuple[OrderAgreement, ...]


class DeltaTally:
    """Adds up the Delta-values of images. ``floor``: lowest output that a neuron may be moved to."""

    def __init__(self, head: Head, activations: Activations, floor: float) -> None:
        self.head, self.activations, self.floor = head, activations, floor
        self.images = self.tied = self.infinite = self.unverified = 0
        (classes, neurons), device = head.weight.shape, activations.mean.device
        self.finite, self.raised, self.first, self.total = (
            torch.zeros(neurons, dtype=torch.float64, device=device) for _ in range(4)
        )
        self.targets = torch.zeros(neurons, classes, dtype=torch.int64, device=device)
        self.every = {"raw": LogBins(), "scaled": LogBins()}
        self.lowest = {"raw": LogBins(), "scaled": LogBins()}
        self.nearest: dict[str, list[float]] = {"raw": [], "scaled": []}
        self.agreement: dict[tuple[Ordering, Ordering], list[tuple[float, float, float]]] = {
            pair: [] for pair in combinations(ORDERINGS, 2)
        }

    def add(self, logits: Tensor, deltas: Deltas) -> None:
        """Of B images: logits (B, K) and Delta-values (B, M), which are verified; those without a prediction are left out."""
        for side, wanted in ((1 + MARGIN, True), (1 - MARGIN, False)):
            leaves = leaves_prediction(logits, self.head.weight, deltas.value * side)
            self.unverified += int(((leaves != wanted) & deltas.value.isfinite()).sum())
        self.tied += int(deltas.tied.sum())
        self._count(deltas.value[~deltas.tied], deltas.target[~deltas.tied])

    def _count(self, delta: Tensor, target: Tensor) -> None:
        finite = delta.isfinite()
        self.images += len(delta)
        self.infinite += int((~finite).sum())
        self.finite += finite.sum(0)
        self.raised += (finite & (delta > 0)).sum(0)
        self.total += delta.abs().masked_fill(~finite, 0.0).sum(0)
        self.targets.scatter_add_(1, target.clamp_min(0).T, finite.T.long())
        by_score = {ordering: scores(delta, self.activations, ordering) for ordering in ORDERINGS}
        for scale, values in (("raw", delta.abs()), ("scaled", by_score["abs_scaled"])):
            self.every[scale].add(values)
            self.lowest[scale].add(values.amin(1))
            self.nearest[scale] += [value for value in values.amin(1).tolist() if math.isfinite(value)]
        lowest, neuron = by_score["abs_scaled"].min(1)
        self.first += neuron[lowest.isfinite()].bincount(minlength=len(self.first))
        for (one, other), found in self.agreement.items():
            rows = zip(by_score[one].cpu().numpy(), by_score[other].cpu().numpy(), strict=True)
            found += [item for pair in rows if (item := order_agreement(*pair, top=TOP))]

    def found(self) -> LastLayerDeltas:
        """All in all."""
        neurons, classes = self.targets.shape
        each = self._by_neuron()
        return LastLayerDeltas(
            layer=self.head.name,
            floor=None if math.isinf(self.floor) else self.floor,
            unverified=self.unverified,
            images=self.images,
            tied=self.tied,
            neurons=neurons,
            classes=classes,
            infinite=self.infinite,
            bins={
                scale: {"all": self.every[scale].found(), "lowest of each image": self.lowest[scale].found()}
                for scale in self.every
            },
            median=Estimate.of_median(self.nearest["scaled"]),
            quantiles=(
                Quantiles.of("lowest |Δ| / σ of each image", self.nearest["scaled"]),
                Quantiles.of("lowest |Δ| of each image", self.nearest["raw"]),
                Quantiles.of("mean |Δ| / σ of each neuron", [value for value in each.scaled if value is not None]),
            ),
            by_neuron=each,
            orderings=tuple(OrderAgreement.of(*pair, found) for pair, found in self.agreement.items()),
        )

    def _by_neuron(self) -> NeuronDeltas:
        mean, std = self.activations.mean, self.activations.std
        raw = self.total / self.finite
        reached, target = self.targets.max(1)
        return NeuronDeltas(
            finite=self.finite.long().tolist(),
            raised=self.raised.long().tolist(),
            nearest=self.first.long().tolist(),
            raw=tuple(map(_plain, raw.tolist())),
            scaled=tuple(map(_plain, (raw / std).tolist())),
            target=target.masked_fill(reached == 0, -1).tolist(),
            reached=reached.tolist(),
            mean=mean.tolist(),
            std=std.tolist(),
        )


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
