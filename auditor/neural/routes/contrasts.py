"""Neurons on the critical route against the others: how much they change under attack, and how much the loss depends on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from auditor.kit.statistics.estimate import CONFIDENCE, Estimate
from auditor.models.classifier import Classifier
from auditor.models.neurons import LayerKind, watch
from auditor.neural.analysis import Pair
from auditor.neural.found import Found, Values

Quantity = Literal["sensitivity", "gradient"]
QUANTITIES: tuple[Quantity, ...] = ("sensitivity", "gradient")
DRAWS = 1000
"""Random sets of neurons that a control is made of."""

T = TypeVar("T")


class Quantities(Found, Generic[T]):
    """The same of both quantities: neuron sensitivity, and loss gradient."""

    sensitivity: T
    gradient: T

    def __getitem__(self, what: Quantity) -> T:
        value: T = getattr(self, what)
        return value


class RouteContrast(Found):
    """A quantity on the route and off it: means over images with intervals, and over random neurons of the same count.

    ``random_low`` to ``random_high``: 95 % of the random sets. ``off`` is None where the route is the whole layer.
    """

    on: Estimate
    off: Estimate | None
    random_low: float
    random_high: float

    @property
    def ordinary(self) -> bool:
        """Whether there is no more of it on the route than on random neurons."""
        return self.on.value is not None and self.on.value <= self.random_high

    @classmethod
    def of(
        cls,
        on: NDArray[np.float64],
        off: NDArray[np.float64],
        mean: NDArray[np.float64],
        count: int,
        generator: np.random.Generator,
    ) -> RouteContrast:
        """``on``, ``off``: one value for each image. ``mean``: over the images, for each neuron of the layer.

        Random sets come from all neurons, those of the route among them, without those whose mean is zero where enough are left:
        dead neurons would lower what chance gives."""
        pool = mean[mean != 0] if (mean != 0).sum() >= count else mean
        sets = [pool[generator.choice(len(pool), count, replace=False)].mean() for _ in range(DRAWS)]
        low, high = np.quantile(sets, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        rest = None if np.isnan(off).any() else Estimate.of_mean(off)
        return cls(on=Estimate.of_mean(on), off=rest, random_low=float(low), random_high=float(high))


class LayerContrast(Found):
    """Of one layer the contrasts, and the mean over the images of each neuron."""

    contrast: Quantities[RouteContrast]
    mean: Quantities[Values]


def contrasts(
    classifier: Classifier,
    pairs: Iterable[Pair],
    names: Sequence[str],
    route: Sequence[NDArray[np.int64]],
    generator: np.random.Generator,
) -> list[LayerContrast]:
    """Of each layer named. ``route``: the neurons of the model's route in each."""
    parts: dict[tuple[int, Quantity], list[NDArray[np.float64]]] = defaultdict(list)
    totals: dict[tuple[int, Quantity], NDArray[np.float64]] = {}
    images = 0
    for pair in pairs:
        images += len(pair.sample)
        measured = sensitivity_and_gradient(classifier, names, pair.x, pair.x_adv, pair.labels)
        for index, quantities in enumerate(measured):
            for what, each in quantities.items():
                rows = each.double().cpu().numpy()
                on = np.isin(np.arange(rows.shape[1]), route[index])
                outside = rows[:, ~on].mean(1) if not on.all() else np.full(len(rows), np.nan)
                parts[index, what].append(np.stack([rows[:, on].mean(1), outside]))
                totals[index, what] = totals.get((index, what), np.zeros(rows.shape[1])) + rows.sum(0)
    found = []
    for index, kept in enumerate(route):
        means = {what: totals[index, what] / images for what in QUANTITIES}
        made = {}
        for what in QUANTITIES:
            on, off = np.concatenate(parts[index, what], axis=1)
            made[what] = RouteContrast.of(on, off, means[what], len(kept), generator)
        found.append(LayerContrast(contrast=Quantities[RouteContrast](**made), mean=Quantities[Values](**means)))
    return found


def sensitivity_and_gradient(
    classifier: Classifier, names: Sequence[str], x: Tensor, x_adv: Tensor, labels: Tensor
) -> list[dict[Quantity, Tensor]]:
    """Of each layer named, (B, M) each: mean over positions of |F(x) - F(x')| (eq. 1 of arXiv 1909.06978), and
    sum over positions of |dL/dZ| at x, L the cross-entropy with the true label."""
    clean: dict[str, Tensor] = {}
    change: dict[str, Tensor] = {}

    def keep(name: str, kind: LayerKind, type_name: str, output: Tensor) -> Tensor | None:
        if name not in names:
            return None
        clean[name] = output
        return output.clone()  # the next layer may work in place

    def compare(name: str, kind: LayerKind, type_name: str, output: Tensor) -> None:
        if name in names:
            difference = (output - clean[name].detach()).abs()
            change[name] = difference.flatten(2).mean(2) if difference.dim() > 2 else difference

    with torch.enable_grad(), watch(classifier.network, keep):
        logits = classifier(x.detach().requires_grad_())
        loss = functional.cross_entropy(logits.double(), labels, reduction="sum")
    with torch.no_grad(), watch(classifier.network, compare):
        classifier(x_adv)
    slopes = torch.autograd.grad(loss, [clean[name] for name in names])
    return [
        {"sensitivity": change[name], "gradient": slope.abs().flatten(2).sum(2) if slope.dim() > 2 else slope.abs()}
        for name, slope in zip(names, slopes, strict=True)
    ]
