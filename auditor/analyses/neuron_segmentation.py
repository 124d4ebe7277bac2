"""Segmentation: what sensitive and insensitive neurons look at, on clean and on adversarial images."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.analysis import Analysis, Finding, Subject
from auditor.classifier import Classifier
from auditor.errors import EvaluationError
from auditor.flag import Flag
from auditor.neurons import list_layers
from auditor.probes.regions import Maps, darkened, maps_of, overlaps, thresholds_of
from auditor.randomness import derive_seed
from auditor.ranking.agreement import descending
from auditor.ranking.sensitivity import LayerSensitivity, SensitivityMeter
from auditor.report.blocks import Column, Image, ImageRow, Images, Measure, Measures, Section, Table, Text
from auditor.report.pictures import picture
from auditor.statistics.means import Mean

LEAST_SIDE = 8
"""By default the last layer whose maps have at least 8 pixels on a side: coarser ones show little of where a neuron looks."""

GROUPS = {
    "most": "most sensitive",
    "least": "least sensitive",
    "random": "random others",
}


class NeuronSegmentation(Analysis):
    """What the most and the least sensitive neurons look at, before and after the attack (Zhang et al. 2020, arXiv 1909.06978).

    As in their Fig. 4 to 7, after Bau et al. 2017 (arXiv 1704.05796): a neuron's map is enlarged to the size of the image,
    and what lies below a high quantile of its clean activations is darkened. Shown are the images that excite a neuron
    most, and their adversarial twins under the same threshold. How far the two regions overlap is measured on all images.
    """

    title: ClassVar[str] = "What sensitive neurons look at"
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

    @property
    def cost(self) -> float:
        return 4.0

    def run(self, subject: Subject) -> Finding:
        name = self._layer(subject.classifier)
        layer = self._sensitivity(subject, name)
        groups = self.groups(layer, subject.seed)
        neurons = np.concatenate(list(groups.values()))
        maps = self.maps(subject, name, neurons)
        thresholds = thresholds_of(maps.clean, self.share)
        overlap = overlaps(maps.clean, maps.moved, thresholds)
        placed = [(group, neuron) for group, members in groups.items() for neuron in members.tolist()]
        shown = [place for place, (group, _) in enumerate(placed) if group != "random"]
        pictures = self._pictures(subject, maps, thresholds, shown)
        rows = [
            {
                "group": group,
                "neuron": neuron,
                "sensitivity": float(layer.sensitivity[neuron]),
                "threshold": float(thresholds[place]),
                "overlap": Mean.of_shares(overlap[:, place]).model_dump(),
                "pictures": pictures.get(place, []),
            }
            for place, (group, neuron) in enumerate(placed)
        ]
        together = {group: _together(overlap, rows, group) for group in groups}
        data = {
            "layer": name,
            "size": list(maps.clean.shape[2:]),
            "neurons": len(layer.sensitivity),
            "images": len(maps.samples),
            "pairs": subject.pairs_from,
            "rows": rows,
            "overlap": {group: mean.model_dump() for group, mean in together.items()},
        }
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=_doubts(together))

    def groups(self, layer: LayerSensitivity, seed: int) -> dict[str, NDArray[np.int64]]:
        """The most and the least sensitive neurons, most and least sensitive first, and as many others as a control.

        Neurons that do not change at all are left out: most of them are dead and look at nothing.
        """
        order = descending(layer.sensitivity)
        order = order[layer.sensitivity[order] > 0]
        if len(order) < 2:
            raise EvaluationError(
                f"In layer {layer.name} fewer than two neurons change under the attack.", "Pick another."
            )
        count = min(self.neurons, len(order) // 2)
        rest = order[count : len(order) - count]
        random = np.random.default_rng(derive_seed(seed, "random neurons", layer.name)).permutation(rest)[:count]
        groups = {"most": order[:count], "least": order[::-1][:count], "random": np.sort(random)}
        return {group: members for group, members in groups.items() if len(members)}

    def maps(self, subject: Subject, name: str, neurons: NDArray[np.int64]) -> Maps:
        """The maps of these neurons on the images searched."""
        order = np.random.default_rng(derive_seed(subject.seed, "segmentation")).permutation(len(subject.ids))
        wanted = subject.ids[order[: self.images]]
        return maps_of(
            subject.classifier, subject.pairs, name, neurons, wanted,
            on_progress=lambda share: subject.on_progress(0.5 + 0.5 * share, self.title),
        )  # fmt: skip

    def section(self, finding: Finding) -> Section:
        data = finding.data
        height, width = data["size"]
        sensitive, least = (
            tuple(self._row(row) for row in data["rows"] if row["group"] == group) for group in ("most", "least")
        )
        reading = (
            f"Bright: where the neuron is more active than on {100 * (1 - self.share):g} % of all places of clean images. Each "
            "clean image is followed by its adversarial twin, under the same threshold. The images are those that excite the "
            "neuron most, not chosen by hand."
        )
        return Section(
            key=self.kind,
            title=self.title,
            blocks=(
                Text(
                    text=f"Layer {data['layer']}: {data['neurons']} neurons with maps of {height} x {width}, on {data['images']} "
                    f"images. Twins: {data['pairs']}."
                ),
                Measures(
                    items=tuple(
                        Measure(
                            title=f"Overlap of regions, {GROUPS[group]}",
                            explanation="Intersection over union of the regions that a neuron looks at on an image and on its "
                            "twin, averaged over the neurons, then over the images (n) where there is such a region.",
                            **mean,
                        )
                        for group, mean in data["overlap"].items()
                    )
                ),
                Images(title="The most sensitive neurons", rows=sensitive, reading=reading),
                Images(title="The least sensitive neurons", rows=least, reading=reading),
                Table(
                    title="Neurons in numbers",
                    columns=(
                        Column(key="group", title="Group"),
                        Column(key="neuron", title="Neuron"),
                        Column(key="sensitivity", title="Sensitivity", format=".4g"),
                        Column(key="overlap", title="Overlap [95 % interval]"),
                        Column(key="images", title="Images with a region"),
                    ),
                    rows=tuple(
                        {"group": GROUPS[row["group"]], "neuron": row["neuron"], "sensitivity": row["sensitivity"]}
                        | {"overlap": str(Mean.model_validate(row["overlap"])), "images": row["overlap"]["n"]}
                        for row in data["rows"]
                    ),
                    caption="'Random others': as many neurons drawn from between the two groups, as a control.",
                ),
            ),
        )

    def _row(self, row: dict[str, Any]) -> ImageRow:
        return ImageRow(
            title=f"Neuron {row['neuron']}, sensitivity {row['sensitivity']:.4g}",
            images=tuple(Image.model_validate(item) for item in row["pictures"]),
        )

    def _strongest(self, maps: Maps, place: int) -> list[int]:
        """The images with the highest activations of one neuron, by their place among the maps."""
        peaks = maps.clean[:, place].flatten(1).amax(1).double().numpy()
        return [int(index) for index in descending(peaks)[: self.shown]]

    def _pictures(
        self, subject: Subject, maps: Maps, thresholds: NDArray[np.float64], shown: list[int]
    ) -> dict[int, list[dict[str, Any]]]:
        """For the neurons in these places: clean and adversarial picture, in turn, of the images that excite them most."""
        wanted = {place: self._strongest(maps, place) for place in shown}
        needed = maps.samples[sorted({index for indices in wanted.values() for index in indices})]
        images: dict[int, tuple[Tensor, Tensor]] = {}
        for pair in subject.pairs:
            for row in np.flatnonzero(np.isin(pair.sample, needed)).tolist():
                images[int(pair.sample[row])] = pair.x[row].float().cpu(), pair.x_adv[row].float().cpu()

        def drawn(place: int, index: int) -> list[dict[str, Any]]:
            sample = int(maps.samples[index])
            name = subject.dataset.sample_name(sample)
            sides = zip(("clean", "adversarial"), images[sample], (maps.clean, maps.moved), strict=True)
            return [
                picture(
                    darkened(image, activity[index, place], float(thresholds[place])),
                    f"{what} {name}",
                    f"where the neuron looks, {what} image {name}",
                ).model_dump()
                for what, image, activity in sides
            ]

        return {place: [item for index in indices for item in drawn(place, index)] for place, indices in wanted.items()}

    def _sensitivity(self, subject: Subject, name: str) -> LayerSensitivity:
        meter = SensitivityMeter(subject.classifier)
        for pair in subject.pairs:
            meter.add(pair.x, pair.x_adv)
            subject.on_progress(0.5 * meter.images / len(subject.pairs), self.title)
        return next(layer for layer in meter.layers() if layer.name == name)

    def _layer(self, classifier: Classifier) -> str:
        layers = [layer for layer in list_layers(classifier) if len(layer.spatial) == 2]
        if self.layer:
            if self.layer not in [layer.name for layer in layers]:
                raise EvaluationError(f"The network has no layer {self.layer} with maps.", "Pick one from its layers.")
            return self.layer
        if not layers:
            raise EvaluationError("The network has no layer with maps, so that no place in an image can be shown.")
        candidates = [layer for layer in layers if layer.kind == "activation"] or layers
        fine = [layer for layer in candidates if min(layer.spatial) >= LEAST_SIDE]
        return fine[-1].name if fine else max(candidates, key=lambda layer: min(layer.spatial)).name


def _together(overlap: NDArray[np.float64], rows: list[dict[str, Any]], group: str) -> Mean:
    """The mean over a group's neurons of each image, then over images."""
    part = overlap[:, [row["group"] == group for row in rows]]
    counts = (~np.isnan(part)).sum(1)
    return Mean.of_shares(np.where(counts > 0, np.nansum(part, axis=1) / np.maximum(counts, 1), np.nan))


def _doubts(together: dict[str, Mean]) -> tuple[Flag, ...]:
    most, least = together["most"], together["least"]
    if most.low is None or least.high is None or most.low <= least.high:
        return ()
    return (
        Flag(
            name="sensitive neurons keep looking at the same places",
            severity="info",
            message="The attack moves what the most sensitive neurons look at less than what the least sensitive ones do.",
            evidence=f"Overlap of the regions: {most} for the most, {least} for the least sensitive neurons.",
            remedy="Sensitivity depends on the scale of a neuron's output: look at a layer after its normalisation.",
        ),
    )
