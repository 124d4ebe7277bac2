"""Delta-values of one layer, searched neuron by neuron and image by image, in numbers."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.kit.statistics.association import spearman
from auditor.kit.statistics.estimate import Rate
from auditor.models.neurons import Layer, LayerKind
from auditor.neural.analysis import MeasuredLayer, measured_layer
from auditor.neural.delta.crossings import Crossings
from auditor.neural.figures import by_value
from auditor.neural.found import Found, shown


class SearchedNeuron(Found):
    """One neuron on ``images``: quantiles of |Delta| / std, None where beyond the bound, and what the gradient alone predicts.

    ``infinite``: images where no change within the bound suffices; ``raised``: those where it rises, not falls.
    """

    neuron: int
    std: float
    median: float | None
    lowest: float | None
    images: int
    infinite: int
    raised: int
    first_order: float | None

    @property
    def beyond(self) -> Rate:
        """The share of images without a change within the bound."""
        return Rate.count(self.infinite, self.images)

    @property
    def rises(self) -> Rate:
        """Of those with one the share where the neuron must rise."""
        return Rate.count(self.raised, self.images - self.infinite)


class SearchedLayer(Found):
    """One layer; a value belongs to an image and a neuron, and there are ``pairs``. Quantiles are of |Delta| / std.

    ``still``: neurons that never vary. ``cut``: whether only the layers behind it ran. ``infinite``: values beyond the bound;
    ``raised``: those where the neuron rises. ``failed_beyond``, ``failed_before``: values that could not be verified.
    ``nearest``: median of the lowest value of each image. ``compared``: values with a first-order estimate,
    ``within_factor_2``: those near it, ``spearman``: their rank correlation.
    """

    layer: str = shown("Layer")
    depth: int
    kind: LayerKind
    type: str
    neurons: int
    still: int
    cut: bool
    pairs: int = shown("Values")
    infinite: int
    raised: int
    failed_beyond: int
    failed_before: int
    q25: float | None = shown("25 % of |Δ| / σ", ".3g")
    median: float | None = shown("Median", ".3g")
    q75: float | None = shown("75 %", ".3g")
    nearest: float | None
    compared: int
    within_factor_2: int
    spearman: float | None = shown("First order: Spearman", ".2f")
    chosen: tuple[SearchedNeuron, ...]

    @property
    def beyond(self) -> Rate:
        """The share of values beyond the bound."""
        return Rate.count(self.infinite, self.pairs)

    @property
    def rises(self) -> Rate:
        """Of the others the share where the neuron must rise."""
        return Rate.count(self.raised, self.pairs - self.infinite)

    @property
    def within(self) -> Rate:
        """The share of first-order estimates that are right within a factor of two."""
        return Rate.count(self.within_factor_2, self.compared)

    @property
    def failed(self) -> int:
        """Values that could not be verified on one side."""
        return self.failed_beyond + self.failed_before

    @property
    def ranked(self) -> list[tuple[int, float]]:
        """The neurons whose median lies within the bound, with it, most sensitive first."""
        return by_value((row.neuron, row.median) for row in self.chosen)

    @property
    def tenth(self) -> int:
        """How many of those are called the most sensitive: a tenth, at least one."""
        return max(1, len(self.ranked) // 10)

    def measured(self) -> MeasuredLayer:
        """The medians for the map of the network, the most sensitive neurons marked."""
        medians = dict(self.ranked)
        values = [medians.get(neuron) for neuron in range(self.neurons)]
        return measured_layer(self.layer, self.kind, values, list(medians)[: self.tenth])


def layer_found(
    layer: Layer, cut: bool, chosen: Tensor, std: Tensor, estimate: Tensor, crossings: list[Crossings]
) -> SearchedLayer:
    """The Delta-values of one layer in numbers.

    ``chosen``: the m neurons searched. ``std``: (M,). ``estimate``: first-order, (N, m). ``crossings``: of N
    images with m neurons each, image by image, in parts.
    """
    scale = std[chosen].cpu().numpy()
    value = torch.cat([item.value for item in crossings]).view(len(estimate), len(chosen)).cpu().numpy()
    scaled, guess = np.abs(value) / scale, np.abs(estimate.cpu().numpy()) / scale
    finite = np.isfinite(value)
    both = finite & np.isfinite(guess)
    ratio = guess[both] / scaled[both]
    return SearchedLayer(
        layer=layer.name,
        depth=layer.depth,
        kind=layer.kind,
        type=layer.type,
        neurons=layer.neurons,
        still=int((std == 0).sum()),
        cut=cut,
        pairs=value.size,
        infinite=int((~finite).sum()),
        raised=int((value[finite] > 0).sum()),
        failed_beyond=sum(int(item.fails_beyond.sum()) for item in crossings),
        failed_before=sum(int(item.fails_before.sum()) for item in crossings),
        q25=_quantile(scaled.ravel(), 0.25),
        median=_quantile(scaled.ravel(), 0.5),
        q75=_quantile(scaled.ravel(), 0.75),
        nearest=_quantile(scaled.min(1), 0.5) if scaled.size else None,
        compared=int(both.sum()),
        within_factor_2=int(((ratio >= 0.5) & (ratio <= 2)).sum()),
        spearman=spearman(guess[both], scaled[both]).value if both.sum() > 2 else None,
        chosen=tuple(
            SearchedNeuron(
                neuron=neuron,
                std=float(scale[place]),
                median=_quantile(scaled[:, place], 0.5),
                lowest=_quantile(scaled[:, place], 0.0),
                images=len(scaled),
                infinite=int((~finite[:, place]).sum()),
                raised=int((value[finite[:, place], place] > 0).sum()),
                first_order=_quantile(guess[:, place], 0.5),
            )
            for place, neuron in enumerate(chosen.tolist())
        ),
    )


def _quantile(values: NDArray[np.float64], share: float) -> float | None:
    """A value of the sample itself, so infinite ones need no arithmetic; None where it is infinite or there is none."""
    found = float(np.quantile(values, share, method="inverted_cdf")) if values.size else math.inf
    return found if math.isfinite(found) else None
