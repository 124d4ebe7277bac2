"""Neuron sensitivity and sensitivity ratio of every layer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from auditor.analysis import Analysis, Finding, MeasuredLayer, NeuronMeasure, Subject
from auditor.errors import EvaluationError
from auditor.flag import Flag
from auditor.ranking.agreement import random_spearman, shared_front
from auditor.ranking.sensitivity import LayerSensitivity, SensitivityMeter, ZeroRule
from auditor.report.blocks import AnyBlock, Column, Figure, Measure, Measures, Section, Table, Text
from auditor.statistics.association import spearman
from auditor.twins.stored import successes


class NeuronSensitivity(Analysis):
    """How much each neuron's output changes between an image and its adversarial twin (Zhang et al. 2020, arXiv 1909.06978).

    Neuron sensitivity (eq. 1) is the mean absolute change of a neuron's output; the sensitivity ratio (eq. 11) divides
    the change by the size of the clean output, image by image. The most sensitive share of each layer's neurons (eq. 2)
    is marked. Both come from two forward passes, the clean and the adversarial one, over every convolution, linear,
    normalisation and activation layer.
    """

    title: ClassVar[str] = "Neuron sensitivity"
    standard: ClassVar[bool] = True
    kind: Literal["neuron_sensitivity"] = "neuron_sensitivity"
    top: float = Field(
        0.1, gt=0, le=1, description="Share of a layer's neurons that count as sensitive (at least one)."
    )
    zero: ZeroRule = Field(
        "one",
        description="Ratio of a neuron whose clean output is zero: 1, leave the image out, or divide by the norm + 1e-6.",
    )
    only_success: bool = Field(False, description="Use only the images on which the attack succeeded.")

    def measure(self, subject: Subject) -> tuple[list[LayerSensitivity], int]:
        """Every layer in the order of execution, and the number of images used."""
        meter = SensitivityMeter(subject.classifier, self.zero)
        seen = 0
        for pair in subject.pairs:
            seen += len(pair.sample)
            pair = successes(pair) if self.only_success else pair
            if len(pair.sample):
                meter.add(pair.x, pair.x_adv)
            subject.on_progress(seen / len(subject.pairs), self.title)
        if meter.images == 0:
            raise EvaluationError(
                "Neuron sensitivity has no image to look at: the attack succeeded on none.",
                "Set only_success to false.",
            )
        return meter.layers(), meter.images

    def run(self, subject: Subject) -> Finding:
        layers, used = self.measure(subject)
        return Finding(
            kind=self.kind,
            settings=self.settings(),
            data={"images": used, "pairs": subject.pairs_from, "layers": [layer.as_data() for layer in layers]},
            flags=_doubts(layers),
        )

    def section(self, finding: Finding) -> Section:
        layers = [LayerSensitivity.from_data(item) for item in finding.data["layers"]]
        profile = tuple(self._profile(depth, layer) for depth, layer in enumerate(layers, 1))
        percent = f"{100 * self.top:g} %"
        return Section(
            key=self.kind,
            title="Neuron sensitivity by layer",
            blocks=(
                Text(
                    text=f"Change of each neuron's output between {finding.data['images']} clean images and their twins: "
                    f"{finding.data['pairs']}."
                ),
                Figure(
                    chart="layer_lines",
                    title="Sensitivity of each layer",
                    rows=profile,
                    options={
                        "fields": {"top_mean": f"most sensitive {percent}", "mean": "all neurons"},
                        "y": "mean |Δ output|",
                    },
                    reading=f"Each point is one layer, from input to output. 'Most sensitive {percent}' averages over the "
                    f"{percent} of the layer's neurons that change most, 'all neurons' over the whole layer. A rising line "
                    "means that the network amplifies the perturbation with depth. Layers differ in scale: compare a kind "
                    "with its like, or read the ratio below, which is free of scale.",
                    select="layer",
                ),
                Figure(
                    chart="layer_lines",
                    title="Sensitivity ratio of each layer",
                    rows=profile,
                    options={"fields": {"ratio_top_mean": f"most sensitive {percent}"}, "y": "|Δ output| / |output|"},
                    reading="The change divided by the size of the clean output, averaged over the same neurons. 1 means that "
                    f"the change is as large as the output. A clean output of zero counts as: {_ZERO_RULE[self.zero]}.",
                ),
                self._layers(profile),
                *_scale_of_convolutions(layers, self.top),
            ),
        )

    def detail(self, finding: Finding, path: tuple[str, ...]) -> tuple[AnyBlock, ...]:
        """The neurons of a layer, most sensitive first; or one of these neurons among the others."""
        found = next((item for item in finding.data["layers"] if item["name"] == path[0]), None)
        if found is None:
            return ()
        layer = LayerSensitivity.from_data(found)
        rows = self._neurons(layer)
        if len(path) > 1:
            return tuple(_neuron(layer, row) for row in rows if str(row["neuron"]) == path[1])
        count = sum(row["marked"] == "yes" for row in rows)
        return (
            Text(
                text=f"{layer.name}: {layer.type}, {len(rows)} neurons; marked are the most sensitive ({count}). The clean "
                f"output is exactly zero in {100 * layer.zero_share:.1f} % of all cases (image and neuron)."
            ),
            Figure(
                chart="neuron_values",
                title=f"Neurons of {layer.name}, most sensitive first",
                rows=rows,
                options={"y": "mean |Δ output|", "marked": "most sensitive"},
                reading="Each bar is one neuron: a channel, or a unit of a linear layer.",
                select="neuron",
            ),
            Table(
                title=f"Most sensitive neurons of {layer.name}",
                columns=(
                    Column(key="rank", title="Rank"),
                    Column(key="neuron", title="Neuron"),
                    Column(key="value", title="Sensitivity", format=".5g"),
                    Column(key="ratio", title="Ratio", format=".4g"),
                ),
                rows=rows[:20],
            ),
        )

    def neuron_measures(self, finding: Finding) -> tuple[NeuronMeasure, ...]:
        layers = [LayerSensitivity.from_data(item) for item in finding.data["layers"]]
        tops = [layer.top(self.top) for layer in layers]
        marked_as = f"most sensitive {100 * self.top:g} %"
        return (
            NeuronMeasure(
                "sensitivity", self.title, "mean |Δ output|",
                "Large: the neuron's output changes much under attack. Layers differ in scale.", marked_as,
                tuple(MeasuredLayer(one.name, one.kind, one.sensitivity, top) for one, top in zip(layers, tops, strict=True)),
            ),
            NeuronMeasure(
                "ratio", "Sensitivity ratio", "|Δ output| / |output|",
                "1 means that the change under attack is as large as the output itself.", marked_as,
                tuple(MeasuredLayer(one.name, one.kind, one.ratio, top) for one, top in zip(layers, tops, strict=True)),
            ),
        )  # fmt: skip

    def _layers(self, profile: tuple[dict[str, Any], ...]) -> Table:
        percent = f"{100 * self.top:g} %"
        return Table(
            title="Layers in numbers",
            columns=(
                Column(key="layer", title="Layer"),
                Column(key="kind", title="Kind"),
                Column(key="neurons", title="Neurons"),
                Column(key="mean", title="Sensitivity, all", format=".4g"),
                Column(key="top_mean", title=f"Sensitivity, top {percent}", format=".4g"),
                Column(key="ratio_top_mean", title=f"Ratio, top {percent}", format=".4g"),
                Column(key="zero_share", title="Clean output zero", format=".1%"),
            ),
            rows=profile,
            caption="'Clean output zero': share of all cases (image and neuron) in which the clean output is exactly zero, so "
            f"that its ratio is set by the rule '{_ZERO_RULE[self.zero]}'. Where it is large, the rule shapes the ratio.",
        )

    def _neurons(self, layer: LayerSensitivity) -> tuple[dict[str, Any], ...]:
        """One row per neuron, most sensitive first."""
        top = set(layer.top(self.top).tolist())
        return tuple(
            {
                "rank": rank,
                "neuron": int(neuron),
                "value": float(layer.sensitivity[neuron]),
                "ratio": None if np.isnan(layer.ratio[neuron]) else float(layer.ratio[neuron]),
                "marked": "yes" if int(neuron) in top else "no",
            }
            for rank, neuron in enumerate(np.argsort(-layer.sensitivity, kind="stable"), 1)
        )

    def _profile(self, depth: int, layer: LayerSensitivity) -> dict[str, Any]:
        top = layer.top(self.top)
        return {
            "layer": layer.name,
            "depth": depth,
            "kind": layer.kind,
            "neurons": len(layer.sensitivity),
            "mean": float(layer.sensitivity.mean()),
            "top_mean": float(layer.sensitivity[top].mean()),
            "ratio_top_mean": _mean(layer.ratio[top]),
            "zero_share": layer.zero_share,
        }


_ZERO_RULE = {"one": "ratio 1", "skip": "left out", "eps": "divided by the norm + 1e-6"}


def _scale_of_convolutions(layers: list[LayerSensitivity], top: float) -> tuple[Table, ...]:
    """How the ranking of a convolution's neurons changes with the normalisation that follows; nothing without any."""
    rows = []
    for conv, norm in pairwise(layers):
        if (conv.kind, norm.kind) != ("conv", "norm") or len(conv.sensitivity) != len(norm.sensitivity):
            continue
        chance = random_spearman(len(conv.sensitivity))
        rows.append(
            {
                "conv": conv.name,
                "norm": norm.name,
                "neurons": len(conv.sensitivity),
                "agreement": spearman(conv.sensitivity, norm.sensitivity).value,
                "chance": None if len(conv.sensitivity) < 2 else chance.high,
                "shared": shared_front(conv.sensitivity, norm.sensitivity, len(conv.top(top))),
            }
        )
    if not rows:
        return ()
    return (
        Table(
            title="Convolutions before and after their normalisation",
            columns=(
                Column(key="conv", title="Convolution"),
                Column(key="norm", title="Normalisation"),
                Column(key="neurons", title="Neurons"),
                Column(key="agreement", title="Rank correlation", format=".3f"),
                Column(key="chance", title="Chance reaches", format=".3f"),
                Column(key="shared", title="Sensitive in both", format=".0%"),
            ),
            rows=tuple(rows),
            caption="A convolution's output before normalisation has an arbitrary scale: a filter made larger changes nothing "
            "after it. So a neuron may rank high before the normalisation only because its filter is large. Spearman's "
            "rank correlation of the two rankings of sensitivity: 1 where they agree; in 95 % of random rankings it "
            "stays within ± the value under 'Chance reaches'. 'Sensitive in both': share of the most sensitive neurons "
            "before that are among those after. Where the two disagree, trust the one after.",
        ),
    )


