"""The neuron template: neurons that are neither front nor tail on any benign image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from auditor.kit.errors import EvaluationError
from auditor.kit.flag import Flag
from auditor.kit.statistics.estimate import Estimate
from auditor.neural.analysis import Analysis, Subject
from auditor.neural.figures import line_rows
from auditor.neural.found import Found, shown, table
from auditor.neural.influence.influence import Front, Tail
from auditor.neural.influence.templates import ALL, CLASSES, Template, TemplateOverlap, Templates, TemplateSize
from auditor.neural.probes.head import head_of
from auditor.show.blocks import AnyBlock, Figure, Text


class TemplateNumbers(Found):
    """Templates of all images (the first) and of classes. ``images``: the correctly classified ones of so many ``pairs``."""

    images: int
    pairs: int
    classes: int
    layer: str
    neurons: int
    curve: tuple[TemplateSize, ...]
    templates: tuple[Template, ...]
    template: tuple[int, ...]
    overlap: tuple[TemplateOverlap, ...]


class ComparedTemplate(Template):
    """With the mean of what it has in common with the templates of the other classes."""

    overlap: float | None = shown("In common with other classes", ".1%")
    overlap_random: float | None = shown("In common, if random", ".1%")


class InfluenceTemplate(Analysis[TemplateNumbers]):
    """The neurons that are neither front nor tail on any benign image, the neuron template (Chen et al. 2021, arXiv
    2112.13060).

    The template (eq. 3) is the intersection of the remaining neurons of the correctly classified clean images. It can
    only shrink as images are added; with random front and tail neurons nothing is left after a few hundred images; a
    quorum keeps the neurons that remain in a share of the images instead. Templates of single classes are compared by
    the share of neurons that they have in common.
    """

    title: ClassVar[str] = "Neuron template"
    passes: ClassVar[float] = 1.0
    kind: Literal["influence_template"] = "influence_template"
    front: Front = 5
    tail: Tail = 5
    quorum: float = Field(
        1.0, gt=0, le=1, description="Share of the images in which a neuron must remain to be in the template."
    )

    def find(self, subject: Subject) -> TemplateNumbers:
        head = head_of(subject.classifier)
        templates = Templates(subject.classifier, head, self.front, self.tail, self.quorum)
        for pair in self.each(subject):
            templates.add(pair)
        if not templates.sizes:
            raise EvaluationError(
                "A neuron template needs correctly classified images, but there are none.",
                "Check the labels and the normalization.",
            )
        return TemplateNumbers(
            images=len(templates.sizes),
            pairs=len(subject.pairs),
            classes=len(templates.images),
            layer=f"the input of {head.name}",
            neurons=templates.neurons,
            curve=tuple(templates.curve()),
            templates=tuple(templates.rows()),
            template=tuple(templates.members()[ALL].tolist()),
            overlap=tuple(templates.overlaps()),
        )

    def doubts(self, found: TemplateNumbers) -> Iterator[Flag]:
        if not found.template:
            empty = next(point.images for point in found.curve if point.size == 0)
            yield Flag(
                name="empty template",
                severity="warning",
                message="The neuron template is empty, so a defense based on it has nothing to compare with.",
                evidence=f"No neuron remains after {empty} of {found.images} images.",
                remedy="Use fewer images, fewer front and tail neurons, or a lower quorum.",
            )

    def blocks(self, found: TemplateNumbers) -> Iterator[AnyBlock]:
        overall = found.templates[0]
        rule = "all images" if self.quorum == 1 else f"at least {100 * self.quorum:g} % of the images"
        most = f", of the {len(found.templates) - 1} with the most images" if found.classes > CLASSES else ""
        yield Text(
            text=f"Of the {found.neurons} neurons of {found.layer}, {overall.size} are neither among the {self.front} "
            f"of largest nor among the {self.tail} of smallest influence in {rule}; {found.images} correctly "
            f"classified clean images of {found.pairs}. With random front and tail neurons {overall.random:.3g} would "
            "be left.",
            tone="plain" if overall.size else "warning",
        )
        yield Figure(
            chart="lines",
            title="Size of the template as images are added",
            rows=line_rows(found.curve, "images", {"size": "template", "random": "random front and tail"}),
            options={"x": "images", "y": "neurons in the template"},
            reading="A line above that of random neurons means that images of different classes share their front and "
            "tail neurons. A template that goes to zero cannot tell inputs apart.",
        )
        yield Figure(
            chart="grid",
            title=f"Neurons that the templates of two classes have in common{most}",
            rows=tuple(cell.model_dump() for cell in found.overlap),
            options={"value": "|both| / |either|", "domain": [0, 1], "height": 360},
            reading="1: the same neurons. Large templates are alike whatever the classes: compare a cell with the "
            "value of random sets of the same sizes in the table below.",
        )
        yield table(
            (_compared(item, found.overlap) for item in found.templates), *ComparedTemplate.model_fields,
            title="Templates",
            caption="In common: |both| / |either|, mean over the other classes, and the same for random sets of the "
                    "same sizes.",
        )  # fmt: skip


def _compared(item: Template, cells: tuple[TemplateOverlap, ...]) -> ComparedTemplate:
    others = [
        cell
        for cell in cells
        if item.name != ALL and cell.row == item.name and cell.column not in (item.name, ALL) and cell.value is not None
    ]
    means = (Estimate.of_mean([getattr(cell, key) for cell in others]).value for key in ("value", "random"))
    return ComparedTemplate(**dict(item), **dict(zip(("overlap", "overlap_random"), means, strict=True)))
