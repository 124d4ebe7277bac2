"""Neuron importance: which features carry the target class on adversarial images, and whether those are the sensitive ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from auditor.kit.errors import EvaluationError
from auditor.kit.flag import Flag
from auditor.kit.randomness import derive_seed
from auditor.neural.analysis import Analysis, NeuronMeasure, Subject, before_head
from auditor.neural.found import Stored, table
from auditor.neural.probes.head import head_of
from auditor.neural.ranking.agreement import Substitution, random_similarity, random_spearman
from auditor.neural.ranking.targets import Importances, class_values, ranked_class
from auditor.neural.twins.targeted import TargetClasses, TargetImages, TargetSteps, driven_to_each, papers_pgd
from auditor.show.blocks import AnyBlock, Column, Measures, Text


class NeuronImportance(Analysis[Importances]):
    """Whether the features that carry an attack's target class are the sensitive ones (Zhang et al. 2020, arXiv 1909.06978).

    Images of other classes are driven to each target class by targeted PGD. On the successes, a feature's importance
    (eq. 3) is what it adds to the target's logit: its value at the adversarial image times its weight. The k most
    important features of a class are found by weighted voting (eq. 4 and 5). Their order is compared with the order by
    neuron sensitivity on the very same images: over all features by Spearman's rank correlation (eq. 6), over the first k
    by Levenshtein similarity (eq. 7 and 8).
    """

    title: ClassVar[str] = "Neuron importance"
    heading: ClassVar[str] = "Important and sensitive features"
    changes: ClassVar[tuple[str, ...]] = (
        "Features with equal values were ranked by index in both orders, so features that never move counted as agreement: where "
        "many do not move, correlation and similarity are too high. Audit again for the right numbers.",
    )
    kind: Literal["neuron_importance"] = "neuron_importance"
    k: int = Field(20, ge=1, le=10_000, description="How many features count as important, and as sensitive.")
    classes: TargetClasses = 10
    images: TargetImages = 100
    steps: TargetSteps = 10
    ranking: Literal["mean", "borda"] = Field(
        "mean", description="Full order of the features: by mean importance, or by weighted votes for all of them."
    )
    substitution: Substitution = 2
    fewest: int = Field(
        10, ge=1, le=10_000, description="A class with fewer successes does not count in the means over classes."
    )

    def cost(self, images: int) -> float:
        return self.classes * (3 * self.steps + 4) * min(images, self.images)

    def find(self, subject: Subject) -> Importances:
        head, attack = head_of(subject.classifier), papers_pgd(subject, self.steps)
        neurons = head.layer.in_features
        k = min(self.k, neurons)
        rows = [
            ranked_class(
                subject.classifier, head, driven, k,
                borda=self.ranking == "borda", substitution=self.substitution, seed=subject.seed,
            )
            for driven in driven_to_each(subject, attack, self.classes, self.images)
        ]  # fmt: skip
        if not any(row.images for row in rows):
            raise EvaluationError(
                "Neuron importance has no image to look at: targeted PGD reached no target class.",
                "Audit at a larger epsilon, or raise the number of images or steps.",
            )
        seed = derive_seed(subject.seed, "random sequences")
        return Importances(
            layer=head.name,
            neurons=neurons,
            k=k,
            attack=f"targeted {attack.display_title()}, {self.steps} steps, {subject.threat}",
            classes=tuple(rows),
            all_classes=subject.classifier.num_classes,
            random_spearman=tuple(None if math.isnan(value) else value for value in random_spearman(neurons)),
            random_similarity=random_similarity(neurons, k, self.substitution, seed),
        )

    @classmethod
    def lift(cls, data: Stored, revision: int) -> Stored:
        """At first there was a share of tied features, and each class held its two lists alone."""
        classes = [
            {"shared": len({*row["important"]} & {*row["sensitive"]}) / data["k"] if row["important"] else None} | row
            for row in data["classes"]
        ]
        return {key: value for key, value in data.items() if key != "tied"} | {"classes": classes}

    def doubts(self, found: Importances) -> Iterator[Flag]:
        few = [row for row in found.classes if row.images < self.fewest]
        if few:
            yield Flag(
                name="few targeted successes",
                severity="warning",
                message="For some target classes too few images reached the class to rank features by them.",
                evidence=f"{len(few)} of {len(found.classes)} classes have fewer than {self.fewest} successes, the first: "
                f"{few[0].name} with {few[0].images} of {few[0].tried}.",
                remedy="Use more images, or a larger epsilon; these classes are left out of the means.",
            )
        correlation = found.mean("spearman", self.fewest)
        if correlation.low is not None and correlation.low <= 0:
            yield Flag(
                name="sensitivity not shown to follow importance",
                severity="info",
                message="The sensitive features were not shown to be the ones that carry the target class.",
                evidence=f"Mean rank correlation over classes: {correlation}.",
            )

    def blocks(self, found: Importances) -> Iterator[AnyBlock]:
        rows, k = found.classes, found.k
        _, low, high = found.random_spearman
        mean, similarity_low, similarity_high = found.random_similarity
        ranking = "mean importance" if self.ranking == "mean" else "weighted votes for all features"
        yield Text(
            text=f"The {found.neurons} features that go into {found.layer}, on the images that {found.attack} drove to "
            f"{len(rows)} of {found.all_classes} classes: {sum(row.images for row in rows)} of "
            f"{sum(row.tried for row in rows)} attempts succeeded. Importance and sensitivity are taken from the same images; "
            f"the features are ranked by {ranking}. Means are over the {len(found.enough(self.fewest))} classes with at least "
            f"{self.fewest} successes."
        )
        between = "" if low is None else f"95 % of random orders lie between {low:.3f} and {high:.3f}."
        yield Measures(
            items=(
                found.mean("spearman", self.fewest).measure(
                    "Rank correlation of importance and sensitivity",
                    explanation="n: classes. Spearman's, over all features; 1: the same order, 0: no relation, -1: reversed. "
                    + between,
                ),
                found.mean("similarity", self.fewest).measure(
                    f"Levenshtein similarity of the first {k}",
                    explanation=f"n: classes. 1: the same features in the same order. Random sequences: {mean:.3f} on average, "
                    f"95 % between {similarity_low:.3f} and {similarity_high:.3f}; a substitution costs {self.substitution}.",
                ),
            )
        )
        if low is not None and high is not None:
            yield class_values("Rank correlation by target class", rows, "spearman", "Spearman", (0.0, low, high))
        title = f"Similarity of the {k} most important and most sensitive features"
        yield class_values(title, rows, "similarity", "Levenshtein similarity", found.random_similarity)
        yield table(
            rows,
            "name", "tried", "images", "spearman", "similarity", "shared", Column(key="first", title="Most important features"),
            title="Target classes",
            caption=f"'In both': share of the {k} most important features that are among the {k} most sensitive ones.",
        )  # fmt: skip

    def neuron_measures(self, found: Importances) -> Iterator[NeuronMeasure]:
        rows, k = found.enough(self.fewest), found.k
        for key in ("important", "sensitive") if rows else ():
            share = np.mean([np.isin(np.arange(found.neurons), getattr(row, key)) for row in rows], axis=0)
            yield NeuronMeasure(
                key, f"Among the {k} most {key}", f"share of {len(rows)} target classes",
                f"1: it is one of the {k} most {key} features whatever class the attack aims at.", "for every class",
                (before_head(found.layer, share.tolist(), np.flatnonzero(share == 1).tolist()),),
            )  # fmt: skip
