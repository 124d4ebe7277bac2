"""Clean features in the place of adversarial ones, on chosen channels of the route's layers: what that restores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from auditor.kit.randomness import derive_seed
from auditor.kit.statistics.estimate import Rate
from auditor.kit.statistics.paired import PairedDifference
from auditor.kit.statistics.tally import Tally
from auditor.models.classifier import Classifier
from auditor.neural.analysis import Pair, Subject
from auditor.neural.found import Found, OfPairs, Stored, shown
from auditor.neural.probes.intervention import record, transplanted
from auditor.neural.ranking.agreement import descending
from auditor.neural.routes.channel_ranks import RANKED, ChannelRanks, names_of, ranks_of
from auditor.neural.routes.channel_sets import Channels, masks_of, sets_of
from auditor.neural.routes.routes import count_of
from auditor.neural.routes.selection import (
    CHOICES,
    Choice,
    RouteFrequency,
    RouteLayer,
    Selector,
    clean_energy,
    largest_filters,
    silent_filters,
)

RoutePlaces = tuple[int, ...]
"""Places on the route that are transplanted together."""


class TransplantCondition(NamedTuple):
    """One transplant: how the channels were chosen, at which places of the route, and which share of each layer's channels."""

    choice: Choice
    layers: RoutePlaces
    width: float


class Transplant(Found):
    """One condition. ``accuracy``: of all adversarial images; ``restored``: of those that the attack broke. The differences
    are the route's rate minus this one, on the same images; None for the route itself, or where nothing is broken."""

    choice: Choice
    layers: RoutePlaces
    width: float
    channels: int = shown("Count")
    accuracy: Rate
    restored: Rate
    route_minus_this: PairedDifference | None
    restored_minus_this: PairedDifference | None

    @property
    def title(self) -> str:
        """What a reader calls the choice."""
        return CHOICES[self.choice]


class Transplants(OfPairs):
    """What transplants restore. ``broken``: images right when clean and wrong when attacked. ``layers``: those of the route;
    ``alone``: the places that are transplanted on their own."""

    broken: int
    clean: Rate
    adversarial: Rate
    layers: tuple[RouteLayer, ...]
    alone: tuple[int, ...]
    rows: tuple[Transplant, ...]
    ranks: tuple[ChannelRanks, ...]

    @classmethod
    def lifted(cls, data: Stored) -> Stored:
        """Findings made before sets were ranked, and before differences were taken among the broken images, lack these."""
        rows = [{"restored_minus_this": None} | row for row in data["rows"]]
        return {"ranks": []} | data | {"rows": rows}

    @property
    def of_all_alone(self) -> bool:
        """Whether differences are known over all images alone, not among the broken ones (see ``lifted``)."""
        return self.broken > 0 and all(row.restored_minus_this is None for row in self.rows)

    def names(self, layers: RoutePlaces) -> str:
        """The layers at some places of the route."""
        return names_of(layers, self.layers)

    def firsts(self, width: float) -> list[Transplant]:
        """The transplants of this width of the first layers, one, two, ..."""
        found = [row for row in self.rows if row.layers == tuple(range(len(row.layers))) and row.width == width]
        return sorted(found, key=lambda row: len(row.layers))

    def curve(self, place: int, choice: Choice) -> Iterator[tuple[float, Rate]]:
        """Accuracy by the share of one layer's channels, from nothing transplanted on."""
        yield 0.0, self.adversarial
        yield from ((row.width, row.accuracy) for row in self.rows if (row.choice, row.layers) == (choice, (place,)))


