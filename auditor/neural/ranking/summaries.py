"""Layers in summary, by the sensitivity of their neurons (Zhang et al. 2020, arXiv 1909.06978)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from auditor.kit.statistics.association import spearman
from auditor.neural.found import Found, LayerRow, shown
from auditor.neural.ranking.agreement import descending, random_spearman, shared_front
from auditor.neural.ranking.sensitivity import LayerSensitivity
from auditor.show.blocks import Measure, Measures


class SensitiveLayer(LayerRow):
    """What was found of one layer, above all of its ``count`` most sensitive neurons."""

    count: int = shown("Neurons averaged")

    @classmethod
    def of(cls, layer: LayerSensitivity, share: float, **found: Any) -> Self:
        """``share``: which neurons count as most sensitive. ``found``: the other fields."""
        return cls(name=layer.name, kind=layer.kind, neurons=layer.neurons, count=len(layer.top(share)), **found)


class SensitivitySummary(LayerRow):
    """One layer: means over all neurons, and over the most sensitive share of them (``top_``)."""

    mean: float = shown("Sensitivity, all", ".4g")
    top_mean: float = shown("Sensitivity, top", ".4g")
    ratio_top_mean: float | None = shown("Ratio, top", ".4g")
    zero_share: float = shown("Clean output zero", ".1%")


def sensitivity_summary(layer: LayerSensitivity, share: float) -> SensitivitySummary:
    """``share``: which neurons count as most sensitive."""
    top = layer.top(share)
    return SensitivitySummary(
        name=layer.name,
        kind=layer.kind,
        neurons=layer.neurons,
        mean=layer.sensitivity.mean(),
        top_mean=layer.sensitivity[top].mean(),
        ratio_top_mean=_mean(layer.ratio[top]),
        zero_share=layer.zero_share,
    )


class Neuron(Found):
    """One neuron among those of its layer; ``rank`` 1 is the most sensitive."""

    rank: int = shown("Rank")
    neuron: int = shown("Neuron")
    value: float = shown("Sensitivity", ".5g")
    ratio: float | None = shown("Ratio", ".4g")
    marked: Literal["yes", "no"]


def neurons(layer: LayerSensitivity, share: float) -> tuple[Neuron, ...]:
    """Most sensitive first; the ``share`` that counts as most sensitive is marked."""
    count = len(layer.top(share))
    return tuple(
        Neuron(
            rank=rank,
            neuron=neuron,
            value=layer.sensitivity[neuron],
            ratio=_mean(layer.ratio[[neuron]]),
            marked="yes" if rank <= count else "no",
        )
        for rank, neuron in enumerate(descending(layer.sensitivity).tolist(), 1)
    )


def in_numbers(row: Neuron, layer: LayerSensitivity) -> Measures:
    """One neuron in numbers, compared with its layer."""
    change = f"Mean absolute change of its output; the layer's mean is {layer.sensitivity.mean():.4g}."
    ratio = "The change divided by the size of its clean output, averaged over the images."
    rank = f"Of {layer.neurons} neurons, 1 is the most sensitive."
    title = f"Sensitivity of neuron {row.neuron}"
    return Measures(
        items=(
            Measure(title=title, value=row.value, higher_is_better=False, explanation=change),
            Measure(title="Sensitivity ratio", value=row.ratio, higher_is_better=False, explanation=ratio),
            Measure(title="Rank in its layer", value=row.rank, explanation=rank),
        )
    )


class Rescaled(Found):
    """A convolution and the normalization after it: how far the two rankings of their neurons agree."""

    conv: str = shown("Convolution")
    norm: str = shown("Normalization")
    neurons: int = shown("Neurons")
    agreement: float | None = shown("Rank correlation", ".3f")
    chance: float | None = shown("Chance reaches", ".3f")
    shared: float = shown("Sensitive in both", ".0%")


def rescaled(layers: Sequence[LayerSensitivity], share: float) -> Iterator[Rescaled]:
    """Every convolution that a normalization follows: its scale is arbitrary, and so may be its ranking."""
    for conv, norm in pairwise(layers):
        if (conv.kind, norm.kind) == ("conv", "norm") and conv.neurons == norm.neurons:
            yield Rescaled(
                conv=conv.name,
                norm=norm.name,
                neurons=conv.neurons,
                agreement=spearman(conv.sensitivity, norm.sensitivity).value,
                chance=None if conv.neurons < 2 else random_spearman(conv.neurons).high,
                shared=shared_front(conv.sensitivity, norm.sensitivity, len(conv.top(share))),
            )


def _mean(values: NDArray[np.float64]) -> float | None:
    """Over those that are defined."""
    return None if np.isnan(values).all() else float(np.nanmean(values))
