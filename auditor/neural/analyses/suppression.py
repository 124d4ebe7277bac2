"""Suppression of sensitive neurons: what weakening them does to accuracy and robustness, compared with other
neurons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from auditor.attacking.attack import Attack
from auditor.kit.flag import Flag
from auditor.kit.series import Names, Shares
from auditor.neural.analysis import Analysis, Subject
from auditor.neural.found import table
from auditor.neural.ranking.sensitivity import LayerSensitivity
from auditor.neural.ranking.suppressed import (
    IMAGES,
    Hits,
    Model,
    NeuronMasks,
    Suppressed,
    SuppressedAccuracy,
    SuppressedLayer,
    differences,
    hits_of,
    layers_to_suppress,
    most_sensitive,
    others,
    sensitivity_in,
)
from auditor.neural.twins.rows import drawn_samples
from auditor.neural.twins.targeted import papers_pgd
from auditor.show.blocks import AnyBlock, Column, Figure, Text


class Suppression(Analysis[Suppressed]):
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

    def cost(self, images: int) -> float:
        attack = 3 * self.steps + 2
        each = attack + (1 + self.draws) * (2 * len(self.betas) + len(self.white_box_betas) * attack)
        return 2 * images + each * min(images, self.images)

    def find(self, subject: Subject) -> Suppressed:
        attack, part, layers = papers_pgd(subject, self.steps), self._part(subject), self.sensitivity(subject)
        hits = list(self.measure(part, attack, layers))
        return Suppressed(
            images=len(part.ids),
            attack=f"{attack.display_title()}, {self.steps} steps, {part.threat}",
            pairs=subject.pairs_from,
            layers=tuple(SuppressedLayer.of(layer, self.top) for layer in layers),
            points=tuple(map(SuppressedAccuracy.of, hits)),
            differences=tuple(differences(hits)),
        )

    def sensitivity(self, subject: Subject) -> list[LayerSensitivity]:
        """The layers to suppress in, measured on the audit's own pairs."""
        return sensitivity_in(subject, layers_to_suppress(subject.classifier, self.layers))

    def measure(self, subject: Subject, attack: Attack, layers: list[LayerSensitivity]) -> Iterator[Hits]:
        """Every model, kind of image and beta. ``subject``: with the images and the radius of this analysis."""
        draws = [others(layers, self.top, subject.seed, draw) for draw in range(self.draws)]
        models: dict[Model, list[NeuronMasks]] = {"A": [most_sensitive(layers, self.top)], "B": draws}
        return hits_of(subject, attack, models, self.betas, self.white_box_betas)

    def _part(self, subject: Subject) -> Subject:
        """The subject at the images and the radius of this analysis."""
        threat = subject.threat.model_copy(update={"epsilon": self.multiple * subject.threat.epsilon})
        return replace(subject, ids=drawn_samples(subject, self.images, "suppression"), threat=threat)

    def doubts(self, found: Suppressed) -> Iterator[Flag]:
        """At the smallest beta sensitive neurons must cost more clean accuracy than others."""
        for row in found.minus("clean")[-1:]:
            if row.high is not None and row.high >= 0:
                yield Flag(
                    name="sensitive neurons not shown to matter more",
                    severity="info",
                    message="Suppressing sensitive neurons was not shown to cost more clean accuracy than suppressing others.",
                    evidence=f"Accuracy of model A minus model B at beta {row.beta:g}: {row}.",
                    remedy="Smaller factors, a larger share, or more images may tell the two apart.",
                )

    def blocks(self, found: Suppressed) -> Iterator[AnyBlock]:
        suppressed = sum(len(layer.suppressed) for layer in found.layers)
        neurons = sum(layer.neurons for layer in found.layers)
        yield Text(
            text=f"The outputs of {suppressed} of {neurons} neurons in {len(found.layers)} layers are multiplied by "
            f"beta, on {found.images} images; twins by {found.attack}. Which neurons are sensitive was measured on: "
            f"{found.pairs}."
        )
        yield self._figure(
            "Clean accuracy while neurons are suppressed",
            "accuracy",
            [point.drawn("") for point in found.points if point.images == "clean"],
            "A line that falls sooner for model A says that clean accuracy rests on these neurons.",
        )
        yield self._figure(
            "Accuracy under attack while neurons are suppressed",
            "accuracy under attack",
            [point.drawn(f", {IMAGES[point.images]}") for point in found.points if point.images != "clean"],
            "Twins of the whole model were not made for the suppressed one: accuracy on them may rise "
            "only because they no longer fit. Robustness is what is left on twins of the suppressed model.",
        )
        if found.differences:
            yield table(
                (row for images in IMAGES for row in found.minus(images)),
                Column(key="on", title="On"), "beta", "value", "low", "high", "n",
                title="Model A minus model B",
                caption="Difference of the accuracies on the same images, with its 95 % interval; below 0, A is worse.",
            )  # fmt: skip

    def _figure(self, title: str, y: str, rows: list[dict[str, object]], reading: str) -> Figure:
        return Figure(
            chart="lines",
            title=title,
            rows=tuple(rows),
            options={"x": "beta (1: unchanged)", "y": y, "share": True, "bars": True},
            reading="Model A suppresses the most sensitive neurons, model B as many of the others that change at all "
            f"(average of {self.draws} random choices). Beta 1 is the unchanged model. Bars are 95 % intervals over images. "
            + reading,
        )
