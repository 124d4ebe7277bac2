"""Error amplification: how a perturbation grows from layer to layer, beside noise of the same size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.analysis import Analysis, Finding, Subject
from auditor.flag import Flag
from auditor.neurons import KIND_TITLES, LayerKind
from auditor.probes.matched_noise import matched_noise
from auditor.ranking.sensitivity import LayerSensitivity, SensitivityMeter, image_means
from auditor.report.blocks import Column, Figure, Measure, Measures, Section, Table, Text
from auditor.statistics.means import Mean

Floats = NDArray[np.float64]

SERIES = {
    "adversarial": "attack, most sensitive neurons",
    "adversarial_all": "attack, all neurons",
    "noise": "noise, neurons most sensitive to it",
    "noise_all": "noise, all neurons",
}

KINDS: tuple[LayerKind, ...] = ("conv", "norm", "activation")


class Amplification(NamedTuple):
    """``layers``: sensitivity to the attack. ``ratios``: mean ratio of each image (N,), by layer and series. ``sizes``: L2 norm
    of each image's perturbation and of its noise, (N, 2)."""

    layers: list[LayerSensitivity]
    ratios: dict[tuple[str, str], Floats]
    sizes: Floats


class ErrorAmplification(Analysis):
    """How a perturbation grows relative to the features it meets (Zhang et al. 2020, arXiv 1909.06978, Fig. 13).

    The sensitivity ratio (eq. 11), averaged over the most sensitive neurons of each layer (eq. 2), against depth: under the
    attack, and under Gaussian noise of the same L2 norm as each image's adversarial perturbation, each on the neurons most
    sensitive to it. The mean over all neurons of a layer is what as many neurons drawn at random give on average.
    """

    title: ClassVar[str] = "Error amplification"
    kind: Literal["error_amplification"] = "error_amplification"
    top: float = Field(
        0.1, gt=0, le=1, description="Share of a layer's neurons that count as sensitive (at least one)."
    )

    @property
    def cost(self) -> float:
        return 8.0

    def run(self, subject: Subject) -> Finding:
        found = self.measure(subject)
        rows = []
        for layer in found.layers:
            values = {key: found.ratios[layer.name, key] for key in SERIES}
            rows.append(
                {"name": layer.name, "kind": layer.kind, "neurons": len(layer.sensitivity)}
                | {"count": len(layer.top(self.top)), "zero_share": layer.zero_share}
                | {key: Mean.of(value).model_dump() for key, value in values.items()}
                | {"difference": Mean.of(values["adversarial"] - values["noise"]).model_dump()}
            )
        data = {
            "images": len(found.sizes),
            "pairs": subject.pairs_from,
            "size": dict(zip(("adversarial", "noise"), found.sizes.mean(0).tolist(), strict=True)),
            "layers": rows,
        }
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=_doubts(rows))

    def measure(self, subject: Subject) -> Amplification:
        """Two passes over the pairs: which neurons are sensitive, and the ratios on them."""
        meters = {"adversarial": SensitivityMeter(subject.classifier), "noise": SensitivityMeter(subject.classifier)}
        total = 2 * len(subject.pairs)
        seen = 0
        for x, twins in self._twins(subject):
            for key, meter in meters.items():
                meter.add(x, twins[key])
            seen += len(x)
            subject.on_progress(seen / total, self.title)
        sensitive = {
            key: {layer.name: layer.top(self.top) for layer in meter.layers()} for key, meter in meters.items()
        }
        found: dict[tuple[str, str], list[Floats]] = defaultdict(list)
        sizes: list[Floats] = []
        for x, twins in self._twins(subject):
            for key, moved in twins.items():
                for item in image_means(subject.classifier, x, moved, sensitive[key]):
                    found[item.name, key].append(item.ratio)
                    found[item.name, f"{key}_all"].append(item.ratio_all)
            norms = [(moved.double() - x.double()).flatten(1).norm(dim=1).cpu().numpy() for moved in twins.values()]
            sizes.append(np.stack(norms, axis=1))
            seen += len(x)
            subject.on_progress(seen / total, self.title)
        ratios = {key: np.concatenate(parts) for key, parts in found.items()}
        return Amplification(meters["adversarial"].layers(), ratios, np.concatenate(sizes))

    def _twins(self, subject: Subject) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Clean images and their adversarial and noisy twins, batch by batch."""
        for pair in subject.pairs:
            noisy = matched_noise(pair.x, pair.x_adv, pair.sample, subject.seed)
            yield pair.x, {"adversarial": pair.x_adv, "noise": noisy}

    def section(self, finding: Finding) -> Section:
        data = finding.data
        layers = [row | {"depth": depth} for depth, row in enumerate(data["layers"], 1)]
        percent = f"{100 * self.top:g} %"
        shown = [kind for kind in KINDS if any(row["kind"] == kind for row in layers)]
        ends = [row for row in layers if row["kind"] == (shown[0] if shown else "linear")]
        return Section(
            key=self.kind,
            title=self.title,
            blocks=(
                Text(
                    text=f"Sensitivity ratio of every layer on {data['images']} images. Twins: {data['pairs']}; their mean L2 "
                    f"distance is {data['size']['adversarial']:.3f}. Noise: Gaussian, scaled image by image to the same distance "
                    f"(mean {data['size']['noise']:.3f}). Averages are over the {percent} of each layer's neurons that are most "
                    "sensitive, to the attack or to the noise."
                ),
                Measures(
                    items=tuple(_measure(row, key) for key in ("adversarial", "noise") for row in (ends[0], ends[-1]))
                ),
                *(self._figure(kind, layers) for kind in shown),
                self._table(layers),
            ),
        )

    def _figure(self, kind: LayerKind, layers: list[dict[str, Any]]) -> Figure:
        rows = tuple(
            {"depth": row["depth"], "layer": row["name"], "series": title} | row[key]
            for row in layers
            if row["kind"] == kind
            for key, title in SERIES.items()
        )
        return Figure(
            chart="layer_lines",
            title=f"Sensitivity ratio against depth: {KIND_TITLES[kind]}",
            rows=rows,
            options={"y": "|Δ output| / |output|"},
            reading="1 means that the change is as large as the clean output. A line that rises with depth: the perturbation "
            "grows faster than the features. Where the attack's line rises and that of the noise does not, the growth is the "
            "attack's doing, not the size of the perturbation. The lines over all neurons are free of any choice of neurons. "
            "Bars are 95 % intervals over images. A clean output of zero counts as ratio 1.",
        )

    def _table(self, layers: list[dict[str, Any]]) -> Table:
        return Table(
            title="Layers in numbers",
            columns=(
                Column(key="name", title="Layer"),
                Column(key="kind", title="Kind"),
                Column(key="count", title="Neurons averaged"),
                *(Column(key=key, title=title.capitalize(), format=".4g") for key, title in SERIES.items()),
                Column(key="apart", title="Attack minus noise [95 % interval]"),
                Column(key="zero_share", title="Clean output zero", format=".1%"),
            ),
            rows=tuple(
                row
                | {key: row[key]["value"] for key in SERIES}
                | {"apart": str(Mean.model_validate(row["difference"]))}
                for row in layers
            ),
            caption="'Attack minus noise': difference of the ratios on the same images, each on its own most sensitive neurons.",
        )


def _measure(row: dict[str, Any], key: Literal["adversarial", "noise"]) -> Measure:
    what = {"adversarial": "attack", "noise": "noise"}[key]
    mean = Mean.model_validate(row[key])
    return Measure(
        title=f"Ratio at {row['name']}, {what}",
        value=mean.value,
        low=mean.low,
        high=mean.high,
        n=mean.n,
        higher_is_better=False,
        explanation=f"Mean over the neurons most sensitive to the {what} and over images (n).",
    )


def _doubts(rows: list[dict[str, Any]]) -> tuple[Flag, ...]:
    """At the end of the network an attack must show: at its last convolution or normalisation, as the ratios of activations and
    logits, which may be nearly zero, vary wildly."""
    last = ([row for row in rows if row["kind"] in ("conv", "norm")] or rows)[-1]
    if last["difference"]["low"] is None or last["difference"]["low"] > 0:
        return ()
    return (
        Flag(
            name="attack not shown to beat noise",
            severity="info",
            message="At the end of the network the attack was not shown to move the features more than equal noise does.",
            evidence=f"Layer {last['name']}: attack minus noise {Mean.model_validate(last['difference'])}.",
            remedy="The attack may not work: compare its success with that of random noise.",
        ),
    )
