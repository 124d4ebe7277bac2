"""Neuron influence before the head, on clean images and under each attack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from auditor.kit.errors import EvaluationError
from auditor.kit.flag import Flag
from auditor.neural.analysis import Analysis, NeuronMeasure, Subject, before_head
from auditor.neural.figures import line_rows
from auditor.neural.found import OfPairs, table
from auditor.neural.influence.change import UNITS, ExplainedClass, InfluenceChange, InfluenceScale, change_of_influence
from auditor.neural.influence.influence import Front, Tail
from auditor.neural.influence.overview import change_blocks, overlap_figure
from auditor.neural.influence.totals import ByNeuron, InfluencePoint, InfluenceTotals, NeuronRow, Overlaps
from auditor.neural.probes.head import head_of
from auditor.neural.twins.named import CONTROL, named_twins, without_twins
from auditor.neural.twins.rows import evenly_spaced
from auditor.show.blocks import AnyBlock, Figure, Text


class InfluenceChanges(OfPairs):
    """Of the neurons of ``layer``: how each kind of twins changes it, the twins of the audit first, and what it is there.

    ``left_out``: attacks that do not make one twin per image.
    """

    threat: str
    layer: str
    attacks: tuple[InfluenceChange, ...]
    left_out: tuple[str, ...]
    neurons: int
    curve: tuple[InfluencePoint, ...]
    overlap: Overlaps
    by_neuron: ByNeuron


class NeuronInfluence(Analysis[InfluenceChanges]):
    """What each neuron before the head adds to the confidence in a class, and how attacks change that (Chen et al. 2021, arXiv
    2112.13060).

    Neuron influence (eq. 2) is the derivative of the confidence by a neuron's output, times that output. The neurons of
    largest influence on a clean image are its front neurons, those of smallest its tail neurons. The paper claims that
    every attack lowers the front and raises the tail (its Fig. 1). Neurons that were picked for being extreme on one
    image are less extreme on any other, so the same is measured under random noise, and with the parts picked on the
    twin. And a twin that is taken for another class has its influence on another class: the change is measured on the
    class of the clean image, too.
    """

    title: ClassVar[str] = "Neuron influence"
    heading: ClassVar[str] = "Neuron influence before the head"
    changes: ClassVar[tuple[str, ...]] = (
        "Front and tail went by index among neurons of equal influence: where many have none, an image and its twin share more "
        "of them than they should. Audit again for the right numbers.",
    )
    passes: ClassVar[float] = 62.0  # two, and the twins of an attack or two of some ten steps
    kind: Literal["neuron_influence"] = "neuron_influence"
    front: Front = 5
    tail: Tail = 5
    explained: ExplainedClass = Field(
        "own",
        description="The class that influence on a twin is about: the one predicted on the twin itself, or on the clean image.",
    )
    value: InfluenceScale = Field(
        "margin", description="Influence is shown on the log odds of the class, or on its softmax confidence."
    )
    only_success: bool = Field(
        False, description="Use only images on which the attack succeeded; random noise keeps all."
    )
    images: int = Field(200, ge=2, le=100_000, description="Maximum images to look at under each attack.")

    def find(self, subject: Subject) -> InfluenceChanges:
        head = head_of(subject.classifier)
        chosen = evenly_spaced(len(subject.pairs), self.images)
        totals = InfluenceTotals(head.layer.in_features)
        changes: list[InfluenceChange] = []
        for name, pairs in named_twins(subject, chosen, lambda share, _: subject.on_progress(share, self.title)):
            changes.append(
                change_of_influence(
                    name, subject.classifier, head, pairs, front=self.front, tail=self.tail, value=self.value,
                    only_success=self.only_success and name != CONTROL,
                    totals=None if changes else totals, explained=self.explained,
                )
            )  # fmt: skip
            if totals.images == 0:
                raise EvaluationError(
                    "Neuron influence has no image to look at: the attack succeeded on none.",
                    "Set only_success to false.",
                )
        subject.on_progress(1.0, self.title)
        return InfluenceChanges(
            images=totals.images,
            pairs=subject.pairs_from,
            threat=str(subject.threat),
            layer=f"the input of {head.name}",
            attacks=tuple(changes),
            left_out=without_twins(subject),
            neurons=totals.neurons,
            **totals.summary(self.front, self.tail)._asdict(),
        )

    def doubts(self, found: InfluenceChanges) -> Iterator[Flag]:
        if not (fooled := found.attacks[0].fooled).hits:
            yield Flag(
                name="nothing fooled",
                severity="warning",
                message="The change of neuron influence comes from images on which the attack failed.",
                evidence=f"No twin of {fooled.n} is misclassified.",
                remedy="Use a larger epsilon or a stronger attack for the analyses.",
            )

    def blocks(self, found: InfluenceChanges) -> Iterator[AnyBlock]:
        about = "clean image" if self.explained == "clean" else "image itself"
        left_out = f" Left out, since they do not make one twin per image: {', '.join(found.left_out)}."
        yield Text(
            text=f"Influence of the {found.neurons} neurons of {found.layer} on the {UNITS[self.value]} of a predicted class; "
            f"{found.images} images. Front: the {self.front} neurons of largest influence on the clean image, tail: "
            f"the {self.tail} of smallest. Twins of the audit: {found.pairs}. The attacks by name are untargeted, "
            f"{found.threat}.{left_out if found.left_out else ''}"
        )
        yield from change_blocks(found.attacks, UNITS[self.value])
        yield Figure(
            chart="lines",
            title="Influence of the neurons, sorted on each clean image",
            rows=line_rows(found.curve, "position", {"clean": "clean images", "twin": "their twins"}),
            options={
                "x": "place in the order on the clean image (1: largest influence)",
                "y": f"influence ({UNITS[self.value]})",
            },
            reading=f"Influence on the class predicted on the {about}. The neurons are sorted on each image; both lines average "
            "over the images in that order. If the twins' line is lower at the left and higher at the right, the attack weakened "
            "neurons that speak for the class and strengthened neurons that speak against it.",
        )
        yield overlap_figure(found.overlap)
        yield table(
            found.by_neuron.rows(found.by_neuron.most_often_front(20)), *NeuronRow.model_fields,
            title="Neurons that are most often front",
            caption=f"Share of the {found.images} images; influence is the mean over them.",
        )  # fmt: skip

    def neuron_measures(self, found: InfluenceChanges) -> Iterator[NeuronMeasure]:
        each = found.by_neuron
        clean, change = each.influence_clean, each.influence_twin - each.influence_clean
        often, head = each.most_often_front(self.front), found.layer.removeprefix("the input of ")
        for key, title, unit, values, reading in (
            ("clean", "Influence, clean", UNITS[self.value], clean, "Large: it speaks for the class that is predicted."),
            (
                "change", "Influence, twin minus clean", UNITS[self.value], change,
                "Below 0: under attack it speaks less for the class, above 0: more.",
            ),
            (
                "front", "Front on clean images", "share of the images", each.front_clean,
                f"1: on every image it is one of the {self.front} neurons of largest influence.",
            ),
        ):  # fmt: skip
            layers = (before_head(head, values.tolist(), often),)
            yield NeuronMeasure(key, title, unit, reading, f"among the {self.front} most often front", layers)
