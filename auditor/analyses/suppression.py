"""Suppression of sensitive neurons: what weakening them does to accuracy and robustness, beside other neurons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.analysis import Analysis, Finding, Subject
from auditor.attack import Attack
from auditor.classifier import Classifier
from auditor.criterion import Misclassification
from auditor.errors import EvaluationError
from auditor.flag import Flag
from auditor.neurons import list_layers
from auditor.probes.altered import altered_classifier, scaled
from auditor.randomness import derive_seed
from auditor.ranking.sensitivity import LayerSensitivity, SensitivityMeter
from auditor.report.blocks import Column, Figure, Section, Table, Text
from auditor.series import Names, Shares
from auditor.statistics.means import Mean
from auditor.twins.stored import StoredPairs, for_now, make_twins
from auditor.twins.targeted import papers_pgd

Chosen = dict[str, Tensor]
"""The neurons to suppress: a bool mask (M,) for each layer by name."""

IMAGES = {"clean": "clean images", "transfer": "twins of the whole model", "white-box": "twins of the suppressed model"}


class Hits(NamedTuple):
    """Which images a model gets right: float64 (N,), 1 or 0, or the average over several draws of model B."""

    model: Literal["A", "B"]
    images: str
    beta: float
    right: NDArray[np.float64]


class Suppression(Analysis):
    """Accuracy and robustness while sensitive neurons are suppressed (Zhang et al. 2020, arXiv 1909.06978, section IV-D).

    Model A multiplies the outputs of the most sensitive neurons of every activation layer that follows a convolution by
    beta; model B, the control, as many neurons drawn from the others that change under the attack at all. Both are measured on
    clean images, on adversarial images of the unchanged model (transfer) and on adversarial images made for the suppressed
    model itself (white-box).
    """

    title: ClassVar[str] = "Suppression of sensitive neurons"
    changes: ClassVar[tuple[str, ...]] = (
        "Model B drew from all other neurons, dead ones too, which made the control weaker where there are any. Audit "
        "again for the right numbers.",
    )
    kind: Literal["suppression"] = "suppression"
    top: float = Field(
        0.1, gt=0, le=0.5, description="Share of each layer's neurons that is suppressed (at least one)."
    )
    betas: Shares = Field(
        (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5),
        min_length=1,
        max_length=32,
        description="Factors on the neurons' outputs, for clean images and transfer.",
    )
    white_box_betas: Shares = Field(
        (0.95, 0.9, 0.8, 0.7, 0.5),
        max_length=32,
        description="Factors at which the suppressed model itself is attacked too; 1 needs no attack of its own.",
    )
    draws: int = Field(3, ge=1, le=20, description="Random choices of other neurons that model B averages over.")
    images: int = Field(100, ge=2, le=100_000, description="Most images, drawn by the audit's seed.")
    multiple: float = Field(
        0.25, gt=0, le=100, description="Radius of the attacks here, as a multiple of the audit's epsilon."
    )
    steps: int = Field(10, ge=1, le=1000, description="Steps of PGD, each of length epsilon / sqrt(steps).")
    layers: Names = Field((), max_length=1000, description="Names of the layers to suppress in; none: as above.")

    @property
    def cost(self) -> float:
        attack = 3.0 * self.steps + 2
        return 2 + attack + (1 + self.draws) * (2 * len(self.betas) + len(self.white_box_betas) * attack)

    def run(self, subject: Subject) -> Finding:
        attack = papers_pgd(subject, self.steps)
        part = self._part(subject)
        layers = self.sensitivity(subject)
        hits = list(self.measure(part, attack, layers))
        clean = {item.model: item for item in hits if (item.images, item.beta) == ("clean", min(self.betas))}
        difference = Mean.of_differences(clean["A"].right - clean["B"].right)
        data = {
            "images": len(part.ids),
            "attack": f"{attack.display_title()}, {self.steps} steps, {part.threat}",
            "pairs": subject.pairs_from,
            "layers": [
                {"name": layer.name, "neurons": len(layer.sensitivity), "suppressed": layer.top(self.top).tolist()}
                for layer in layers
            ],
            "points": [_point(item) for item in hits],
            "differences": _differences(hits),
        }
        return Finding(
            kind=self.kind, settings=self.settings(), data=data, flags=self._doubts(difference), revision=self.revision
        )

    def sensitivity(self, subject: Subject) -> list[LayerSensitivity]:
        """The layers to suppress in, measured on the audit's own pairs."""
        names = self._names(subject.classifier)
        meter = SensitivityMeter(subject.classifier)
        for pair in subject.pairs:
            meter.add(pair.x, pair.x_adv)
            subject.on_progress(0.0, "neuron sensitivity")
        layers = [layer for layer in meter.layers() if layer.name in names]
        if all(len(layer.sensitivity) == 1 for layer in layers):
            raise EvaluationError("Every layer has a single neuron, so that there are no others to compare with.")
        return layers

    def measure(self, subject: Subject, attack: Attack, layers: list[LayerSensitivity]) -> Iterator[Hits]:
        """Every model, kind of image and beta. ``subject``: with the images and the radius of this analysis."""
        models: list[tuple[Literal["A", "B"], list[Chosen]]] = [
            ("A", [self.most_sensitive(layers)]),
            ("B", [self.others(layers, subject.seed, draw) for draw in range(self.draws)]),
        ]
        labels = torch.from_numpy(subject.dataset.labels[subject.ids]).to(subject.classifier.device)
        attacked = [beta for beta in self.white_box_betas if beta != 1]
        total = 1 + (1 + self.draws) * len(attacked)
        done = 0

        def twins_of(classifier: Classifier, part: Subject) -> StoredPairs:
            nonlocal done
            done += 1
            return make_twins(
                part, attack, Misclassification(labels), classifier=classifier,
                on_progress=lambda share, what: subject.on_progress((done - 1 + share) / total, what),
            )  # fmt: skip

        with for_now(subject) as part:
            twins = twins_of(subject.classifier, part)
            for model, choices in models:
                for beta in self.betas:
                    subject.on_progress(done / total, f"suppression, beta {beta:g}")
                    both = [_right(self.suppressed(subject.classifier, chosen, beta), twins) for chosen in choices]
                    yield Hits(model, "clean", beta, np.mean([clean for clean, _ in both], axis=0))
                    yield Hits(model, "transfer", beta, np.mean([moved for _, moved in both], axis=0))
            whole = _right(subject.classifier, twins)[1]
        for model, choices in models:
            yield Hits(model, "white-box", 1.0, whole)
            for beta in attacked:
                right = []
                for chosen in choices:
                    with for_now(subject) as part:
                        pairs = twins_of(self.suppressed(subject.classifier, chosen, beta), part)
                        right.append(1.0 - np.concatenate([pair.fooled for pair in pairs]))
                yield Hits(model, "white-box", beta, np.mean(right, axis=0))

    def most_sensitive(self, layers: list[LayerSensitivity]) -> Chosen:
        """Model A's neurons."""
        return {layer.name: _mask(len(layer.sensitivity), layer.top(self.top)) for layer in layers}

    def others(self, layers: list[LayerSensitivity], seed: int, draw: int) -> Chosen:
        """Model B's neurons: of each layer as many as model A has, none of which is among those.

        Neurons that never change come last: most are dead, and suppressing them would be no control."""
        chosen = {}
        for layer in layers:
            top = layer.top(self.top)
            rest = np.setdiff1d(np.arange(len(layer.sensitivity)), top)
            order = np.random.default_rng(derive_seed(seed, "vanilla neurons", layer.name, draw)).permutation(rest)
            order = order[np.argsort(layer.sensitivity[order] == 0, kind="stable")]
            chosen[layer.name] = _mask(len(layer.sensitivity), order[: len(top)])
        return chosen

    def suppressed(self, classifier: Classifier, chosen: Chosen, beta: float) -> Classifier:
        """The classifier with these neurons' outputs multiplied by beta."""
        return altered_classifier(classifier, {name: scaled(mask, beta) for name, mask in chosen.items()})

    def _part(self, subject: Subject) -> Subject:
        """The subject at the images and the radius of this analysis."""
        order = np.random.default_rng(derive_seed(subject.seed, "suppression")).permutation(len(subject.ids))
        threat = subject.threat.model_copy(update={"epsilon": self.multiple * subject.threat.epsilon})
        return replace(subject, ids=np.sort(subject.ids[order[: self.images]]), threat=threat)

    def _names(self, classifier: Classifier) -> list[str]:
        layers = list_layers(classifier)
        if self.layers:
            missing = sorted(set(self.layers) - {layer.name for layer in layers})
            if missing:
                raise EvaluationError(f"The network has no layer {missing[0]}.", "Pick layers from its list of layers.")
            return list(self.layers)
        first = next((layer.depth for layer in layers if layer.kind == "conv"), len(layers))
        maps = [
            layer.name
            for layer in layers
            if layer.kind == "activation" and layer.depth > first and len(layer.spatial) > 1
        ]
        if not maps:
            raise EvaluationError(
                "The network has no activation after a convolution to suppress neurons in.", "Name its layers."
            )
        return maps

    def section(self, finding: Finding) -> Section:
        data = finding.data
        suppressed = sum(len(layer["suppressed"]) for layer in data["layers"])
        neurons = sum(layer["neurons"] for layer in data["layers"])
        clean = tuple(_row(point, "") for point in data["points"] if point["images"] == "clean")
        attacked = tuple(
            _row(point, f", {IMAGES[point['images']]}") for point in data["points"] if point["images"] != "clean"
        )
        order = list(IMAGES)
        differences = sorted(data["differences"], key=lambda row: (order.index(row["images"]), -row["beta"]))
        reading = (
            "Model A suppresses the most sensitive neurons, model B as many of the others that change at all "
            f"(average of {self.draws} random choices). Beta 1 is the unchanged model. Bars are 95 % intervals over images. "
        )
        return Section(
            key=self.kind,
            title=self.title,
            blocks=(
                Text(
                    text=f"The outputs of {suppressed} of {neurons} neurons in {len(data['layers'])} layers are multiplied by "
                    f"beta, on {data['images']} images; twins by {data['attack']}. Which neurons are sensitive was measured on: "
                    f"{data['pairs']}."
                ),
                Figure(
                    chart="lines",
                    title="Clean accuracy while neurons are suppressed",
                    rows=clean,
                    options={"x": "beta (1: unchanged)", "y": "accuracy", "share": True, "bars": True},
                    reading=reading
                    + "A line that falls sooner for model A says that clean accuracy rests on these neurons.",
                ),
                Figure(
                    chart="lines",
                    title="Accuracy under attack while neurons are suppressed",
                    rows=attacked,
                    options={"x": "beta (1: unchanged)", "y": "accuracy under attack", "share": True, "bars": True},
                    reading=reading
                    + "Twins of the whole model were not made for the suppressed one: accuracy on them may rise "
                    "only because they no longer fit. Robustness is what is left on twins of the suppressed model.",
                ),
                Table(
                    title="Model A minus model B",
                    columns=(
                        Column(key="images", title="On"),
                        Column(key="beta", title="Beta", format="g"),
                        Column(key="value", title="Difference", format="+.1%"),
                        Column(key="low", title="From", format="+.1%"),
                        Column(key="high", title="To", format="+.1%"),
                        Column(key="n", title="Images"),
                    ),
                    rows=tuple(row | {"images": IMAGES[row["images"]]} for row in differences),
                    caption="Difference of the accuracies on the same images, with its 95 % interval; below 0, A is worse.",
                ),
            ),
        )

    def _doubts(self, difference: Mean) -> tuple[Flag, ...]:
        if min(self.betas) == 1 or difference.high is None or difference.high < 0:
            return ()
        return (
            Flag(
                name="sensitive neurons not shown to matter more",
                severity="info",
                message="Suppressing sensitive neurons was not shown to cost more clean accuracy than suppressing others.",
                evidence=f"Accuracy of model A minus model B at beta {min(self.betas):g}: {difference}.",
                remedy="Smaller factors, a larger share, or more images may tell the two apart.",
            ),
        )


