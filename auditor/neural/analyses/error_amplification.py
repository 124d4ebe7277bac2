"""Error amplification: how a perturbation grows from layer to layer, compared with noise of the same size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from auditor.kit.flag import Flag
from auditor.kit.statistics.estimate import Estimate
from auditor.models.neurons import KIND_TITLES
from auditor.neural.analysis import Analysis, Subject
from auditor.neural.figures import along_layers
from auditor.neural.found import Found, OfPairs, at, shown, table
from auditor.neural.probes.matched_noise import matched_noise
from auditor.neural.ranking.sensitivity import ImageMeans, ImageMeter, LayerSensitivity, SensitivityMeter, TopShare
from auditor.neural.ranking.summaries import SensitiveLayer
from auditor.show.blocks import AnyBlock, Column, Figure, Measures, Text

SERIES = {
    "adversarial": "attack, most sensitive neurons",
    "adversarial_all": "attack, all neurons",
    "noise": "noise, neurons most sensitive to it",
    "noise_all": "noise, all neurons",
}


class PerturbationSize(Found):
    """Mean L2 norm of the perturbation and of its noise."""

    adversarial: float
    noise: float


class AmplifyingLayer(SensitiveLayer):
    """One layer. The ratios are means over images: over its ``count`` most sensitive neurons, and over all (``_all``).

    ``difference``: attack minus noise, each on its own most sensitive neurons.
    """

    zero_share: float = shown("Clean output zero", ".1%")
    adversarial: Estimate
    adversarial_all: Estimate
    noise: Estimate
    noise_all: Estimate
    difference: Estimate = shown("Attack minus noise [95 % interval]")


class Amplification(OfPairs):
    """How much each layer moves."""

    size: PerturbationSize
    layers: tuple[AmplifyingLayer, ...]


class ErrorAmplification(Analysis[Amplification]):
    """How a perturbation grows relative to the features it meets (Zhang et al. 2020, arXiv 1909.06978, Fig. 13).

    The sensitivity ratio (eq. 11), averaged over the most sensitive neurons of each layer (eq. 2), against depth: under the
    attack, and under Gaussian noise of the same L2 norm as each image's adversarial perturbation, each on the neurons most
    sensitive to it. The mean over all neurons of a layer is what as many neurons drawn at random give on average.
    """

    title: ClassVar[str] = "Error amplification"
    passes: ClassVar[float] = 8.0
    kind: Literal["error_amplification"] = "error_amplification"
    top: TopShare = 0.1

    def find(self, subject: Subject) -> Amplification:
        """Two rounds over the pairs: which neurons are sensitive, and the ratios on them."""
        meters = {key: SensitivityMeter(subject.classifier) for key in ("adversarial", "noise")}
        for x, twins in self._twins(subject, 1):
            for key, meter in meters.items():
                meter.add(x, twins[key])
        ratios = {key: ImageMeter(subject.classifier, meter.layers(), self.top) for key, meter in meters.items()}
        sizes: dict[str, list[float]] = {key: [] for key in meters}
        for x, twins in self._twins(subject, 2):
            for key, moved in twins.items():
                ratios[key].add(x, moved)
                sizes[key] += (moved.double() - x.double()).flatten(1).norm(dim=1).tolist()
        attack, noise = (ratios[key].layers() for key in ("adversarial", "noise"))
        return Amplification(
            images=len(sizes["noise"]),
            pairs=subject.pairs_from,
            size=PerturbationSize(adversarial=np.mean(sizes["adversarial"]), noise=np.mean(sizes["noise"])),
            layers=tuple(
                self._layer(layer, attack[layer.name], noise[layer.name]) for layer in meters["adversarial"].layers()
            ),
        )

    def _layer(self, layer: LayerSensitivity, attack: ImageMeans, noise: ImageMeans) -> AmplifyingLayer:
        return AmplifyingLayer.of(
            layer,
            self.top,
            zero_share=layer.zero_share,
            adversarial=Estimate.of_mean(attack.ratio),
            adversarial_all=Estimate.of_mean(attack.ratio_all),
            noise=Estimate.of_mean(noise.ratio),
            noise_all=Estimate.of_mean(noise.ratio_all),
            difference=Estimate.of_mean(attack.ratio - noise.ratio),
        )

    def _twins(self, subject: Subject, part: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Clean images and their adversarial and noisy twins, batch by batch."""
        for pair in self.each(subject, part, of=2):
            noisy = matched_noise(pair.x, pair.x_adv, pair.sample, subject.seed)
            yield pair.x, {"adversarial": pair.x_adv, "noise": noisy}

    def doubts(self, found: Amplification) -> Iterator[Flag]:
        """At the end of the network an attack must show: at its last convolution or normalization, as the ratios of activations
        and logits, which may be nearly zero, vary wildly."""
        last = ([row for row in found.layers if row.kind in ("conv", "norm")] or found.layers)[-1]
        if last.difference.low is not None and last.difference.low <= 0:
            yield Flag(
                name="attack not shown to beat noise",
                severity="info",
                message="At the end of the network the attack was not shown to move the features more than equal noise does.",
                evidence=f"Layer {last.name}: attack minus noise {last.difference}.",
                remedy="The attack may not work: compare its success with that of random noise.",
            )

    def blocks(self, found: Amplification) -> Iterator[AnyBlock]:
        kinds = [kind for kind in KIND_TITLES if kind != "linear" and any(row.kind == kind for row in found.layers)]
        ends = [row for row in found.layers if row.kind == (kinds[0] if kinds else "linear")]
        yield Text(
            text=f"Sensitivity ratio of every layer on {found.images} images. Twins: {found.pairs}; their mean L2 "
            f"distance is {found.size.adversarial:.3f}. Noise: Gaussian, scaled image by image to the same distance "
            f"(mean {found.size.noise:.3f}). Averages are over the {100 * self.top:g} % of each layer's neurons that are most "
            "sensitive, to the attack or to the noise."
        )
        over = "Mean over the neurons most sensitive to the {} and over images (n)."
        items = (
            at(row, key).measure(f"Ratio at {row.name}, {what}", higher_is_better=False, explanation=over.format(what))
            for key, what in (("adversarial", "attack"), ("noise", "noise"))
            for row in (ends[0], ends[-1])
        )
        yield Measures(items=tuple(items))
        for kind in kinds:
            yield Figure(
                chart="layer_lines",
                title=f"Sensitivity ratio against depth: {KIND_TITLES[kind]}",
                rows=along_layers(found.layers, SERIES, kind),
                options={"y": "|Δ output| / |output|"},
                reading="1 means that the change is as large as the clean output. A line that rises with depth: the "
                "perturbation grows faster than the features. Where the attack's line rises and the noise's line does "
                "not, the growth is due to the attack, not to the size of the perturbation. The lines over all neurons "
                "do not depend on any choice of neurons. Bars are 95 % intervals over images. A clean output of zero "
                "counts as ratio 1.",
            )
        yield table(
            found.layers,
            "name", "kind", "count",
            *(Column(key=f"{key}.value", title=title.capitalize(), format=".4g") for key, title in SERIES.items()),
            "difference", "zero_share",
            title="Layers in numbers",
            caption="'Attack minus noise': difference of the ratios on the same images, each on its own most sensitive neurons.",
        )  # fmt: skip
