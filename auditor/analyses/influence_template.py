"""The neuron template: neurons that are neither front nor tail on any benign image."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats

from auditor.analysis import Analysis, Finding, Pair, Subject
from auditor.classifier import finite
from auditor.errors import EvaluationError
from auditor.flag import Flag
from auditor.nip.influence import chosen_mask, expected_jaccard, head_influence, needed, split
from auditor.probes.head import Head, head_of, penultimate
from auditor.report.blocks import Column, Figure, Section, Table, Text

CLASSES = 20
"""Classes with a row in the matrix, those with the most images."""
STEPS = 60
"""Points of the curve of the template's size."""
ALL = "all classes"


class InfluenceTemplate(Analysis):
    """The neurons that are neither front nor tail on any benign image, the neuron template (Chen et al. 2021, arXiv
    2112.13060).

    The template (eq. 3) is the intersection of the remaining neurons of the correctly classified clean images. It can only
    shrink as images are added, at random to nothing after a few hundred; a quorum keeps the neurons that remain in a share of
    the images instead. Templates of single classes are compared by the share of neurons that they have in common.
    """

    title: ClassVar[str] = "Neuron template"
    kind: Literal["influence_template"] = "influence_template"
    front: int = Field(5, ge=1, le=1000, description="Neurons of the largest influence that count as front.")
    tail: int = Field(5, ge=1, le=1000, description="Neurons of the smallest influence that count as tail.")
    quorum: float = Field(
        1.0, gt=0, le=1, description="Share of the images in which a neuron must remain to be in the template."
    )

    @property
    def cost(self) -> float:
        return 1.0

    def remaining(self, subject: Subject, head: Head, pair: Pair) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Of the correctly classified clean images: which neurons remain, bool (B, M), and the labels, (B,)."""
        with torch.no_grad():
            features, logits = penultimate(subject.classifier, head, pair.x.to(subject.classifier.dtype))
        predicted = finite(logits).argmax(1)
        parts = split(head_influence(features, logits, head.weight, predicted), self.front, self.tail)
        mask, right = chosen_mask(parts.remaining, features.shape[1]), predicted == pair.labels
        return mask[right].cpu().numpy(), pair.labels[right].cpu().numpy()

    def run(self, subject: Subject) -> Finding:
        head = head_of(subject.classifier)
        neurons = head.layer.in_features
        total, images = np.zeros(neurons, np.int64), Counter[int]()
        by_class: dict[int, NDArray[np.int64]] = {}
        sizes: list[int] = []
        done = 0
        for pair in subject.pairs:
            masks, labels = self.remaining(subject, head, pair)
            for mask, label in zip(masks, labels.tolist(), strict=True):
                total += mask
                by_class[label] = by_class.get(label, np.zeros(neurons, np.int64)) + mask
                images[label] += 1
                sizes.append(int((total >= needed(len(sizes) + 1, self.quorum)).sum()))
            done += len(pair.sample)
            subject.on_progress(done / len(subject.pairs), self.title)
        if not sizes:
            raise EvaluationError(
                "A neuron template needs correctly classified images, and there is none.",
                "Check the labels and the normalisation.",
            )
        largest = [label for label, _ in sorted(images.items(), key=lambda item: (-item[1], item[0]))[:CLASSES]]
        members = {ALL: _members(total, len(sizes), self.quorum)}
        members |= {
            subject.classifier.class_name(label): _members(by_class[label], images[label], self.quorum)
            for label in sorted(largest)
        }
        counts = [len(sizes), *(images[label] for label in sorted(largest))]
        data = {
            "images": len(sizes),
            "pairs": len(subject.pairs),
            "classes": len(images),
            "layer": f"the input of {head.name}",
            "neurons": neurons,
            "curve": self._curve(sizes, neurons),
            "templates": [
                {"name": name, "images": count, "size": len(chosen), "random": self._expected(count, neurons)}
                for (name, chosen), count in zip(members.items(), counts, strict=True)
            ],
            "template": members[ALL].tolist(),
            "overlap": _overlaps(members, neurons),
        }
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=self._doubts(sizes))

    def _expected(self, images: int, neurons: int) -> float:
        """Mean size of a template whose front and tail are random neurons on every image."""
        stays = 1 - (self.front + self.tail) / neurons
        return float(neurons * stats.binom.sf(needed(images, self.quorum) - 1, images, stays))

    def _curve(self, sizes: list[int], neurons: int) -> list[dict[str, float]]:
        """Size after t images, in the order of the audit, at up to ``STEPS`` numbers t."""
        steps = np.unique(np.linspace(1, len(sizes), min(STEPS, len(sizes))).round().astype(int)).tolist()
        return [{"images": t, "size": sizes[t - 1], "random": self._expected(t, neurons)} for t in steps]

    def _doubts(self, sizes: list[int]) -> tuple[Flag, ...]:
        if sizes[-1]:
            return ()
        return (
            Flag(
                name="empty template",
                severity="warning",
                message="The neuron template is empty, so that a defense by it has nothing to compare with.",
                evidence=f"No neuron remains after {sizes.index(0) + 1} of {len(sizes)} images.",
                remedy="Use fewer images, fewer front and tail neurons, or a lower quorum.",
            ),
        )

    def section(self, finding: Finding) -> Section:
        data = finding.data
        overall = data["templates"][0]
        rule = "all images" if self.quorum == 1 else f"at least {100 * self.quorum:g} % of the images"
        rows = tuple(
            {"x": point["images"], "series": title, "value": point[key]}
            for key, title in (("size", "template"), ("random", "random front and tail"))
            for point in data["curve"]
        )
        shown = f", of the {len(data['templates']) - 1} with the most images" if data["classes"] > CLASSES else ""
        return Section(
            key=self.kind,
            title="Neuron template",
            blocks=(
                Text(
                    text=f"Of the {data['neurons']} neurons of {data['layer']}, {overall['size']} are neither among the "
                    f"{self.front} of largest nor among the {self.tail} of smallest influence in {rule}; "
                    f"{data['images']} correctly classified clean images of {data['pairs']}. With random front and tail "
                    f"neurons {overall['random']:.3g} would be left.",
                    tone="plain" if overall["size"] else "warning",
                ),
                Figure(
                    chart="lines",
                    title="Size of the template as images are added",
                    rows=rows,
                    options={"x": "images", "y": "neurons in the template"},
                    reading="A line above that of random neurons means that images of different classes share their front and "
                    "tail neurons. A template that goes to zero cannot tell inputs apart.",
                ),
                Figure(
                    chart="grid",
                    title=f"Neurons that the templates of two classes have in common{shown}",
                    rows=tuple(data["overlap"]),
                    options={"value": "|both| / |either|", "domain": [0, 1], "height": 360},
                    reading="1: the same neurons. Large templates are alike whatever the classes: read a cell beside the value "
                    "of random sets of the same sizes, which the table below gives.",
                ),
                Table(
                    title="Templates",
                    columns=(
                        Column(key="name", title="Class"),
                        Column(key="images", title="Images"),
                        Column(key="size", title="Neurons"),
                        Column(key="random", title="Neurons, if random", format=".1f"),
                        Column(key="overlap", title="In common with other classes", format=".1%"),
                        Column(key="overlap_random", title="In common, if random", format=".1%"),
                    ),
                    rows=tuple(item | _average(data["overlap"], item["name"]) for item in data["templates"]),
                    caption="In common: |both| / |either|, mean over the other classes, beside random sets of the same sizes.",
                ),
            ),
        )


def _members(remains: NDArray[np.int64], images: int, quorum: float) -> NDArray[np.int64]:
    """The template, which may be empty here."""
    return np.flatnonzero(remains >= needed(images, quorum))


def _overlaps(members: dict[str, NDArray[np.int64]], neurons: int) -> list[dict[str, Any]]:
    """|both| / |either| of every two templates, and its mean over random sets of the same sizes; None where both are empty."""
    cells = []
    for row, first in members.items():
        for column, second in members.items():
            both = len(np.intersect1d(first, second))
            either = len(first) + len(second) - both
            same = row == column
            chance = None if not either else 1.0 if same else expected_jaccard(len(first), len(second), neurons)
            cells.append({"row": row, "column": column, "value": both / either if either else None, "random": chance})
    return cells


def _average(cells: list[dict[str, Any]], name: str) -> dict[str, float | None]:
    """Mean overlap of one template with those of the other classes."""
    others = [
        cell
        for cell in cells
        if cell["row"] == name and cell["column"] not in (name, ALL) and cell["value"] is not None
    ]
    if not others or name == ALL:
        return {"overlap": None, "overlap_random": None}
    return {
        "overlap": float(np.mean([cell["value"] for cell in others])),
        "overlap_random": float(np.mean([cell["random"] for cell in others])),
    }
