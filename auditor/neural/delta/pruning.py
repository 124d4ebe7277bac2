"""Pruning the last layer: its neurons in the order of their Delta, and the accuracy without the first of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from auditor.kit.randomness import derive_seed
from auditor.kit.statistics.estimate import Estimate, Rate
from auditor.models.classifier import Classifier, finite
from auditor.neural.analysis import Pair
from auditor.neural.delta.values import Activations, deltas_of, ordered
from auditor.neural.found import Found, shown
from auditor.neural.probes.head import Head, penultimate

PrunedOn = Literal["clean", "attacked"]
SERIES = {"most": "most sensitive first", "least": "least sensitive first", "random": "random order"}


class Pruning(Found):
    """Images answered right when so many neurons are ``pruned``, for each order by its name, on clean and attacked images."""

    layer: str
    neurons: int
    images: int
    twins: str
    unranked: int
    pruned: tuple[int, ...]
    clean: dict[str, tuple[int, ...]]
    attacked: dict[str, tuple[int, ...]]

    @property
    def draws(self) -> int:
        return sum(name.startswith("random") for name in self.clean)

    def rate(self, images: PrunedOn, order: str, point: int) -> Estimate:
        """Accuracy at a point of a curve; of the random orders the mean, and the lowest and the highest."""
        hits = {name: each[point] for name, each in getattr(self, images).items() if name.startswith(order)}
        if order != "random":
            return Rate.count(hits[order], self.images)
        shares = [each / self.images for each in hits.values()]
        return Estimate(value=sum(shares) / len(shares), low=min(shares), high=max(shares), n=self.images)

    def rows(self) -> Iterator[PruningRow]:
        """Of a table, point by point."""
        for point, pruned in enumerate(self.pruned):
            clean = {f"clean_{order}": self.rate("clean", order, point).value for order in SERIES}
            attacked = {f"attacked_{order}": self.rate("attacked", order, point).value for order in SERIES}
            yield PruningRow(pruned=pruned, share=pruned / self.neurons, **clean, **attacked)


class PruningRow(Found):
    """Accuracies at one point of the curves."""

    pruned: int = shown("Pruned")
    share: float = shown("Share", ".0%")
    clean_most: float | None = shown(f"clean, {SERIES['most']}", ".1%")
    clean_least: float | None = shown(f"clean, {SERIES['least']}", ".1%")
    clean_random: float | None = shown(f"clean, {SERIES['random']}", ".1%")
    attacked_most: float | None = shown(f"attacked, {SERIES['most']}", ".1%")
    attacked_least: float | None = shown(f"attacked, {SERIES['least']}", ".1%")
    attacked_random: float | None = shown(f"attacked, {SERIES['random']}", ".1%")


def mean_scaled(
    classifier: Classifier, head: Head, pairs: Iterable[Pair], activations: Activations, floor: float
) -> Tensor:
    """Mean |Delta| / σ of each neuron over the images where it is finite, (M,); inf where it nowhere is or σ = 0.

    ``floor``: the least output that Delta may move a neuron to.
    """
    total, counted = torch.zeros_like(activations.mean), torch.zeros_like(activations.mean)
    for pair in pairs:
        _, deltas = deltas_of(classifier, head, pair.x, floor)
        known = deltas.value.isfinite()
        total += deltas.value.abs().masked_fill(~known, 0.0).sum(0)
        counted += known.sum(0)
    return torch.where((counted > 0) & (activations.std > 0), total / counted / activations.std, torch.inf)


def orders_of(sensitivity: Tensor, draws: int, seed: int) -> dict[str, Tensor]:
    """Most and least sensitive first, and random orders, by name; neurons without a finite sensitivity go last in each."""
    ranked, rest = ordered(sensitivity).split([int(sensitivity.isfinite().sum()), int(sensitivity.isinf().sum())])
    orders = {"most": torch.cat([ranked, rest]), "least": torch.cat([ranked.flip(0), rest])}
    for draw in range(1, draws + 1):
        generator = torch.Generator().manual_seed(derive_seed(seed, "pruning", draw))
        shuffled = torch.randperm(len(ranked), generator=generator)
        orders[f"random {draw}"] = torch.cat([ranked.sort().values[shuffled], rest])
    return orders


def kept(order: Tensor, counts: list[int]) -> Tensor:
    """Which neurons stay when the first so many of an order go, bool (counts, M)."""
    return order.argsort() >= torch.tensor(counts, device=order.device)[:, None]


def right_without(classifier: Classifier, head: Head, x: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
    """Images classified as labelled by the neurons kept, bool (orders, counts, M): int64 (orders, counts).

    Features of zero do what zero columns of the weights would.
    """
    with torch.no_grad():
        features, logits = penultimate(classifier, head, x.to(classifier.dtype))
        finite(logits)
        hits = [
            (functional.linear(features * mask, head.weight, head.bias).argmax(1) == labels).sum()
            for mask in keep.flatten(0, 1)
        ]
    return torch.stack(hits).view(keep.shape[:2])
