"""Neuron importance: which features carry the target class on adversarial images, and whether those are the sensitive ones."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from auditor.analysis import Analysis, Finding, NeuronMeasure, Subject, before_head
from auditor.errors import EvaluationError
from auditor.flag import Flag
from auditor.probes.head import head_of
from auditor.randomness import derive_seed
from auditor.ranking.agreement import (
    descending,
    fronts,
    levenshtein_similarity,
    random_similarity,
    random_spearman,
    shared_front,
)
from auditor.ranking.importance import Importance, importance_of
from auditor.report.blocks import AnyBlock, Column, Figure, Measure, Measures, Section, Table, Text
from auditor.statistics.association import spearman
from auditor.statistics.means import Mean
from auditor.twins.targeted import Driven, driven_to_each, papers_pgd


class NeuronImportance(Analysis):
    """Whether the features that carry an attack's target class are the sensitive ones (Zhang et al. 2020, arXiv 1909.06978).

    Images of other classes are driven to each target class by targeted PGD. On the successes, a feature's importance
    (eq. 3) is what it adds to the target's logit: its value at the adversarial image times its weight. The k most
    important features of a class are found by weighted voting (eq. 4 and 5). Their order is compared with the order by
    neuron sensitivity on the very same images: over all features by Spearman's rank correlation (eq. 6), over the first k
    by Levenshtein similarity (eq. 7 and 8).
    """

    title: ClassVar[str] = "Neuron importance"
    changes: ClassVar[tuple[str, ...]] = (
        "Features with equal values were ranked by index in both orders, so features that never move counted as agreement: where "
        "many do not move, correlation and similarity are too high. Audit again for the right numbers.",
    )
    kind: Literal["neuron_importance"] = "neuron_importance"
    k: int = Field(20, ge=1, le=10_000, description="How many features count as important, and as sensitive.")
    classes: int = Field(
        10, ge=1, le=1000, description="Most target classes; of more, some are drawn by the audit's seed."
    )
    images: int = Field(100, ge=1, le=100_000, description="Most images driven to each target class.")
    steps: int = Field(10, ge=1, le=1000, description="Steps of targeted PGD, each of length epsilon / sqrt(steps).")
    ranking: Literal["mean", "borda"] = Field(
        "mean", description="Full order of the features: by mean importance, or by weighted votes for all of them."
    )
    substitution: int = Field(
        2,
        ge=1,
        le=2,
        description="Cost of a substitution. 1: eq. 7 to the letter, similarity at least 0.5. 2: similarity from 0 to 1.",
    )
    fewest: int = Field(
        10, ge=1, le=10_000, description="A class with fewer successes does not count in the means over classes."
    )

    @property
    def cost(self) -> float:
        return self.classes * (3.0 * self.steps + 4)

    def run(self, subject: Subject) -> Finding:
        head, attack = head_of(subject.classifier), papers_pgd(subject, self.steps)
        neurons = head.layer.in_features
        k = min(self.k, neurons)
        rows = []
        for driven in driven_to_each(subject, attack, self.classes, self.images):
            found = importance_of(subject.classifier, head, driven.target, driven.pairs, k)
            rows.append(self._class(driven, found, k, subject.seed))
        if not any(row["images"] for row in rows):
            raise EvaluationError(
                "Neuron importance has no image to look at: targeted PGD reached no target class.",
                "Audit at a larger epsilon, or raise the number of images or steps.",
            )
        chance = random_similarity(neurons, k, self.substitution, derive_seed(subject.seed, "random sequences"))
        whole = random_spearman(neurons)
        data = {
            "layer": head.name,
            "neurons": neurons,
            "k": k,
            "attack": f"targeted {attack.display_title()}, {self.steps} steps, {subject.threat}",
            "classes": rows,
            "all_classes": subject.classifier.num_classes,
            "random_spearman": [None if math.isnan(value) else value for value in whole],
            "random_similarity": list(chance),
        }
        flags = self._doubts(data)
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=flags, revision=self.revision)

    def _class(self, driven: Driven, found: Importance, k: int, seed: int) -> dict[str, Any]:
        row: dict[str, Any] = {
            "class": driven.target,
            "name": driven.name,
            "tried": driven.tried,
            "images": found.images,
            "spearman": None,
            "similarity": None,
            "shared": None,
            "important": [],
            "sensitive": [],
        }
        if found.images:
            important, sensitive = (
                fronts(values, k, derive_seed(seed, "ties", name, driven.target))
                for name, values in (("votes", found.votes), ("sigma", found.sigma))
            )
            row |= {
                "spearman": spearman(found.sigma, found.phi if self.ranking == "mean" else found.borda).value,
                "similarity": float(levenshtein_similarity(important, sensitive, self.substitution).mean()),
                "shared": shared_front(found.votes, found.sigma, k),
                "important": descending(found.votes)[:k].tolist(),
                "sensitive": descending(found.sigma)[:k].tolist(),
            }
        return row

    def section(self, finding: Finding) -> Section:
        data = finding.data
        rows = data["classes"]
        enough = [row for row in rows if row["images"] >= self.fewest]
        correlation, similarity = (_over_classes(enough, key) for key in ("spearman", "similarity"))
        low, high = data["random_spearman"][1:]
        mean, similarity_low, similarity_high = data["random_similarity"]
        ranking = "mean importance" if self.ranking == "mean" else "weighted votes for all features"
        blocks: tuple[AnyBlock, ...] = (
            Text(
                text=f"The {data['neurons']} features that go into {data['layer']}, on the images that "
                f"{data['attack']} drove to {len(rows)} of {data['all_classes']} classes: "
                f"{sum(row['images'] for row in rows)} of {sum(row['tried'] for row in rows)} attempts succeeded. "
                f"Importance and sensitivity are taken from the same images; the features are ranked by {ranking}. Means are "
                f"over the {len(enough)} classes with at least {self.fewest} successes."
            ),
            Measures(
                items=(
                    _measure(
                        "Rank correlation of importance and sensitivity",
                        correlation,
                        "Spearman's, over all features; 1: the same order, 0: no relation, -1: reversed. "
                        + ("" if low is None else f"95 % of random orders lie between {low:.3f} and {high:.3f}."),
                    ),
                    _measure(
                        f"Levenshtein similarity of the first {data['k']}",
                        similarity,
                        f"1: the same features in the same order. Random sequences: {mean:.3f} on average, 95 % between "
                        f"{similarity_low:.3f} and {similarity_high:.3f}; a substitution costs {self.substitution}.",
                    ),
                )
            ),
        )
        if low is not None:
            blocks += (
                _bars("Rank correlation by target class", rows, "spearman", "Spearman", (0.0, low, high)),
            )  # fmt: skip
        return Section(
            key=self.kind,
            title="Important and sensitive features",
            blocks=(
                *blocks,
                _bars(
                    f"Similarity of the {data['k']} most important and most sensitive features",
                    rows,
                    "similarity",
                    "Levenshtein similarity",
                    data["random_similarity"],
                ),
                _table(rows, data["k"]),
            ),
        )

    def neuron_measures(self, finding: Finding) -> tuple[NeuronMeasure, ...]:
        data = finding.data
        rows = [row for row in data["classes"] if row["images"] >= self.fewest]
        if not rows:
            return ()
        chosen = {
            key: np.mean([np.isin(np.arange(data["neurons"]), row[key]) for row in rows], axis=0)
            for key in ("important", "sensitive")
        }
        every = {key: np.flatnonzero(share == 1).tolist() for key, share in chosen.items()}

        def measure(key: str) -> NeuronMeasure:
            return NeuronMeasure(
                key, f"Among the {data['k']} most {key}", f"share of {len(rows)} target classes",
                f"1: it is one of the {data['k']} most {key} features whatever class the attack aims at.", "for every class",
                (before_head(data["layer"], chosen[key].tolist(), every[key]),),
            )  # fmt: skip

        return measure("important"), measure("sensitive")

    def _doubts(self, data: dict[str, Any]) -> tuple[Flag, ...]:
        flags = []
        rows = data["classes"]
        few = [row for row in rows if row["images"] < self.fewest]
        if few:
            flags.append(
                Flag(
                    name="few targeted successes",
                    severity="warning",
                    message="For some target classes too few images reached the class to rank features by them.",
                    evidence=f"{len(few)} of {len(rows)} classes have fewer than {self.fewest} successes, the first: "
                    f"{few[0]['name']} with {few[0]['images']} of {few[0]['tried']}.",
                    remedy="Use more images, or a larger epsilon; these classes are left out of the means.",
                )
            )
        correlation = _over_classes([row for row in rows if row["images"] >= self.fewest], "spearman")
        if correlation.low is not None and correlation.low <= 0:
            flags.append(
                Flag(
                    name="sensitivity not shown to follow importance",
                    severity="info",
                    message="The sensitive features were not shown to be the ones that carry the target class.",
                    evidence=f"Mean rank correlation over classes: {correlation}.",
                )
            )
        return tuple(flags)


def _over_classes(rows: list[dict[str, Any]], key: str) -> Mean:
    return Mean.of(np.array([row[key] for row in rows if row[key] is not None], np.float64))


def _measure(title: str, mean: Mean, explanation: str) -> Measure:
    return Measure(
        title=title, value=mean.value, low=mean.low, high=mean.high, n=mean.n, explanation=f"n: classes. {explanation}"
    )


def _bars(title: str, rows: list[dict[str, Any]], key: str, y: str, chance: tuple[float, float, float]) -> Figure:
    return Figure(
        chart="class_values",
        title=title,
        rows=tuple({"name": row["name"], "value": row[key], "n": row["images"]} for row in rows),
        options={"y": y} | dict(zip(("chance", "low", "high"), chance, strict=True)),
        reading="One bar per target class. The dashed line is what random orders give on average, the grey band holds 95 % of "
        "them: a bar inside the band shows no relation. A missing bar: no image reached the class.",
    )


def _shared(row: dict[str, Any], k: int) -> float | None:
    return len({*row["important"]} & {*row["sensitive"]}) / k if row["important"] else None


def _table(rows: list[dict[str, Any]], k: int) -> Table:
    return Table(
        title="Target classes",
        columns=(
            Column(key="name", title="Target class"),
            Column(key="tried", title="Images tried"),
            Column(key="images", title="Reached it"),
            Column(key="spearman", title="Rank correlation", format=".3f"),
            Column(key="similarity", title="Levenshtein similarity", format=".3f"),
            Column(key="shared", title="In both", format=".0%"),
            Column(key="first", title="Most important features"),
        ),
        rows=tuple(
            row
            | {
                # Findings made before it was stored hold the two lists alone.
                "shared": row["shared"] if "shared" in row else _shared(row, k),
                "first": ", ".join(map(str, row["important"][:10])) or None,
            }
            for row in rows
        ),
        caption=f"'In both': share of the {k} most important features that are among the {k} most sensitive ones.",
    )
