"""Segmentation: what sensitive and insensitive neurons look at, on clean and on adversarial images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from auditor.kit.flag import Flag
from auditor.neural.analysis import Analysis, Subject
from auditor.neural.found import table
from auditor.neural.probes.looking import GROUPS, Looking, LookingNeuron, groups_of, layer_with_maps, looking
from auditor.neural.probes.regions import maps_of
from auditor.neural.ranking.sensitivity import SensitivityMeter
from auditor.neural.twins.rows import drawn_samples
from auditor.show.blocks import AnyBlock, Column, ImageRow, Images, Measures, Text


class NeuronSegmentation(Analysis[Looking]):
    """What the most and the least sensitive neurons look at, before and after the attack (Zhang et al. 2020, arXiv 1909.06978).

    As in their Fig. 4 to 7, after Bau et al. 2017 (arXiv 1704.05796): a neuron's map is enlarged to the size of the image,
    and what lies below a high quantile of its clean activations is darkened. Shown are the images that excite a neuron
    most, and their adversarial twins under the same threshold. How far the two regions overlap is measured on all images.
    """

    title: ClassVar[str] = "What sensitive neurons look at"
    passes: ClassVar[float] = 4.0
    kind: Literal["neuron_segmentation"] = "neuron_segmentation"
    layer: str = Field(
        "", description="Name of a layer with maps; empty: the last activation with maps of 8 x 8 or more."
    )
    neurons: int = Field(3, ge=1, le=8, description="How many of the most and of the least sensitive neurons.")
    shown: int = Field(3, ge=1, le=8, description="Images shown for each neuron.")
    images: int = Field(100, ge=1, le=300, description="Most images searched, drawn by the audit's seed.")
    share: float = Field(
        0.02,
        gt=0,
        lt=1,
        description="Share of a neuron's clean activations, over all images and places, that count as looking.",
    )

    def find(self, subject: Subject) -> Looking:
        """Two rounds over the pairs: how sensitive the neurons are, and the maps of those that are looked at."""
        name = layer_with_maps(subject.classifier, self.layer)
        meter = SensitivityMeter(subject.classifier)
        for pair in self.each(subject, 1, of=2):
            meter.add(pair.x, pair.x_adv)
        layer = next(layer for layer in meter.layers() if layer.name == name)
        groups = groups_of(layer, self.neurons, subject.seed)
        maps = maps_of(
            subject.classifier, subject.pairs, name, np.concatenate(list(groups.values())),
            drawn_samples(subject, self.images, "segmentation"),
            on_progress=lambda share: subject.on_progress(0.5 + 0.5 * share, self.title),
        )  # fmt: skip
        return looking(subject, layer, groups, maps, self.share, self.shown)

    def doubts(self, found: Looking) -> Iterator[Flag]:
        most, least = found.overlap["most"], found.overlap["least"]
        if most.low is not None and least.high is not None and most.low > least.high:
            yield Flag(
                name="sensitive neurons keep looking at the same places",
                severity="info",
                message="The attack changes where the most sensitive neurons look less than where the least sensitive "
                "ones look.",
                evidence=f"Overlap of the regions: {most} for the most, {least} for the least sensitive neurons.",
                remedy="Sensitivity depends on the scale of a neuron's output: look at a layer after its normalization.",
            )

    def blocks(self, found: Looking) -> Iterator[AnyBlock]:
        height, width = found.size
        yield Text(
            text=f"Layer {found.layer}: {found.neurons} neurons with maps of {height} x {width}, on {found.images} images. "
            f"Twins: {found.pairs}."
        )
        explanation = (
            "Intersection over union of the regions that a neuron looks at on an image and on its twin, averaged over the "
            "neurons, then over the images (n) where there is such a region."
        )
        yield Measures(
            items=tuple(
                mean.measure(f"Overlap of regions, {GROUPS[group]}", explanation=explanation)
                for group, mean in found.overlap.items()
            )
        )
        reading = (
            f"Bright: where the neuron is more active than on {100 * (1 - self.share):g} % of all places of clean images. Each "
            "clean image is followed by its adversarial twin, under the same threshold. The images are those that excite the "
            "neuron most, not chosen by hand."
        )
        yield Images(title="The most sensitive neurons", rows=_pictures(found.of("most")), reading=reading)
        yield Images(title="The least sensitive neurons", rows=_pictures(found.of("least")), reading=reading)
        yield table(
            found.rows,
            Column(key="group_title", title="Group"), "neuron", "sensitivity", "overlap",
            Column(key="overlap.n", title="Images with a region"),
            title="Neurons in numbers",
            caption="'Random others': as many neurons drawn from between the two groups, as a control.",
        )  # fmt: skip


def _pictures(neurons: list[LookingNeuron]) -> tuple[ImageRow, ...]:
    return tuple(
        ImageRow(title=f"Neuron {row.neuron}, sensitivity {row.sensitivity:.4g}", images=row.pictures)
        for row in neurons
    )
