"""Delta-values of interior neurons: how far one channel must move to change the prediction, searched and verified."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from auditor.analysis import Analysis, Finding, MeasuredLayer, NeuronMeasure, Subject, measured_layer
from auditor.classifier import Classifier
from auditor.delta.crossings import MARGIN, Crossings, first_crossings
from auditor.delta.nudge import NudgedMargins
from auditor.delta.summary import layer_data
from auditor.delta.survey import before_each_change_of_size, in_float64, spreads, surveyed
from auditor.errors import EvaluationError
from auditor.flag import Flag
from auditor.metrics import Rate
from auditor.neurons import Layer, list_layers
from auditor.report.blocks import AnyBlock, Column, Figure, Measure, Measures, Section, Table, Text
from auditor.twins.thinned import Thinned

LAYERS = 6
"""Layers that are looked at, at most, unless they are named."""
PRECISE = 7 * 8
"""What narrowing a value down and verifying it costs: seven passes in float64, each as long as eight in float32."""
AUDIT = 500
"""Samples that an audit gives its analyses unless told otherwise; the cost is spread over them."""


class InteriorDelta(Analysis):
    """How far one interior neuron must move to change the prediction (after Suri and Evans 2020, arXiv 2003.09372).

    Delta, which the paper defines for any neuron and computes for the last layer, is searched for in any layer: a number is
    added to all of a channel's output map until the prediction changes. The first crossing on a geometric grid, in both
    directions, is narrowed down and verified in float64: Delta (1 + 1e-4) changes the prediction, Delta (1 - 1e-4) does not.
    """

    title: ClassVar[str] = "Delta-values of interior neurons"
    kind: Literal["interior_delta"] = "interior_delta"
    layers: str = Field(
        "",
        description="Names of the layers, separated by +; empty: the last activation at each size of map, at most 6.",
    )
    neurons: int = Field(16, ge=1, le=4096, description="Neurons of each layer, at most.")
    choose: Literal["evenly", "gradient"] = Field(
        "evenly",
        description="Which neurons: evenly spaced over the layer, or those with the smallest first-order estimate of Delta.",
    )
    images: int = Field(32, ge=1, le=10_000, description="Images, at most, evenly spaced over the samples.")
    bound: float = Field(
        10.0, gt=0, le=1e6, description="Largest change that is tried, in the neuron's standard deviations."
    )
    points: int = Field(
        20,
        ge=2,
        le=10_000,
        description="Changes tried in each direction, in equal ratios over two decades; a change of prediction below those is "
        "found too, unless the prediction has changed back before the first of them.",
    )

    @property
    def cost(self) -> float:
        return 1 + LAYERS * self.neurons * (2 * self.points + PRECISE) * self.images / AUDIT

    def run(self, subject: Subject) -> Finding:
        layers = self._layers(subject.classifier)
        std = spreads(subject.classifier, layers, subject.pairs)
        exact, pairs = in_float64(subject.classifier), Thinned(subject.pairs, self.images)
        survey = surveyed(exact, layers, pairs)
        images = sum(map(len, survey.predicted))
        if not images:
            raise EvaluationError("Every image has two equal highest logits: there is no prediction that could change.")
        found = []
        for place, layer in enumerate(layers):
            chosen = self._chosen(survey.estimates[layer.name], std[layer.name])
            margins, crossings = NudgedMargins(subject.classifier, exact, layer.name), list[Crossings]()
            done = 0
            for pair, standing, predicted in zip(pairs, survey.standing, survey.predicted, strict=True):
                lines = margins.lines(pair.x[standing], predicted, chosen, subject.batch_size)
                reach = (self.bound * std[layer.name][chosen]).repeat(len(predicted))
                crossings.append(first_crossings(lines, reach, points=self.points, per_call=subject.batch_size))
                done += len(standing)
                subject.on_progress((place + done / len(pairs)) / len(layers), f"{self.title}: {layer.name}")
            estimate = survey.estimates[layer.name][:, chosen]
            found.append(layer_data(layer, margins.exact.cut, chosen, std[layer.name], estimate, crossings))
        data = {"images": images, "tied": len(pairs) - images, "layers": found}
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=_doubts(found))

    def section(self, finding: Finding) -> Section:
        data = finding.data
        return Section(
            key=self.kind,
            title="Delta-values of interior neurons",
            blocks=(
                Text(
                    text=f"The smallest number that, added to all of one neuron's output map, changes the prediction: on "
                    f"{data['images']} clean images, for at most {self.neurons} neurons of each layer "
                    f"({_CHOICE[self.choose]}), up to {self.bound:g} standard deviations (σ) of the neuron's output in either "
                    f"direction. No attack is involved. {data['tied']} images with two equal highest logits are left out."
                ),
                Figure(
                    chart="layer_lines",
                    title="Delta-values of each layer",
                    rows=tuple(_profile(layer) for layer in data["layers"]),
                    options={
                        "fields": {
                            "median": "all neurons (median)",
                            "nearest": "most sensitive of each image (median)",
                        },
                        "y": "|Δ| / σ",
                    },
                    reading="Each point is one layer. Low means that a small change of a single neuron there changes the "
                    f"prediction. A point is missing where more than half of the values lie beyond {self.bound:g} σ.",
                    select="layer",
                ),
                self._table(data),
            ),
        )

    def detail(self, finding: Finding, path: tuple[str, ...]) -> tuple[AnyBlock, ...]:
        """The neurons of a layer, most sensitive first; or one of these neurons."""
        layer = next((item for item in finding.data["layers"] if item["layer"] == path[0]), None)
        if layer is None:
            return ()
        if len(path) > 1:
            return tuple(_neuron(layer, row, self.bound) for row in layer["chosen"] if str(row["neuron"]) == path[1])
        known = _by_sensitivity(layer)
        lowest = _most_sensitive(layer)
        return (
            Text(
                text=f"{layer['layer']}: {layer['type']}, {layer['neurons']} neurons, {len(layer['chosen'])} of them searched; "
                f"{layer['still']} never vary on these images and have no σ to search by. {len(known)} have a median within "
                f"{self.bound:g} σ."
            ),
            Figure(
                chart="neuron_values",
                title=f"Neurons of {layer['layer']}, most sensitive first",
                rows=tuple(
                    {
                        "neuron": row["neuron"],
                        "value": row["median"],
                        "marked": "yes" if row["neuron"] in lowest else "no",
                    }
                    for row in known
                ),
                options={"y": "median |Δ| / σ", "marked": "most sensitive tenth", "log": True},
                reading="Each point is one neuron: the median over the images, values beyond the bound counting as the largest.",
                select="neuron",
            ),
        )

    def neuron_measures(self, finding: Finding) -> tuple[NeuronMeasure, ...]:
        def of(layer: dict[str, Any]) -> MeasuredLayer:
            found = {row["neuron"]: row["median"] for row in layer["chosen"]}
            values = [found.get(neuron) for neuron in range(layer["neurons"])]
            return measured_layer(layer["layer"], layer["kind"], values, _most_sensitive(layer))

        return (
            NeuronMeasure(
                "delta", self.title, "median |Δ| / σ",
                "Small: a small change of this neuron alone changes the prediction. No value: not searched, or beyond "
                f"{self.bound:g} σ on half of the images.",
                "most sensitive tenth of those searched", tuple(of(layer) for layer in finding.data["layers"]),
            ),
        )  # fmt: skip

    def _layers(self, classifier: Classifier) -> list[Layer]:
        if not self.layers:
            return before_each_change_of_size(classifier, LAYERS)
        known = {layer.name: layer for layer in list_layers(classifier)}
        wanted = [name.strip() for name in self.layers.split("+")]
        missing = [name for name in wanted if name not in known]
        if missing:
            raise EvaluationError(f"The network has no layer {', '.join(missing)}.", f"It has {', '.join(known)}.")
        return [known[name] for name in dict.fromkeys(wanted)]

    def _chosen(self, estimate: Tensor, std: Tensor) -> Tensor:
        """Indices of the neurons to search, of those that vary at all, ascending."""
        alive = (std > 0).nonzero().squeeze(1)
        count = min(self.neurons, len(alive))
        if self.choose == "gradient":
            # The median over the images is finite where the gradient is not zero on most of them.
            score = (estimate[:, alive].abs() / std[alive]).median(0).values
            return alive[score.argsort(stable=True)[:count]].sort().values
        places = np.linspace(0, max(len(alive) - 1, 0), count).round().astype(np.int64)
        return alive[torch.from_numpy(places).to(alive.device)]

    def _table(self, data: dict[str, Any]) -> Table:
        return Table(
            title="What the search found",
            columns=(
                Column(key="layer", title="Layer"),
                Column(key="pairs", title="Values"),
                Column(key="beyond", title=f"Beyond {self.bound:g} σ"),
                Column(key="q25", title="25 % of |Δ| / σ", format=".3g"),
                Column(key="median", title="Median", format=".3g"),
                Column(key="q75", title="75 %", format=".3g"),
                Column(key="rises", title="Rises, not falls"),
                Column(key="spearman", title="First order: Spearman", format=".2f"),
                Column(key="within", title="First order within a factor 2"),
                Column(key="failed", title="Not verified"),
            ),
            rows=tuple(
                _profile(row)
                | {
                    "beyond": str(Rate.count(row["infinite"], row["pairs"])),
                    "rises": str(Rate.count(row["raised"], row["pairs"] - row["infinite"])),
                    "within": str(Rate.count(row["within_factor_2"], row["compared"])),
                    "failed": row["failed_beyond"] + row["failed_before"],
                }
                for row in data["layers"]
            ),
            caption="A value is one neuron on one image; intervals take values as independent. 'First order' is what the "
            "gradient alone predicts, compared where both it and the search give a value. 'Not verified' counts values where "
            f"Δ (1 + {MARGIN:g}) does not change the prediction or Δ (1 − {MARGIN:g}) does.",
        )


_CHOICE = {"evenly": "evenly spaced", "gradient": "smallest first-order estimate"}


def _profile(layer: dict[str, Any]) -> dict[str, Any]:
    """A layer without its neurons."""
    return {name: value for name, value in layer.items() if name != "chosen"}


def _neuron(layer: dict[str, Any], row: dict[str, Any], bound: float) -> Measures:
    n, finite = row["images"], row["images"] - row["infinite"]
    return Measures(
        items=(
            Measure(
                title=f"Median |Δ| / σ of neuron {row['neuron']}",
                value=row["median"],
                n=n,
                higher_is_better=True,
                explanation=f"The layer's median is {_shown(layer['median'], bound)}.",
            ),
            Measure(title="Lowest |Δ| / σ", value=row["lowest"], n=n, higher_is_better=True),
            Rate.count(row["infinite"], n).measure(f"Beyond {bound:g} σ", higher_is_better=True),
            Rate.count(row["raised"], finite).measure("Rises, not falls"),
            Measure(
                title="First-order estimate, median",
                value=row["first_order"],
                n=n,
                explanation="What the gradient alone predicts.",
            ),
            Measure(title="Standard deviation σ", value=row["std"]),
        )
    )


def _by_sensitivity(layer: dict[str, Any]) -> list[dict[str, Any]]:
    """The neurons of a layer whose median lies within the bound, most sensitive first."""
    return sorted((row for row in layer["chosen"] if row["median"] is not None), key=lambda row: row["median"])


def _most_sensitive(layer: dict[str, Any]) -> set[int]:
    """A tenth of those, at least one."""
    known = _by_sensitivity(layer)
    return {row["neuron"] for row in known[: max(1, len(known) // 10)]}


def _shown(value: float | None, bound: float) -> str:
    return f"beyond {bound:g}" if value is None else f"{value:.4g}"


def _doubts(layers: list[dict[str, Any]]) -> tuple[Flag, ...]:
    failed = sum(layer["failed_beyond"] + layer["failed_before"] for layer in layers)
    if not failed:
        return ()
    found = sum(layer["pairs"] - layer["infinite"] for layer in layers)
    return (
        Flag(
            name="interior delta not verified",
            severity="warning",
            message="Some interior Delta-values do not mark a clean change of the prediction.",
            evidence=f"{failed} failures at Delta (1 ± {MARGIN:g}) among {found} values.",
            remedy="The prediction changes and changes back within that margin there; read these values as approximate.",
        ),
    )
