"""Sharing of sensitive neurons between target classes, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from auditor.kit.errors import EvaluationError
from auditor.kit.flag import Flag
from auditor.models.neurons import KIND_TITLES, LayerKind
from auditor.neural.analysis import Analysis, NeuronMeasure, Subject, measured_layer
from auditor.neural.figures import along_layers
from auditor.neural.found import Stored, some_of, table
from auditor.neural.ranking.agreement import Substitution
from auditor.neural.ranking.class_sensitivity import class_sensitivity
from auditor.neural.ranking.sharing import Sharing, shared_layers
from auditor.neural.twins.targeted import TargetClass, TargetImages, TargetSteps, driven_to_each, papers_pgd
from auditor.show.blocks import AnyBlock, Column, Figure, Text


class LayerSharing(Analysis[Sharing]):
    """Whether attacks on different classes use the same neurons, layer by layer (Zhang et al. 2020, arXiv 1909.06978, Fig. 8).

    Images are driven to each target class by targeted PGD; on the successes the most sensitive neurons of every layer are
    found for each class. The classes are compared by the average pair Levenshtein similarity (eq. 9) and the total
    Jaccard index (eq. 10), each compared with what random neurons would give and with two halves of one class's images.
    """

    title: ClassVar[str] = "Sharing of sensitive neurons between classes"
    changes: ClassVar[tuple[str, ...]] = (
        "Neurons that did not change were ranked by index for every class: in layers where fewer neurons change than are "
        "compared, the classes look more alike than they are. Audit again for the right numbers.",
        "What random neurons would give was that of all of a layer's neurons, also of those that change for no class, which is "
        "too little where there are such. Audit again for the right numbers.",
    )
    kind: Literal["layer_sharing"] = "layer_sharing"
    top: float = Field(0.1, gt=0, le=1, description="Share of a layer's neurons that are compared (at least one).")
    k: int = Field(0, ge=0, le=10_000, description="Compare this many neurons instead of a share; 0: use the share.")
    classes: int = Field(
        10, ge=2, le=1000, description="Maximum target classes; if there are more, the audit's seed draws some."
    )
    images: TargetImages = 100
    steps: TargetSteps = 10
    substitution: Substitution = 2
    fewest: int = Field(10, ge=2, le=10_000, description="A class with fewer successes is left out.")

    def cost(self, images: int) -> float:
        return self.classes * (3 * self.steps + 4) * min(images, self.images)

    def find(self, subject: Subject) -> Sharing:
        attack = papers_pgd(subject, self.steps)
        classes, kept = [], []
        for driven in driven_to_each(subject, attack, self.classes, self.images):
            found = class_sensitivity(subject.classifier, driven.pairs)
            classes.append(TargetClass(target=driven.target, name=driven.name, tried=driven.tried, images=found.images))
            if found.images >= self.fewest:
                kept.append(found)
        if len(kept) < 2:
            raise EvaluationError(
                f"Fewer than two target classes were reached by {self.fewest} images, so there is nothing to compare.",
                "Audit at a larger epsilon, or raise the number of images or steps.",
            )
        return Sharing(
            attack=f"targeted {attack.display_title()}, {self.steps} steps, {subject.threat}",
            classes=tuple(classes),
            compared=len(kept),
            all_classes=subject.classifier.num_classes,
            layers=tuple(shared_layers(kept, self.k, self.top, self.substitution, subject.seed)),
        )

    @classmethod
    def lift(cls, data: Stored, revision: int) -> Stored:
        """Neurons that change, and those at the front, were not counted at first."""
        return data | {"layers": [{"moving": None, "front": None} | layer for layer in data["layers"]]}

    def doubts(self, found: Sharing) -> Iterator[Flag]:
        few = [row for row in found.classes if row.images < self.fewest]
        if few:
            yield Flag(
                name="few targeted successes",
                severity="warning",
                message="Some target classes were reached by too few images to be compared.",
                evidence=f"{len(few)} of {len(found.classes)} classes have fewer than {self.fewest} successes, the first: "
                f"{few[0].name} with {few[0].images} of {few[0].tried}.",
                remedy="Use more images, or a larger epsilon.",
            )
        silent = [row for row in found.layers if row.silent]
        if silent:
            yield Flag(
                name="silent neurons compared",
                severity="warning",
                message="In some layers fewer neurons change at all than are compared.",
                evidence=f"{some_of(silent, found.layers)}.",
                remedy="Chance decides which of the unchanged neurons are compared, which says nothing about the "
                "classes: compare fewer neurons.",
            )

    def blocks(self, found: Sharing) -> Iterator[AnyBlock]:
        which = f"{self.k}" if self.k else f"{100 * self.top:g} %"
        yield Text(
            text=f"The {which} most sensitive neurons of each layer, found separately for each target class on the images "
            f"that {found.attack} drove there. {found.compared} of {found.all_classes} classes are compared, each "
            f"reached by at least {self.fewest} images (in all {sum(row.images for row in found.classes)} of "
            f"{sum(row.tried for row in found.classes)} attempts)."
        )
        yield from (_figure(kind, found) for kind in KIND_TITLES if sum(row.kind == kind for row in found.layers) > 1)
        yield table(
            found.layers,
            "name", "kind", "neurons", "moving", "count",
            Column(key="similarity.value", title="Average pair similarity", format=".3f"), "random_similarity",
            Column(key="halves.value", title="Two halves", format=".3f"), "jaccard", "random_jaccard",
            title="Layers in numbers",
            caption=f"Total Jaccard index: neurons that are among the most sensitive for all {found.compared} classes, "
            "over those that are for any. It falls as the number of classes grows; compare it with the next column, "
            "and with audits of the same number of classes. Random: sets of the neurons that change for any class, of "
            f"all where these are fewer than are compared. A substitution costs {self.substitution} in the Levenshtein "
            "distance.",
        )  # fmt: skip

    def neuron_measures(self, found: Sharing) -> Iterator[NeuronMeasure]:
        layers = tuple(
            measured_layer(row.name, row.kind, row.front / found.compared, (row.front == found.compared).nonzero()[0])
            for row in found.layers
            if row.front is not None
        )
        if layers:
            yield NeuronMeasure(
                "shared", "Sensitive for how many classes", f"share of {found.compared} target classes",
                "1: among the most sensitive of its layer whatever class the attack aims at.", "sensitive for every class",
                layers,
            )  # fmt: skip


def _figure(kind: LayerKind, found: Sharing) -> Figure:
    series = {
        "similarity": "different target classes",
        "halves": "one class, two halves of its images",
        "random_similarity": "random neurons",
    }
    return Figure(
        chart="layer_lines",
        title=f"Similarity of the sensitive neurons of different target classes: {KIND_TITLES[kind]}",
        rows=tuple(
            row | {key: row.get(key) for key in ("low", "high", "n")}
            for row in along_layers(found.layers, series, kind)
        ),
        options={"y": "Levenshtein similarity"},
        reading="1: attacks on different classes use the same neurons in the same order. The line of the two halves says how "
        "well the order can be measured with these images: what classes share cannot be seen above it. Bars are 95 % "
        "intervals over classes."
        + " Before normalization a neuron may lead for every class only because its filter is large."
        * (kind == "conv"),
    )
