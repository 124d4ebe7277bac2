"""How far the rankings of a layer's neurons agree with each other."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy import stats

from auditor.analysis import Analysis, Finding, Subject
from auditor.nip.influence import expected_jaccard
from auditor.probes.head import head_of
from auditor.randomness import derive_seed
from auditor.ranking.agreement import jaccard_of_fronts, share_of
from auditor.ranking.methods import Ranking, inner_layers, rank_features, rank_layers
from auditor.report.blocks import AnyBlock, Column, Figure, Section, Table, Text
from auditor.statistics.association import spearman
from auditor.twins.rows import picked, spread

NAMES = {"spearman": "Spearman's rho", "kendall": "Kendall's tau"}


class RankingAgreement(Analysis):
    """Whether the methods that rank neurons agree: rank correlation, and the neurons that two rankings both put first.

    All rankings are measured on the same pairs. Rankings that claim to find the same thing, the neurons that matter to
    robustness, should agree better than chance; where they do not, at most one of them can be right.
    """

    title: ClassVar[str] = "Agreement of rankings"
    changes: ClassVar[tuple[str, ...]] = (
        "Which of several equal neurons a ranking put first went by index: where a layer has fewer neurons that move than are "
        "compared, the first neurons in common are too many. Audit again for the right numbers.",
    )
    kind: Literal["ranking_agreement"] = "ranking_agreement"
    measure: Literal["spearman", "kendall"] = Field("spearman", description="Rank correlation.")
    top: float = Field(
        0.1, gt=0, le=1, description="Share of a layer's neurons that a ranking puts first (at least one)."
    )
    inner: int = Field(2, ge=0, le=50, description="Layers to look at beside the last features, spread over the depth.")
    images: int = Field(500, ge=1, le=100_000, description="Pairs to rank on, at most.")

    @property
    def cost(self) -> float:
        return 4.0 + (9.0 if self.inner else 0.0)

    def run(self, subject: Subject) -> Finding:
        head = head_of(subject.classifier)
        chosen = spread(len(subject.pairs), self.images)
        by_layer = {f"the input of {head.name}": rank_features(subject.classifier, head, picked(subject.pairs, chosen))}
        subject.on_progress(0.3, self.title)
        inner = inner_layers(subject.classifier, head, self.inner)
        by_layer |= rank_layers(subject.classifier, picked(subject.pairs, chosen), inner)
        subject.on_progress(1.0, self.title)
        layers = [self._layer(name, rankings, subject.seed) for name, rankings in by_layer.items()]
        data = {"images": int(chosen.sum()), "pairs": subject.pairs_from, "layers": layers}
        return Finding(kind=self.kind, settings=self.settings(), data=data, revision=self.revision)

    def _layer(self, name: str, rankings: tuple[Ranking, ...], seed: int) -> dict[str, Any]:
        neurons = len(rankings[0].values)
        count = share_of(neurons, self.top)

        def shared(first: Ranking, second: Ranking) -> float:
            ties = derive_seed(seed, "ties", name, *sorted((first.method, second.method)))
            return 1.0 if first is second else jaccard_of_fronts(first.values, second.values, count, ties)

        cells = [
            {
                "row": first.title,
                "column": second.title,
                "correlation": self._correlation(first, second),
                "jaccard": shared(first, second),
            }
            for first in rankings
            for second in rankings
        ]
        chance = expected_jaccard(count, count, neurons)
        return {"name": name, "neurons": neurons, "count": count, "random_jaccard": chance, "cells": cells}

    def _correlation(self, first: Ranking, second: Ranking) -> float | None:
        """None where one of the two gives every neuron the same value."""
        if self.measure == "spearman":
            return spearman(first.values, second.values).value
        value = float(stats.kendalltau(first.values, second.values).statistic)
        return None if np.isnan(value) else value

    def section(self, finding: Finding) -> Section:
        data = finding.data
        blocks: list[AnyBlock] = [
            Text(
                text=f"Rankings of the neurons of {len(data['layers'])} layers by every method that exists there, all on the "
                f"same {data['images']} pairs: {data['pairs']}."
            )
        ]
        for layer in data["layers"]:
            blocks += self._blocks(layer)
        return Section(key=self.kind, title="Do rankings agree with each other?", blocks=tuple(blocks))

    def _blocks(self, layer: dict[str, Any]) -> tuple[AnyBlock, ...]:
        # Under independence both correlations are near normal; the variances are exact (Kendall 1938).
        n = layer["neurons"]
        variance = 1 / (n - 1) if self.measure == "spearman" else 2 * (2 * n + 5) / (9 * n * (n - 1))
        chance = 1.96 * variance**0.5
        pairs = [cell | {"random": layer["random_jaccard"]} for cell in layer["cells"] if cell["row"] < cell["column"]]
        return (
            Figure(
                chart="grid",
                title=f"Rank correlation over the {n} neurons of {layer['name']}",
                rows=tuple({"row": c["row"], "column": c["column"], "value": c["correlation"]} for c in layer["cells"]),
                options={"value": NAMES[self.measure], "domain": [-1, 1], "height": 360},
                reading="1: the same order, 0: no relation, -1: the reverse order. Unrelated rankings of so many neurons lie "
                f"within {chance:.2f} of zero in 95 % of all cases.",
            ),
            Figure(
                chart="grid",
                title=f"Neurons that both rankings put first, {layer['name']}",
                rows=tuple({"row": c["row"], "column": c["column"], "value": c["jaccard"]} for c in layer["cells"]),
                options={"value": "|both| / |either|", "domain": [0, 1], "height": 360},
                reading=f"Of the first {layer['count']} neurons of each ranking. Random sets would have "
                f"{layer['random_jaccard']:.2f} in common.",
            ),
            Table(
                title=f"Agreement of rankings, {layer['name']}",
                columns=(
                    Column(key="row", title="Ranking"),
                    Column(key="column", title="and"),
                    Column(key="correlation", title=NAMES[self.measure], format=".2f"),
                    Column(key="jaccard", title="First neurons in common", format=".1%"),
                    Column(key="random", title="if random", format=".1%"),
                ),
                rows=tuple(pairs),
            ),
        )
