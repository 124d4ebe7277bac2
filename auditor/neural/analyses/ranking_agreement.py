"""How far the rankings of a layer's neurons agree with each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import scipy
from pydantic import Field

from auditor.kit.randomness import derive_seed
from auditor.kit.statistics.association import spearman
from auditor.kit.statistics.estimate import Z
from auditor.neural.analysis import Analysis, Subject
from auditor.neural.found import Found, OfPairs, shown, table
from auditor.neural.influence.influence import expected_jaccard
from auditor.neural.ranking.agreement import jaccard_of_fronts, share_of
from auditor.neural.ranking.methods import Ranking, layer_title, rank_all
from auditor.neural.twins.rows import Picked, evenly_spaced
from auditor.show.blocks import AnyBlock, Column, Figure, Text

NAMES = {"spearman": "Spearman's rho", "kendall": "Kendall's tau"}


class Cell(Found):
    """Two rankings: their correlation, None where one gives every neuron the same value, and |both| / |either| of the first."""

    row: str = shown("Ranking")
    column: str = shown("and")
    correlation: float | None
    jaccard: float = shown("First neurons in common", ".1%")


class CellBesideRandom(Cell):
    """With what random sets of the same size would have in common."""

    random: float = shown("if random", ".1%")


class ComparedLayer(Found):
    """Every two rankings of one layer; of each the first ``count`` neurons are compared."""

    name: str
    neurons: int
    count: int
    random_jaccard: float
    cells: tuple[Cell, ...]


class RankingsCompared(OfPairs):
    """Every layer, the features before the head first."""

    layers: tuple[ComparedLayer, ...]


class RankingAgreement(Analysis[RankingsCompared]):
    """Whether the methods that rank neurons agree: rank correlation, and the neurons that two rankings both put first.

    All rankings are measured on the same pairs. Rankings that claim to find the same thing, the neurons that matter to
    robustness, should agree better than chance; where they do not, at most one of them can be right.
    """

    title: ClassVar[str] = "Agreement of rankings"
    heading: ClassVar[str] = "Do rankings agree with each other?"
    changes: ClassVar[tuple[str, ...]] = (
        "Which of several equal neurons a ranking put first went by index: where a layer has fewer neurons that move than are "
        "compared, the first neurons in common are too many. Audit again for the right numbers.",
    )
    kind: Literal["ranking_agreement"] = "ranking_agreement"
    measure: Literal["spearman", "kendall"] = Field("spearman", description="Rank correlation.")
    top: float = Field(
        0.1, gt=0, le=1, description="Share of a layer's neurons that a ranking puts first (at least one)."
    )
    inner: int = Field(
        2, ge=0, le=50, description="Layers to look at in addition to the last features, spread over the depth."
    )
    images: int = Field(500, ge=1, le=100_000, description="Maximum pairs to rank on.")

    def cost(self, images: int) -> float:
        return (4.0 + (5.0 if self.inner else 0.0)) * min(images, self.images)

    def find(self, subject: Subject) -> RankingsCompared:
        some = Picked(subject.pairs, evenly_spaced(len(subject.pairs), self.images))
        by_layer = rank_all(subject.classifier, some, self.inner)
        subject.on_progress(1.0, self.title)
        layers = tuple(
            self._layer(layer_title(subject.classifier, name), rankings, subject.seed)
            for name, rankings in by_layer.items()
        )
        return RankingsCompared(images=len(some), pairs=subject.pairs_from, layers=layers)

    def _layer(self, name: str, rankings: tuple[Ranking, ...], seed: int) -> ComparedLayer:
        neurons = len(rankings[0].values)
        count = share_of(neurons, self.top)

        def shared(first: Ranking, second: Ranking) -> float:
            ties = derive_seed(seed, "ties", name, *sorted((first.method, second.method)))
            return 1.0 if first is second else jaccard_of_fronts(first.values, second.values, count, ties)

        cells = (
            Cell(
                row=first.title,
                column=second.title,
                correlation=self._correlation(first, second),
                jaccard=shared(first, second),
            )
            for first in rankings
            for second in rankings
        )
        chance = expected_jaccard(count, count, neurons)
        return ComparedLayer(name=name, neurons=neurons, count=count, random_jaccard=chance, cells=tuple(cells))

    def _correlation(self, first: Ranking, second: Ranking) -> float | None:
        """None where one of the two gives every neuron the same value."""
        if self.measure == "spearman":
            return spearman(first.values, second.values).value
        value = float(scipy.stats.kendalltau(first.values, second.values).statistic)
        return None if np.isnan(value) else value

    def blocks(self, found: RankingsCompared) -> Iterator[AnyBlock]:
        yield Text(
            text=f"Rankings of the neurons of {len(found.layers)} layers by every method that exists there, all on the "
            f"same {found.images} pairs: {found.pairs}."
        )
        for layer in found.layers:
            yield from self._blocks(layer)

    def _blocks(self, layer: ComparedLayer) -> Iterator[AnyBlock]:
        # Under independence both correlations are near normal; the variances are exact (Kendall 1938).
        n = layer.neurons
        variance = 1 / (n - 1) if self.measure == "spearman" else 2 * (2 * n + 5) / (9 * n * (n - 1))
        chance = Z * variance**0.5
        yield Figure(
            chart="grid",
            title=f"Rank correlation over the {n} neurons of {layer.name}",
            rows=tuple({"row": cell.row, "column": cell.column, "value": cell.correlation} for cell in layer.cells),
            options={"value": NAMES[self.measure], "domain": [-1, 1], "height": 360},
            reading="1: the same order, 0: no relation, -1: the reverse order. Unrelated rankings of so many neurons lie "
            f"within {chance:.2f} of zero in 95 % of all cases.",
        )
        yield Figure(
            chart="grid",
            title=f"Neurons that both rankings put first, {layer.name}",
            rows=tuple({"row": cell.row, "column": cell.column, "value": cell.jaccard} for cell in layer.cells),
            options={"value": "|both| / |either|", "domain": [0, 1], "height": 360},
            reading=f"Of the first {layer.count} neurons of each ranking. Random sets would have "
            f"{layer.random_jaccard:.2f} in common.",
        )
        yield table(
            (CellBesideRandom(**dict(cell), random=layer.random_jaccard) for cell in layer.cells if cell.row < cell.column),
            "row", "column", Column(key="correlation", title=NAMES[self.measure], format=".2f"), "jaccard", "random",
            title=f"Agreement of rankings, {layer.name}",
        )  # fmt: skip