class Transplantation:
    """Transplants batch by batch under some conditions; and sets of as many channels, on the first images that the attack
    broke.

    ``width``: that of the model-level route. ``together``: the layers of which sets are tried, ``sets`` of them at most, on at
    most ``images`` images.
    """

    def __init__(
        self,
        subject: Subject,
        route: RouteFrequency,
        conditions: Sequence[TransplantCondition],
        width: float,
        *,
        together: Iterable[RoutePlaces],
        sets: int,
        images: int,
    ) -> None:
        self.classifier, self.route, self.conditions, self.images = subject.classifier, route, conditions, images
        orders: dict[str, list[NDArray[np.int64]]] = {
            "route": route.order,
            "norm": largest_filters(subject.classifier, route.layers),
            "energy": [descending(item) for item in clean_energy(subject, route.layers)],
        }
        silent = silent_filters(subject.classifier, route.layers)
        self.selector = Selector(orders, width, subject.seed, silent)
        self.tally, self.tried = Tally(), 0
        counts = [count_of(width, size) for size in route.sizes]
        self.sets = {
            layers: sets_of(
                [counts[place] for place in layers],
                [route.sizes[place] for place in layers],
                sets,
                derive_seed(subject.seed, "sets of channels", len(layers)),
            )
            for layers in together
        }
        self.chosen: dict[RoutePlaces, dict[Choice, Channels]] = {
            layers: {
                choice: tuple(tuple(sorted(orders[choice][place][: counts[place]].tolist())) for place in layers)
                for choice in RANKED
            }
            for layers in self.sets
        }
        self.restored: dict[RoutePlaces, Counter[Channels]] = {layers: Counter() for layers in self.sets}

    def add(self, pair: Pair) -> None:
        """Every transplant into the passes of some images."""
        needed = {self.route.layers[place] for condition in self.conditions for place in condition.layers}
        passes = _PairBatch.of(self.classifier, pair, self.route, needed)
        clean, adversarial = passes.answers()
        self.tally.add("clean", clean)
        self.tally.add("adversarial", adversarial)
        for condition in self.conditions:
            masks = self.selector.masks(condition.choice, condition.layers, condition.width, pair.sample, pair.x.device)
            if masks:
                self.tally.add(condition, passes.transplanted(condition.layers, masks))
        broken = (clean & ~adversarial).nonzero()[:, 0][: self.images - self.tried]
        self.tried += len(broken)
        for layers, sets in self.sets.items() if len(broken) else ():
            sizes = [self.route.sizes[place] for place in layers]
            for channels in sorted({*sets.sets, *self.chosen[layers].values()}):
                right = passes.transplanted(layers, masks_of(channels, sizes, pair.x.device), broken)
                self.restored[layers][channels] += int(right.sum())

    def found(self, pairs: str, alone: Sequence[int]) -> Transplants:
        """All in all. ``pairs``: how the adversarial images were made. ``alone``: places that were transplanted alone."""
        broken = self.tally["clean"] & ~self.tally["adversarial"]
        return Transplants(
            images=len(broken),
            pairs=pairs,
            broken=int(broken.sum()),
            clean=self.tally.rate("clean"),
            adversarial=self.tally.rate("adversarial"),
            layers=self.route.named,
            alone=tuple(alone),
            rows=tuple(self._row(condition, broken) for condition in self.conditions if condition in self.tally),
            ranks=tuple(
                ranks_of(layers, self.chosen[layers], sets, self.restored[layers], self.tried)
                for layers, sets in self.sets.items()
                if self.tried
            ),
        )

    def _row(self, condition: TransplantCondition, broken: NDArray[np.bool_]) -> Transplant:
        route = condition._replace(choice="route")
        compared = condition != route
        difference = self.tally.difference
        return Transplant(
            **condition._asdict(),
            channels=sum(count_of(condition.width, self.route.sizes[place]) for place in condition.layers),
            accuracy=self.tally.rate(condition),
            restored=self.tally.rate(condition, broken),
            route_minus_this=difference(route, condition) if compared else None,
            restored_minus_this=difference(route, condition, broken) if compared and broken.any() else None,
        )


class _PairBatch(NamedTuple):
    """A batch of pairs in the network's own precision, with the features of its clean images."""

    classifier: Classifier
    names: tuple[str, ...]
    x: Tensor
    x_adv: Tensor
    labels: Tensor
    features: Mapping[str, Tensor]

    @classmethod
    def of(cls, classifier: Classifier, pair: Pair, found: RouteFrequency, needed: set[str]) -> _PairBatch:
        x, x_adv = pair.x.to(classifier.dtype), pair.x_adv.to(classifier.dtype)
        return cls(classifier, found.layers, x, x_adv, pair.labels, record(classifier, x, needed))

    def answers(self) -> tuple[Tensor, Tensor]:
        """Whether clean and adversarial images are classified correctly, bool (B,) each."""
        clean, adversarial = (
            self.classifier.logits(images).argmax(1) == self.labels for images in (self.x, self.x_adv)
        )
        return clean, adversarial

    def transplanted(self, layers: RoutePlaces, masks: list[Tensor], rows: Tensor | None = None) -> Tensor:
        """Whether adversarial images, all or these rows, are classified correctly with the masked channels clean."""
        kept = slice(None) if rows is None else rows
        chosen = {self.names[place]: mask for place, mask in zip(layers, masks, strict=True)}
        sources = {name: self.features[name][kept] for name in chosen}
        with transplanted(self.classifier.network, sources, chosen):
            return self.classifier.logits(self.x_adv[kept]).argmax(1) == self.labels[kept]