def _right(classifier: Classifier, twins: StoredPairs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Which clean images and which twins the classifier gets right, float64 (N,)."""
    clean: list[NDArray[np.float64]] = []
    moved: list[NDArray[np.float64]] = []
    for pair in twins:
        for images, kept in ((pair.x, clean), (pair.x_adv, moved)):
            right = classifier.logits(images.to(classifier.dtype)).argmax(1) == pair.labels
            kept.append(right.double().cpu().numpy())
    return np.concatenate(clean), np.concatenate(moved)


def _mask(neurons: int, chosen: NDArray[np.int64]) -> Tensor:
    mask = torch.zeros(neurons, dtype=torch.bool)
    mask[torch.from_numpy(chosen)] = True
    return mask


def _point(hits: Hits) -> dict[str, Any]:
    return {"model": hits.model, "images": hits.images, "beta": hits.beta} | Mean.of_shares(hits.right).model_dump()


def _differences(hits: list[Hits]) -> list[dict[str, Any]]:
    """Model A minus model B on the same images, at every beta but 1, where they are the same model."""
    control = {(item.images, item.beta): item.right for item in hits if item.model == "B"}
    return [
        {"images": item.images, "beta": item.beta}
        | Mean.of_differences(item.right - control[item.images, item.beta]).model_dump()
        for item in hits
        if item.model == "A" and item.beta != 1
    ]


def _row(point: dict[str, Any], suffix: str) -> dict[str, Any]:
    what = {"A": "model A: sensitive neurons", "B": "model B: other neurons"}[point["model"]]
    return point | {"x": point["beta"], "series": what + suffix, "label": f"beta {point['beta']:g}"}
