"""Interventions on the critical attacking route, or on as many other channels: which images stay right under each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from auditor.kit.statistics.estimate import Rate
from auditor.kit.statistics.paired import PairedDifference
from auditor.kit.statistics.tally import Tally
from auditor.models.classifier import Classifier
from auditor.neural.analysis import Pair
from auditor.neural.found import SIDES, Found, OfPairs, Side, Sides
from auditor.neural.probes.intervention import Connections, connects, silenced, weakened
from auditor.neural.routes.selection import (
    Choice,
    RouteFrequency,
    RouteLayer,
    Selector,
    largest_filters,
    silent_filters,
)

Intervention = Literal["silence", "weaken"]


class InterventionChart(NamedTuple):
    """How one kind of intervention is drawn; ``whole`` is the amount at which nothing is done."""

    title: str
    amount: str
    whole: float
    reading: str


SHOWN: dict[Intervention, InterventionChart] = {
    "silence": InterventionChart(
        title="Channels switched off",
        amount="share of every layer's channels switched off",
        whole=0.0,
        reading="Accuracy when that share of every layer's channels puts out zero. The network depends on the route more than "
        "on other channels only where the route's line lies below the others; bands are 95 % intervals.",
    ),
    "weaken": InterventionChart(
        title="Connections weakened",
        amount="factor on the weights (100 %: the network as it is)",
        whole=1.0,
        reading="Accuracy when the weights from the chosen channels of each layer to those of the next are multiplied by the "
        "factor. The connections matter only where the route's line lies below the others; bands are 95 % intervals.",
    ),
}


class DeactivationCondition(NamedTuple):
    """``what``: "silence" a share ``amount`` of every layer's channels, or "weaken" connections to the factor ``amount``."""

    what: Intervention
    choice: Choice
    amount: float


class DeactivationRow(Found):
    """One condition (see ``DeactivationCondition``) on one side.

    ``route_minus_this``: on the same images; None for the route itself.
    """

    what: Intervention
    choice: Choice
    amount: float
    images: Side
    accuracy: Rate
    route_minus_this: PairedDifference | None


class Deactivation(OfPairs):
    """What each intervention costs. ``edges``: neighbouring layers between which connections were weakened."""

    untouched: Sides[Rate]
    layers: tuple[RouteLayer, ...]
    edges: int
    rows: tuple[DeactivationRow, ...]

    def of(self, what: Intervention, images: Side, choice: Choice) -> list[DeactivationRow]:
        """The rows of one curve, in the order of their amounts."""
        return [row for row in self.rows if (row.what, row.images, row.choice) == (what, images, choice)]


def outcomes(
    classifier: Classifier,
    pairs: Iterable[Pair],
    found: RouteFrequency,
    conditions: Sequence[DeactivationCondition],
    width: float,
    seed: int,
) -> Tally:
    """Outcome of every image by (side, condition); the condition None is the network as it is.

    ``width``: that of the model-level route. A condition for which a layer has too few channels is left out.
    """
    orders = {"route": found.order, "norm": largest_filters(classifier, found.layers)}
    selector = Selector(orders, width, seed, silent_filters(classifier, found.layers))
    tally = Tally()
    for pair in pairs:
        both = torch.cat([pair.x, pair.x_adv]).to(classifier.dtype)
        labels = pair.labels.repeat(2)
        for condition, intervention in _interventions(classifier.network, pair, found, conditions, selector):
            with intervention:
                hits = classifier.logits(both).argmax(1) == labels
            for side, part in zip(SIDES, hits.chunk(2), strict=True):
                tally.add((side, condition), part)
    return tally


def deactivation_rows(tally: Tally, conditions: Iterable[DeactivationCondition]) -> Iterator[DeactivationRow]:
    """The conditions that could be met, the route with each of its controls."""
    for condition in conditions:
        route = condition._replace(choice="route")
        for side in SIDES:
            if (side, condition) in tally:
                minus = tally.difference((side, route), (side, condition)) if condition != route else None
                rate = tally.rate((side, condition))
                yield DeactivationRow(**condition._asdict(), images=side, accuracy=rate, route_minus_this=minus)


def _interventions(
    network: nn.Module,
    pair: Pair,
    found: RouteFrequency,
    conditions: Sequence[DeactivationCondition],
    selector: Selector,
) -> Iterator[tuple[DeactivationCondition | None, AbstractContextManager[None]]]:
    yield None, silenced(network, {})
    edges = connected(network, found)
    for condition in conditions:
        width = condition.amount if condition.what == "silence" else selector.width
        masks = selector.masks(condition.choice, range(len(found.layers)), width, pair.sample, pair.x.device)
        if not masks:
            continue
        chosen = dict(zip(found.layers, (_for_both(mask) for mask in masks), strict=True))
        if condition.what == "silence":
            yield condition, silenced(network, chosen)
        elif edges:
            connections = {layer: Connections(chosen[before], chosen[layer]) for before, layer in edges}
            yield condition, weakened(network, connections, condition.amount)


def connected(network: nn.Module, found: RouteFrequency) -> list[tuple[str, str]]:
    """Neighbouring layers of the route of which the second has one group of weights for each channel of the first."""
    neighbours = zip(found.layers, found.layers[1:], found.sizes, strict=False)
    return [(before, layer) for before, layer, size in neighbours if connects(network, layer, size)]


def _for_both(mask: Tensor) -> Tensor:
    """For clean and adversarial images side by side."""
    return mask if len(mask) == 1 else mask.repeat(2, 1)
