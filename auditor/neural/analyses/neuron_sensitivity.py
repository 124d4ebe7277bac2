"""Neuron sensitivity and sensitivity ratio of every layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from auditor.kit.errors import EvaluationError
from auditor.kit.flag import Flag
from auditor.neural.analysis import Analysis, MeasuredLayer, NeuronMeasure, Subject
from auditor.neural.figures import layer_lines, neuron_values, profile
from auditor.neural.found import OfPairs, some_of, table
from auditor.neural.ranking.sensitivity import LayerSensitivity, SensitivityMeter, TopShare, ZeroRule
from auditor.neural.ranking.summaries import in_numbers, neurons, rescaled, sensitivity_summary
from auditor.neural.twins.stored import successes
from auditor.show.blocks import AnyBlock, Column, Text

ZERO_RULE: dict[ZeroRule, str] = {"one": "ratio 1", "skip": "left out", "eps": "divided by the norm + 1e-6"}


class Sensitivity(OfPairs):
    """Every layer in the order of execution."""

    layers: tuple[LayerSensitivity, ...]


class NeuronSensitivity(Analysis[Sensitivity]):
    """How much each neuron's output changes between an image and its adversarial twin (Zhang et al. 2020, arXiv 1909.06978).

    Neuron sensitivity (eq. 1) is the mean absolute change of a neuron's output; the sensitivity ratio (eq. 11) divides
    the change by the size of the clean output, image by image. The most sensitive share of each layer's neurons (eq. 2)
    is marked. Both come from two forward passes, the clean and the adversarial one, over every convolution, linear,
    normalization and activation layer.
    """

    title: ClassVar[str] = "Neuron sensitivity"
    heading: ClassVar[str] = "Neuron sensitivity by layer"
    standard: ClassVar[bool] = True
    passes: ClassVar[float] = 2.0
    kind: Literal["neuron_sensitivity"] = "neuron_sensitivity"
    top: TopShare = 0.1
    zero: ZeroRule = Field(
        "one",
        description="Ratio of a neuron whose clean output is zero: 1, leave the image out, or divide by the norm + 1e-6.",
    )
    only_success: bool = Field(False, description="Use only the images on which the attack succeeded.")

    def find(self, subject: Subject) -> Sensitivity:
        meter = SensitivityMeter(subject.classifier, self.zero)
        for whole in self.each(subject):
            pair = successes(whole) if self.only_success else whole
            if len(pair.sample):
                meter.add(pair.x, pair.x_adv)
        if meter.images == 0:
            raise EvaluationError(
                "Neuron sensitivity has no image to look at: the attack succeeded on none.",
                "Set only_success to false.",
            )
        return Sensitivity(images=meter.images, pairs=subject.pairs_from, layers=tuple(meter.layers()))

    def doubts(self, found: Sensitivity) -> Iterator[Flag]:
        still = [layer for layer in found.layers if not layer.sensitivity.any()]
        if still:
            yield Flag(
                name="silent layers",
                severity="warning",
                message="Some layers do not change at all under attack.",
                evidence=f"{some_of(still, found.layers)}.",
                remedy="The network may round or saturate there, which also hides gradients from attacks.",
            )

    def blocks(self, found: Sensitivity) -> Iterator[AnyBlock]:
        percent = f"{100 * self.top:g} %"
        layers = [sensitivity_summary(layer, self.top) for layer in found.layers]
        rows = profile(layers, **{key: key for key in ("mean", "top_mean", "ratio_top_mean", "zero_share")})
        yield Text(
            text=f"Change of each neuron's output between {found.images} clean images and their twins: {found.pairs}."
        )
        yield layer_lines(
            "Sensitivity of each layer",
            rows,
            {"top_mean": f"most sensitive {percent}", "mean": "all neurons"},
            "mean |Δ output|",
            reading=f"Each point is one layer, from input to output. 'Most sensitive {percent}' averages over the "
            f"{percent} of the layer's neurons that change most, 'all neurons' over the whole layer. A rising line "
            "means that the network amplifies the perturbation with depth. Layers differ in scale: compare layers of "
            "the same kind, or read the ratio below, which has no scale.",
            select="layer",
        )
        yield layer_lines(
            "Sensitivity ratio of each layer",
            rows,
            {"ratio_top_mean": f"most sensitive {percent}"},
            "|Δ output| / |output|",
            reading="The change divided by the size of the clean output, averaged over the same neurons. 1 means that "
            f"the change is as large as the output. A clean output of zero counts as: {ZERO_RULE[self.zero]}.",
        )
        yield table(
            layers,
            "name", "kind", "neurons", "mean",
            Column(key="top_mean", title=f"Sensitivity, top {percent}", format=".4g"),
            Column(key="ratio_top_mean", title=f"Ratio, top {percent}", format=".4g"),
            "zero_share",
            title="Layers in numbers",
            caption="'Clean output zero': share of all cases (image and neuron) in which the clean output is exactly zero, so "
            f"that its ratio is set by the rule '{ZERO_RULE[self.zero]}'. Where it is large, the rule shapes the ratio.",
        )  # fmt: skip
        scales = tuple(rescaled(found.layers, self.top))
        if scales:
            yield table(
                scales,
                "conv", "norm", "neurons", "agreement", "chance", "shared",
                title="Convolutions before and after their normalization",
                caption="A convolution's output before normalization has an arbitrary scale: a filter made larger changes "
                "nothing after it. So a neuron may rank high before the normalization only because its filter is large. "
                "Spearman's rank correlation of the two rankings of sensitivity: 1 where they agree; in 95 % of random "
                "rankings it stays within ± the value under 'Chance reaches'. 'Sensitive in both': share of the most sensitive "
                "neurons before that are among those after. Where the two disagree, trust the one after.",
            )  # fmt: skip

    def detail(self, found: Sensitivity, path: tuple[str, ...]) -> Iterator[AnyBlock]:
        """The neurons of a layer, most sensitive first; or one of these neurons among the others."""
        for layer in (layer for layer in found.layers if layer.name == path[0]):
            rows = neurons(layer, self.top)
            if len(path) > 1:
                yield from (in_numbers(row, layer) for row in rows if str(row.neuron) == path[1])
                return
            yield Text(
                text=f"{layer.name}: {layer.type}, {layer.neurons} neurons; marked are the most sensitive "
                f"({len(layer.top(self.top))}). The clean output is exactly zero in {100 * layer.zero_share:.1f} % of all cases "
                "(image and neuron)."
            )
            yield neuron_values(
                f"Neurons of {layer.name}, most sensitive first", rows, "mean |Δ output|", "most sensitive",
                reading="Each bar is one neuron: a channel, or a unit of a linear layer.",
            )  # fmt: skip
            title = f"Most sensitive neurons of {layer.name}"
            yield table(rows[:20], "rank", "neuron", "value", "ratio", title=title)

    def neuron_measures(self, found: Sensitivity) -> Iterator[NeuronMeasure]:
        for key, title, unit, reading in (
            (
                "sensitivity", self.title, "mean |Δ output|",
                "Large: the neuron's output changes much under attack. Layers differ in scale.",
            ),
            (
                "ratio", "Sensitivity ratio", "|Δ output| / |output|",
                "1 means that the change under attack is as large as the output itself.",
            ),
        ):  # fmt: skip
            layers = (MeasuredLayer(one.name, one.kind, getattr(one, key), one.top(self.top)) for one in found.layers)
            yield NeuronMeasure(key, title, unit, reading, f"most sensitive {100 * self.top:g} %", tuple(layers))
