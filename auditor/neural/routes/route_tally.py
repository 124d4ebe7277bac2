"""What routes of many images have in common, counted batch by batch: frequencies, overlaps, and what chance would give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.neural.analysis import Pair
from auditor.neural.found import SIDES, Found, Side, Sides
from auditor.neural.ranking.agreement import front_odds
from auditor.neural.routes.routes import RouteFinder, count_of, model_route

DRAWS = 1000
"""Random routes that a control is made of."""

Indices = tuple[int, ...]
"""Neurons of a layer."""


class ClassRoute(Found):
    """The routes of one class in one layer: of its images' clean ones, and of their twins, most frequent neurons first.

    ``neurons``: the most frequent ones on clean images, with their ``frequency``. ``route`` is None where it was not kept.
    """

    label: int = Field(alias="class")
    images: int
    neurons: Indices
    frequency: tuple[float, ...]
    route: Sides[Indices] | None


class RouteTally:
    """Counts the routes of images that come in batches, one layer.

    ``groups``: for each image, in order, one of ``parts`` random parts of the data; ``classes``: number of classes; ``keep``:
    of how many images, the first, to keep the routes themselves, as ``kept``.
    """

    def __init__(self, neurons: int, groups: NDArray[np.int64], classes: int, keep: int = 0) -> None:
        self.groups = groups
        self.parts = np.zeros((int(groups.max()) + 1, neurons))
        self.classes: dict[Side, NDArray[np.int32]] = {side: np.zeros((classes, neurons), np.int32) for side in SIDES}
        self.class_images = np.zeros(classes, np.int64)
        self.keep = keep
        self.kept: dict[Side, list[Indices]] = {side: [] for side in SIDES}
        self.overlaps: list[float] = []
        self.neighbours: list[float] = []
        self._last: Tensor | None = None
        self.images = 0

    def add(self, clean: Tensor, adversarial: Tensor, labels: NDArray[np.int64]) -> None:
        """Routes of some images and of their twins, bool (B, M), and the true classes (B,)."""
        self.overlaps += jaccard(clean, adversarial).tolist()
        before = clean[:-1] if self._last is None else torch.cat([self._last, clean[:-1]])
        self.neighbours += jaccard(before, clean[len(clean) - len(before) :]).tolist()
        self._last = clean[-1:]
        np.add.at(self.parts, self.groups[self.images : self.images + len(clean)], clean.cpu().numpy())
        np.add.at(self.class_images, labels, 1)
        for side, members in zip(SIDES, (clean, adversarial), strict=True):
            rows = members.cpu().numpy()
            np.add.at(self.classes[side], labels, rows)
            self.kept[side] += [tuple(np.flatnonzero(row).tolist()) for row in rows[: max(0, self.keep - self.images)]]
        self.images += len(clean)

    @property
    def clean_frequency(self) -> NDArray[np.float64]:
        """f (eq. 7): share of the images with a neuron on their route, (M,)."""
        return self.parts.sum(0) / self.images

    @property
    def adversarial_frequency(self) -> NDArray[np.float64]:
        return np.asarray(self.classes["adversarial"].sum(0) / self.images)

    def by_class(self, classes: int, neurons: int, width: float) -> tuple[ClassRoute, ...]:
        """The classes with most images: their most frequent neurons, and their routes of this width."""
        found = []
        for index in sorted(np.argsort(-self.class_images, kind="stable")[:classes].tolist()):
            images = int(self.class_images[index])
            if images:
                shares = {side: counts[index] / images for side, counts in self.classes.items()}
                routes = {side: tuple(model_route([each], width)[0].tolist()) for side, each in shares.items()}
                best = np.argsort(-shares["clean"], kind="stable")[:neurons]
                found.append(
                    ClassRoute(
                        label=index,
                        images=images,
                        neurons=tuple(best.tolist()),
                        frequency=tuple(shares["clean"][best].tolist()),
                        route=Sides[Indices].of(routes.__getitem__),
                    )
                )
        return tuple(found)


def tally_routes(
    finder: RouteFinder, pairs: Iterable[Pair], width: float, groups: NDArray[np.int64], classes: int, keep: int
) -> list[RouteTally]:
    """Of every layer the routes, of this width, of all images and of their twins."""
    tallies: list[RouteTally] = []
    for pair in pairs:
        clean, adversarial = (finder(x, pair.labels, width=width).members for x in (pair.x, pair.x_adv))
        if not tallies:
            tallies = [RouteTally(layer.shape[1], groups, classes, keep) for layer in clean]
        for tally, one, other in zip(tallies, clean, adversarial, strict=True):
            tally.add(one, other, pair.labels.cpu().numpy())
    return tallies


def jaccard(a: Tensor, b: Tensor) -> Tensor:
    """|intersection| / |union| of sets of neurons, row by row: bool (B, M) twice -> float64 (B,). No set may be empty."""
    return (a & b).sum(1).double() / (a | b).sum(1)


def chance_jaccard(neurons: int, count: int) -> float:
    """Expected Jaccard index of two random sets of ``count`` out of ``neurons`` (hypergeometric, exact)."""
    common = np.arange(count + 1)
    return float(scipy.stats.hypergeom(neurons, count, count).pmf(common) @ (common / (2 * count - common)))


def occurrence(frequency: NDArray[np.float64], width: float) -> float:
    """O: mean frequency over the most frequent share of a layer."""
    return float(np.sort(frequency)[::-1][: count_of(width, len(frequency))].mean())


def chance_occurrence(neurons: int, images: int, width: float, generator: np.random.Generator) -> float:
    """What O would be if every image had a random route: the largest of binomial frequencies, by simulation."""
    counts = generator.binomial(images, count_of(width, neurons) / neurons, (DRAWS, neurons)) / images
    return float(np.mean([occurrence(draw, width) for draw in counts]))


def route_agreement(tallies: Sequence[RouteTally], width: float) -> NDArray[np.float64]:
    """For each part of the images: share of the whole's model-level route that the part finds too, mean over layers.

    Expected over random ties in the part: by index, channels that are on no image's route would be found again.
    """
    whole = model_route([tally.clean_frequency for tally in tallies], width)
    return np.array(
        [
            np.mean([front_odds(tally.parts[part], len(a))[a].mean() for tally, a in zip(tallies, whole, strict=True)])
            for part in range(len(tallies[0].parts))
        ]
    )
