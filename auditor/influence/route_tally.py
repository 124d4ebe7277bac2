"""What routes of many images have in common, counted batch by batch: frequencies, overlaps, and what chance would give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from auditor.influence.routes import count_of, model_route
from auditor.metrics import CONFIDENCE
from auditor.ranking.agreement import front_odds

DRAWS = 1000
"""Random sets of neurons, or random routes, that a control is made of."""


SIDES = ("clean", "adversarial")


class Interval(NamedTuple):
    """A mean over ``n`` samples with its t-interval at 95 %; the bounds are None for a single sample."""

    value: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Interval:
        mean, n = float(values.mean()), len(values)
        if n < 2:
            return cls(mean, None, None, n)
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
        return cls(mean, mean - half, mean + half, n)


class RouteTally:
    """Counts the routes of images that come in batches, one layer.

    ``groups``: for each image, in order, one of ``parts`` random parts of the data; ``classes``: number of classes; ``keep``:
    of how many images, the first, to keep the routes themselves, as ``kept``.
    """

    def __init__(self, neurons: int, groups: NDArray[np.int64], classes: int, keep: int = 0) -> None:
        self.groups = groups
        self.parts = np.zeros((int(groups.max()) + 1, neurons))
        self.classes = {side: np.zeros((classes, neurons), np.int32) for side in SIDES}
        self.class_images = np.zeros(classes, np.int64)
        self.keep = keep
        self.kept: dict[str, list[list[int]]] = {side: [] for side in SIDES}
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
            self.kept[side] += [np.flatnonzero(row).tolist() for row in rows[: max(0, self.keep - self.images)]]
        self.images += len(clean)

    @property
    def clean_frequency(self) -> NDArray[np.float64]:
        """f (eq. 7): share of the images with a neuron on their route, (M,)."""
        return self.parts.sum(0) / self.images

    @property
    def adversarial_frequency(self) -> NDArray[np.float64]:
        return np.asarray(self.classes["adversarial"].sum(0) / self.images)

    def by_class(self, classes: int, neurons: int, width: float) -> list[dict[str, Any]]:
        """The classes with most images: their most frequent neurons with the frequencies, on clean images, and their routes,
        of this width, on clean images and on their twins, most frequent first; plain data."""
        found = []
        for index in sorted(np.argsort(-self.class_images, kind="stable")[:classes].tolist()):
            images = int(self.class_images[index])
            if images:
                shares = {side: counts[index] / images for side, counts in self.classes.items()}
                best = np.argsort(-shares["clean"], kind="stable")[:neurons]
                found.append(
                    {
                        "class": index,
                        "images": images,
                        "neurons": best.tolist(),
                        "frequency": shares["clean"][best].tolist(),
                        "route": {side: model_route([each], width)[0].tolist() for side, each in shares.items()},
                    }
                )
        return found


def jaccard(a: Tensor, b: Tensor) -> Tensor:
    """|intersection| / |union| of sets of neurons, row by row: bool (B, M) twice -> float64 (B,). No set may be empty."""
    return (a & b).sum(1).double() / (a | b).sum(1)


def chance_jaccard(neurons: int, count: int) -> float:
    """Expected Jaccard index of two random sets of ``count`` out of ``neurons`` (hypergeometric, exact)."""
    common = np.arange(count + 1)
    return float(stats.hypergeom(neurons, count, count).pmf(common) @ (common / (2 * count - common)))


def occurrence(frequency: NDArray[np.float64], width: float) -> float:
    """O: mean frequency over the most frequent share of a layer."""
    return float(np.sort(frequency)[::-1][: count_of(width, len(frequency))].mean())


def chance_occurrence(neurons: int, images: int, width: float, generator: np.random.Generator) -> float:
    """What O would be if every image had a random route: the largest of binomial frequencies, by simulation."""
    counts = generator.binomial(images, count_of(width, neurons) / neurons, (DRAWS, neurons)) / images
    return float(np.mean([occurrence(draw, width) for draw in counts]))


def agreement(tallies: Sequence[RouteTally], width: float) -> NDArray[np.float64]:
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


class Contrast(NamedTuple):
    """A quantity on the route and off it: means over images with intervals, and over random neurons of the same count.

    ``random_low`` to ``random_high``: 95 % of the random sets. ``off`` is None where the route is the whole layer.
    """

    on: Interval
    off: Interval | None
    random_low: float
    random_high: float

    @classmethod
    def of(
        cls,
        on: NDArray[np.float64],
        off: NDArray[np.float64],
        mean: NDArray[np.float64],
        count: int,
        generator: np.random.Generator,
    ) -> Contrast:
        """``on``, ``off``: one value for each image. ``mean``: over the images, for each neuron of the layer.

        Random sets come from all neurons, those of the route among them, without those whose mean is zero where enough are left:
        dead neurons would lower what chance gives."""
        pool = mean[mean != 0] if (mean != 0).sum() >= count else mean
        sets = [pool[generator.choice(len(pool), count, replace=False)].mean() for _ in range(DRAWS)]
        low, high = np.quantile(sets, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return cls(Interval.of(on), None if np.isnan(off).any() else Interval.of(off), float(low), float(high))
