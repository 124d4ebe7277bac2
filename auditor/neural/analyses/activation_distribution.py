"""Activation distribution of the last layer: how the features are spread, and how many of them are zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from auditor.kit.flag import Flag
from auditor.neural.analysis import Analysis, NeuronMeasure, Subject, before_head
from auditor.neural.delta.activation_spread import IMAGES, ActivationSpread, LayerActivations, SpreadScale
from auditor.neural.delta.values import activations_of
from auditor.neural.figures import by_value, neuron_values, value_rows
from auditor.neural.found import neuron_in
from auditor.neural.probes.head import head_of
from auditor.show.blocks import AnyBlock, Figure, Measure, Measures, Text


class ActivationDistribution(Analysis[LayerActivations]):
    """How the outputs of the last hidden layer are spread, and how many are zero (Suri and Evans 2020, arXiv 2003.09372).

    The outputs are scaled from 0 (the lowest on the clean images) to 1 (the highest), as in Fig. 3 of the paper, which finds
    more zeros after adversarial training and almost none after training for low sensitivity.
    """

    title: ClassVar[str] = "Activation distribution"
    heading: ClassVar[str] = "Activations of the last layer"
    kind: Literal["activation_distribution"] = "activation_distribution"
    scale: SpreadScale = Field(
        "layer", description="What the lowest and the highest output are taken over: the whole layer, or each neuron."
    )
    bins: int = Field(50, ge=2, le=1000, description="Bins of the histogram between 0 and 1.")

    def find(self, subject: Subject) -> LayerActivations:
        classifier, head = subject.classifier, head_of(subject.classifier)
        spread = ActivationSpread(
            classifier, head, activations_of(classifier, head, subject.pairs), self.scale, self.bins
        )
        for pair in self.each(subject, 2, of=2):
            spread.add(pair)
        return spread.found(subject.pairs_from)

    def doubts(self, found: LayerActivations) -> Iterator[Flag]:
        if found.highest <= found.lowest:
            yield Flag(
                name="constant features",
                severity="warning",
                message="The last hidden layer gives the same output for every neuron and every image.",
                evidence=f"All outputs are {found.lowest:.4g}.",
                remedy="The network ignores its input: check the weights and the normalization.",
            )

    def blocks(self, found: LayerActivations) -> Iterator[AnyBlock]:
        yield Text(
            text=f"The {found.neurons} inputs of {found.layer} on {found.images} clean images, from {found.lowest:.4g} to "
            f"{found.highest:.4g}, and on their twins: {found.twins}."
        )
        silent = len(found.by_neuron.silent)
        always_zero = Measure(
            title="Neurons that are always zero",
            value=silent / found.neurons,
            unit="%",
            explanation=f"{silent} of the {found.neurons} neurons, on clean images.",
        )
        why = "Share of the neurons that are exactly zero, mean over the images."
        zero = [
            found.zeros[name].measure(f"Zero on {title}", unit="%", explanation=why) for name, title in IMAGES.items()
        ]
        yield Measures(items=(*zero, always_zero))
        over = "the layer" if self.scale == "layer" else "each neuron"
        yield Figure(
            chart="histogram",
            title="Distribution of the scaled activations",
            rows=found.bins(),
            options={
                "x": f"output, from the lowest (0) to the highest (1) of {over}",
                "y": "share of the outputs",
                "root": True,
            },
            reading="Each line counts the outputs of every neuron on every image. The vertical axis has a square-root "
            "scale, so small shares are visible. The first bin holds values at or close to zero. Outputs beyond the "
            f"clean range ({found.outside}) count in the outermost bins.",
        )
        yield neuron_values(
            "How often each neuron is zero",
            value_rows(by_value(enumerate(found.by_neuron.zeros)), max(1, found.neurons // 10)),
            "share of the clean images where it is zero",
            "most often active tenth",
            reading="Each bar is one neuron, the most often active first.",
        )

    def detail(self, found: LayerActivations, path: tuple[str, ...]) -> Iterator[AnyBlock]:
        """One neuron in numbers."""
        neuron, each, n = neuron_in(path[0], found.neurons), found.by_neuron, found.images
        if neuron is not None:
            yield Measures(
                items=(
                    Measure(title=f"Mean output of neuron {neuron}", value=each.mean[neuron], n=n),
                    Measure(title="Standard deviation", value=each.std[neuron], n=n),
                    Measure(title="Zero on clean images", value=each.zeros[neuron], n=n, unit="%"),
                    Measure(title="Zero on attacked images", value=each.zeros_attacked[neuron], n=n, unit="%"),
                )
            )

    def neuron_measures(self, found: LayerActivations) -> Iterator[NeuronMeasure]:
        each, silent = found.by_neuron, found.by_neuron.silent
        risen = [after - before for before, after in zip(each.zeros, each.zeros_attacked, strict=True)]
        yield NeuronMeasure(
            "zeros", "Zero on clean images", "share of the clean images where it is zero",
            "1: the neuron is silent on every clean image.", "always zero",
            (before_head(found.layer, each.zeros, silent),),
        )  # fmt: skip
        yield NeuronMeasure(
            "zeros_rise", "Zero more often under attack", "share of zeros, attacked minus clean",
            "Above 0: the attack switches the neuron off; below 0: it switches the neuron on.", "always zero when clean",
            (before_head(found.layer, risen, silent),),
        )  # fmt: skip
