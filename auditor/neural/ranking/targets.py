"""Target classes of an attack: how far importance and sensitivity rank the features of each alike (Zhang et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from auditor.kit.randomness import derive_seed
from auditor.kit.statistics.association import spearman
from auditor.kit.statistics.estimate import Estimate
from auditor.models.classifier import Classifier
from auditor.neural.found import Found, shown
from auditor.neural.probes.head import Head
from auditor.neural.ranking.agreement import descending, fronts, levenshtein_similarity, shared_front
from auditor.neural.ranking.importance import importance_of
from auditor.neural.twins.targeted import Driven, TargetClass
from auditor.show.blocks import Figure


class RankedClass(TargetClass):
    """One target class: of the images that reached it, if any, how far the two orders agree.

    ``important``, ``sensitive``: the first k features of each order. ``shared``: share of the one that is in the other.
    """

    spearman: float | None = shown("Rank correlation", ".3f", default=None)
    similarity: float | None = shown("Levenshtein similarity", ".3f", default=None)
    shared: float | None = shown("In both", ".0%", default=None)
    important: tuple[int, ...] = ()
    sensitive: tuple[int, ...] = ()

    @property
    def first(self) -> str | None:
        """The ten most important features, as text."""
        return ", ".join(map(str, self.important[:10])) or None


class Importances(Found):
    """Every target class. ``random_spearman``, ``random_similarity``: the mean of random orders, and bounds of 95 % of them."""

    layer: str
    neurons: int
    k: int
    attack: str
    classes: tuple[RankedClass, ...]
    all_classes: int
    random_spearman: tuple[float | None, float | None, float | None]
    random_similarity: tuple[float, float, float]

    def enough(self, fewest: int) -> list[RankedClass]:
        """The classes that at least so many images reached."""
        return [row for row in self.classes if row.images >= fewest]

    def mean(self, key: str, fewest: int) -> Estimate:
        """The mean of a measure over these classes."""
        return Estimate.of_mean(np.array([getattr(row, key) for row in self.enough(fewest)], np.float64))


def ranked_class(
    classifier: Classifier, head: Head, driven: Driven, k: int, *, borda: bool, substitution: int, seed: int
) -> RankedClass:
    """``borda``: rank by weighted votes for all features instead of mean importance; ``substitution``: its cost (eq. 7)."""
    found = importance_of(classifier, head, driven.target, driven.pairs, k)
    row = RankedClass(target=driven.target, name=driven.name, tried=driven.tried, images=found.images)
    if not found.images:
        return row
    important, sensitive = (
        fronts(values, k, derive_seed(seed, "ties", name, driven.target))
        for name, values in (("votes", found.votes), ("sigma", found.sigma))
    )
    return row.model_copy(
        update={
            "spearman": spearman(found.sigma, found.borda if borda else found.phi).value,
            "similarity": float(levenshtein_similarity(important, sensitive, substitution).mean()),
            "shared": shared_front(found.votes, found.sigma, k),
            "important": tuple(descending(found.votes)[:k].tolist()),
            "sensitive": tuple(descending(found.sigma)[:k].tolist()),
        }
    )


def class_values(title: str, rows: Iterable[RankedClass], key: str, y: str, chance: Sequence[float]) -> Figure:
    """A bar for each class, with the mean of random orders and the bounds of 95 % of them."""
    return Figure(
        chart="class_values",
        title=title,
        rows=tuple({"name": row.name, "value": getattr(row, key), "n": row.images} for row in rows),
        options={"y": y} | dict(zip(("chance", "low", "high"), chance, strict=True)),
        reading="One bar per target class. The dashed line is what random orders give on average, the grey band holds 95 % of "
        "them: a bar inside the band shows no relation. A missing bar: no image reached the class.",
    )