def _neuron(layer: LayerSensitivity, row: dict[str, Any]) -> Measures:
    """One neuron in numbers, beside its layer."""
    return Measures(
        items=(
            Measure(
                title=f"Sensitivity of neuron {row['neuron']}",
                value=row["value"],
                higher_is_better=False,
                explanation=f"Mean absolute change of its output; the layer's mean is {layer.sensitivity.mean():.4g}.",
            ),
            Measure(
                title="Sensitivity ratio",
                value=row["ratio"],
                higher_is_better=False,
                explanation="The change divided by the size of its clean output, averaged over the images.",
            ),
            Measure(
                title="Rank in its layer",
                value=row["rank"],
                explanation=f"Of {len(layer.sensitivity)} neurons, 1 is the most sensitive.",
            ),
        )
    )


def _mean(values: NDArray[np.float64]) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _doubts(layers: list[LayerSensitivity]) -> tuple[Flag, ...]:
    still = [layer.name for layer in layers if not layer.sensitivity.any()]
    if not still:
        return ()
    return (
        Flag(
            name="silent layers",
            severity="warning",
            message="Some layers do not change at all under attack.",
            evidence=f"{len(still)} of {len(layers)} layers, the first: {still[0]}.",
            remedy="The network may round or saturate there, which also hides gradients from attacks.",
        ),
    )
