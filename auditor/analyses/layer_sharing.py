"""Sharing of sensitive neurons between target classes, layer by layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from auditor.analysis import Analysis, Finding, MeasuredLayer, NeuronMeasure, Subject, measured_layer
from auditor.errors import EvaluationError
from auditor.flag import Flag
from auditor.neurons import KIND_TITLES, LayerKind
from auditor.randomness import derive_seed
from auditor.ranking.agreement import (
    average_pair_similarity,
    front_odds,
    fronts,
    levenshtein_similarity,
    random_jaccard,
    random_similarity,
    share_of,
    total_jaccard,
)
from auditor.ranking.class_sensitivity import ClassSensitivity, class_sensitivity
from auditor.report.blocks import Column, Figure, Section, Table, Text
from auditor.statistics.means import Mean
from auditor.twins.targeted import driven_to_each, papers_pgd


class LayerSharing(Analysis):
    """Whether attacks on different classes use the same neurons, layer by layer (Zhang et al. 2020, arXiv 1909.06978, Fig. 8).

    Images are driven to each target class by targeted PGD; on the successes the most sensitive neurons of every layer are
    found for each class. The classes are compared by the average pair Levenshtein similarity (eq. 9) and the total
    Jaccard index (eq. 10), each beside what random neurons would give and beside two halves of one class's images.
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
        10, ge=2, le=1000, description="Most target classes; of more, some are drawn by the audit's seed."
    )
    images: int = Field(100, ge=1, le=100_000, description="Most images driven to each target class.")
    steps: int = Field(10, ge=1, le=1000, description="Steps of targeted PGD, each of length epsilon / sqrt(steps).")
    substitution: int = Field(
        2,
        ge=1,
        le=2,
        description="Cost of a substitution. 1: eq. 7 to the letter, similarity at least 0.5. 2: similarity from 0 to 1.",
    )
    fewest: int = Field(10, ge=2, le=10_000, description="A class with fewer successes is left out.")

    @property
    def cost(self) -> float:
        return self.classes * (3.0 * self.steps + 4)

    def run(self, subject: Subject) -> Finding:
        attack = papers_pgd(subject, self.steps)
        classes, kept = [], []
        for driven in driven_to_each(subject, attack, self.classes, self.images):
            found = class_sensitivity(subject.classifier, driven.pairs)
            classes.append({"class": driven.target, "name": driven.name, "tried": driven.tried, "images": found.images})
            if found.images >= self.fewest:
                kept.append(found)
        if len(kept) < 2:
            raise EvaluationError(
                f"Fewer than two target classes were reached by {self.fewest} images, so that there is nothing to compare.",
                "Audit at a larger epsilon, or raise the number of images or steps.",
            )
        layers = self._layers(kept, subject.seed)
        data = {
            "attack": f"targeted {attack.display_title()}, {self.steps} steps, {subject.threat}",
            "classes": classes,
            "compared": len(kept),
            "all_classes": subject.classifier.num_classes,
            "layers": layers,
        }
        flags = (*self._few(classes), *_silent(layers))
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=flags, revision=self.revision)

    def _layers(self, classes: list[ClassSensitivity], seed: int) -> list[dict[str, Any]]:
        rows = []
        for depth, layer in enumerate(classes[0].layers):
            neurons = len(layer.sensitivity)
            count = min(self.k, neurons) if self.k else share_of(neurons, self.top)
            every = [item.layers[depth].sensitivity for item in classes]
            sequences = _sequences(every, count, derive_seed(seed, "ties", layer.name))
            first, second = (
                _sequences(
                    [item.halves[half][depth].sensitivity for item in classes],
                    count,
                    derive_seed(seed, "ties", layer.name, half),
                )
                for half in (0, 1)
            )
            halves = levenshtein_similarity(first, second, self.substitution).mean(0)
            similarity = average_pair_similarity(sequences, self.substitution)
            moving = int((np.stack(every) > 0).any(0).sum())
            moving = moving if moving >= count else neurons
            chance = random_similarity(moving, count, self.substitution, derive_seed(seed, "random sequences"))
            rows.append(
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "neurons": neurons,
                    "count": count,
                    "similarity": similarity.model_dump(),
                    "random_similarity": chance.mean,
                    "halves": Mean.of_shares(halves).model_dump(),
                    "jaccard": total_jaccard(sequences),
                    "random_jaccard": random_jaccard(moving, count, len(classes)),
                    "moving": moving,
                    "front": np.sum([front_odds(values, count) for values in every], axis=0).tolist(),
                    "silent": bool(any((np.sort(values)[-count:] == 0).any() for values in every)),
                }
            )
        return rows

    def section(self, finding: Finding) -> Section:
        data = finding.data
        layers = [row | {"depth": depth} for depth, row in enumerate(data["layers"], 1)]
        which = f"{self.k}" if self.k else f"{100 * self.top:g} %"
        shown = [kind for kind in KIND_TITLES if sum(row["kind"] == kind for row in layers) > 1]
        return Section(
            key=self.kind,
            title=self.title,
            blocks=(
                Text(
                    text=f"The {which} most sensitive neurons of each layer, found anew for each target class on the images "
                    f"that {data['attack']} drove there. {data['compared']} of {data['all_classes']} classes are compared, each "
                    f"reached by at least {self.fewest} images (in all {sum(row['images'] for row in data['classes'])} of "
                    f"{sum(row['tried'] for row in data['classes'])} attempts)."
                ),
                *(self._figure(kind, layers) for kind in shown),
                self._table(layers, data["compared"]),
            ),
        )

    def neuron_measures(self, finding: Finding) -> tuple[NeuronMeasure, ...]:
        layers, classes = finding.data["layers"], finding.data["compared"]
        if any("front" not in row for row in layers):  # findings made before it was counted lack it
            return ()

        def of(row: dict[str, Any]) -> MeasuredLayer:
            every = [neuron for neuron, count in enumerate(row["front"]) if count == classes]
            return measured_layer(row["name"], row["kind"], [count / classes for count in row["front"]], every)

        return (
            NeuronMeasure(
                "shared", "Sensitive for how many classes", f"share of {classes} target classes",
                "1: among the most sensitive of its layer whatever class the attack aims at.", "sensitive for every class",
                tuple(map(of, layers)),
            ),
        )  # fmt: skip

    def _figure(self, kind: LayerKind, layers: list[dict[str, Any]]) -> Figure:
        rows = []
        for row in layers:
            if row["kind"] == kind:
                place = {"depth": row["depth"], "layer": row["name"]}
                alone = {"low": None, "high": None, "n": None}
                rows += [
                    place | {"series": "different target classes"} | row["similarity"],
                    place | {"series": "one class, two halves of its images"} | row["halves"],
                    place | {"series": "random neurons", "value": row["random_similarity"]} | alone,
                ]
        return Figure(
            chart="layer_lines",
            title=f"Similarity of the sensitive neurons of different target classes: {KIND_TITLES[kind]}",
            rows=tuple(rows),
            options={"y": "Levenshtein similarity"},
            reading="1: attacks on different classes use the same neurons in the same order. The line of the two halves says how "
            "well the order can be measured with these images: what classes share cannot be seen above it. Bars are 95 % "
            "intervals over classes."
            + (
                " Before normalisation a neuron may lead for every class only because its filter is large."
                if kind == "conv"
                else ""
            ),
        )

    def _table(self, layers: list[dict[str, Any]], classes: int) -> Table:
        return Table(
            title="Layers in numbers",
            columns=(
                Column(key="name", title="Layer"),
                Column(key="kind", title="Kind"),
                Column(key="neurons", title="Neurons"),
                Column(key="moving", title="That change for any class"),
                Column(key="count", title="Compared"),
                Column(key="pairs", title="Average pair similarity", format=".3f"),
                Column(key="random_similarity", title="Similarity, random", format=".3f"),
                Column(key="same", title="Two halves", format=".3f"),
                Column(key="jaccard", title="Total Jaccard", format=".3f"),
                Column(key="random_jaccard", title="Total Jaccard, random", format=".3g"),
            ),
            rows=tuple(
                {"moving": None} | row | {"pairs": row["similarity"]["value"], "same": row["halves"]["value"]}
                for row in layers
            ),
            caption=f"Total Jaccard index: neurons that are among the most sensitive for all {classes} classes, over those "
            "that are for any. It falls with the number of classes by itself; compare it with the column beside it, and with "
            "audits of as many classes. Random: sets of the neurons that change for any class, of all where these are fewer "
            f"than are compared. A substitution costs {self.substitution} in the Levenshtein distance.",
        )

    def _few(self, classes: list[dict[str, Any]]) -> tuple[Flag, ...]:
        few = [row for row in classes if row["images"] < self.fewest]
        if not few:
            return ()
        return (
            Flag(
                name="few targeted successes",
                severity="warning",
                message="Some target classes were reached by too few images to be compared.",
                evidence=f"{len(few)} of {len(classes)} classes have fewer than {self.fewest} successes, the first: "
                f"{few[0]['name']} with {few[0]['images']} of {few[0]['tried']}.",
                remedy="Use more images, or a larger epsilon.",
            ),
        )


def _silent(layers: list[dict[str, Any]]) -> tuple[Flag, ...]:
    silent = [row["name"] for row in layers if row["silent"]]
    if not silent:
        return ()
    return (
        Flag(
            name="silent neurons compared",
            severity="warning",
            message="In some layers fewer neurons change at all than are compared.",
            evidence=f"{len(silent)} of {len(layers)} layers, the first: {silent[0]}.",
            remedy="Which of the neurons that do not change are taken is left to chance, which says nothing of the classes: "
            "compare fewer.",
        ),
    )


def _sequences(sensitivity: list[NDArray[np.float64]], count: int, seed: int) -> NDArray[np.int64]:
    """The most sensitive neurons for each of Y classes, (D, Y, count), D draws of the ties."""
    drawn = [fronts(values, count, derive_seed(seed, place)) for place, values in enumerate(sensitivity)]
    return np.stack(np.broadcast_arrays(*drawn), axis=1)
