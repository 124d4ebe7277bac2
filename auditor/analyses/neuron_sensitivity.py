"""Neuron sensitivity and sensitivity ratio of every layer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.analysis import Analysis, Finding, MeasuredLayer, NeuronMeasure, Pair, Subject
from auditor.errors import EvaluationError
from auditor.flag import Flag
from auditor.neurons import LayerKind, watch
from auditor.report.blocks import AnyBlock, Column, Figure, Measure, Measures, Section, Table, Text

RATIO_EPSILON = 1e-6
"""Added to the norm of a neuron's clean output under ``zero = "eps"``."""


class LayerSensitivity(NamedTuple):
    """One layer: sigma (eq. 1) and ratio (eq. 11) of each neuron, float64 (M,); ratio is NaN where no image counts.

    ``zero_share``: share of (image, neuron) pairs whose clean output is exactly zero.
    """

    name: str
    kind: LayerKind
    type: str
    sensitivity: NDArray[np.float64]
    ratio: NDArray[np.float64]
    zero_share: float

    def as_data(self) -> dict[str, Any]:
        """In JSON form; NaN becomes None."""
        ratio = [None if np.isnan(value) else value for value in self.ratio.tolist()]
        return self._asdict() | {"sensitivity": self.sensitivity.tolist(), "ratio": ratio}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> LayerSensitivity:
        return cls(
            **data | {"sensitivity": np.array(data["sensitivity"]), "ratio": np.array(data["ratio"], np.float64)}
        )


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
    zero: Literal["one", "skip", "eps"] = Field(
        "one",
        description="Ratio of a neuron whose clean output is zero: 1, leave the image out, or divide by the norm + 1e-6.",
    )
    only_success: bool = Field(False, description="Use only the images on which the attack succeeded.")

    def measure(self, subject: Subject) -> tuple[list[LayerSensitivity], int]:
        """Every layer in the order of execution, and the number of images used."""
        sums: dict[str, _Sums] = {}
        used = 0
        for pair in subject.pairs:
            pair = _successes(pair) if self.only_success else pair
            if len(pair.sample) == 0:
                continue
            self._add(sums, subject, pair)
            used += len(pair.sample)
            subject.on_progress(used / len(subject.pairs), self.title)
        if used == 0:
            raise EvaluationError(
                "Neuron sensitivity has no image to look at: the attack succeeded on none.",
                "Set only_success to false.",
            )
        return [item.layer(name, used) for name, item in sums.items()], used

    def top_neurons(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Indices of the most sensitive neurons (eq. 2), largest first, ties by the lower index."""
        count = max(1, int(self.top * len(values)))
        return np.argsort(-values, kind="stable")[:count]

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
                    chart="layer_profile",
                    title="Sensitivity of each layer",
                    rows=profile,
                    options={
                        "series": {"top_mean": f"most sensitive {percent}", "mean": "all neurons"},
                        "y": "mean |Δ output|",
                    },
                    reading=f"Each point is one layer, from input to output. 'Most sensitive {percent}' averages over the "
                    f"{percent} of the layer's neurons that change most, 'all neurons' over the whole layer. A rising line "
                    "means that the network amplifies the perturbation with depth. Layers differ in scale: compare a kind "
                    "with its like, or read the ratio below, which is free of scale.",
                    select="layer",
                ),
                Figure(
                    chart="layer_profile",
                    title="Sensitivity ratio of each layer",
                    rows=profile,
                    options={"series": {"ratio_top_mean": f"most sensitive {percent}"}, "y": "|Δ output| / |output|"},
                    reading="The change divided by the size of the clean output, averaged over the same neurons. 1 means that "
                    f"the change is as large as the output. A clean output of zero counts as: {_ZERO_RULE[self.zero]}.",
                ),
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
        count = sum(row["sensitive"] == "yes" for row in rows)
        return (
            Text(
                text=f"{layer.name}: {layer.type}, {len(rows)} neurons; marked are the most sensitive ({count}). The clean "
                f"output is exactly zero in {100 * layer.zero_share:.1f} % of all cases (image and neuron)."
            ),
            Figure(
                chart="neuron_bars",
                title=f"Neurons of {layer.name}, most sensitive first",
                rows=rows,
                options={"y": "mean |Δ output|"},
                reading="Each bar is one neuron: a channel, or a unit of a linear layer.",
                select="neuron",
            ),
            Table(
                title=f"Most sensitive neurons of {layer.name}",
                columns=(
                    Column(key="rank", title="Rank"),
                    Column(key="neuron", title="Neuron"),
                    Column(key="sensitivity", title="Sensitivity", format=".5g"),
                    Column(key="ratio", title="Ratio", format=".4g"),
                ),
                rows=rows[:20],
            ),
        )

    def neuron_measures(self, finding: Finding) -> tuple[NeuronMeasure, ...]:
        layers = [LayerSensitivity.from_data(item) for item in finding.data["layers"]]
        tops = [self.top_neurons(layer.sensitivity) for layer in layers]
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

    def _neurons(self, layer: LayerSensitivity) -> tuple[dict[str, Any], ...]:
        """One row per neuron, most sensitive first."""
        top = set(self.top_neurons(layer.sensitivity).tolist())
        return tuple(
            {
                "rank": rank,
                "neuron": int(neuron),
                "sensitivity": float(layer.sensitivity[neuron]),
                "ratio": None if np.isnan(layer.ratio[neuron]) else float(layer.ratio[neuron]),
                "sensitive": "yes" if int(neuron) in top else "no",
            }
            for rank, neuron in enumerate(np.argsort(-layer.sensitivity, kind="stable"), 1)
        )

    def _profile(self, depth: int, layer: LayerSensitivity) -> dict[str, Any]:
        top = self.top_neurons(layer.sensitivity)
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

    def _add(self, sums: dict[str, _Sums], subject: Subject, pair: Pair) -> None:
        """Clean and adversarial images go through side by side, so that no feature map outlives its hook."""
        half = len(pair.sample)

        def see(name: str, kind: LayerKind, type_name: str, output: Tensor) -> None:
            if output.shape[0] != 2 * half:
                raise EvaluationError(
                    f"Layer {name} does not keep one row per image; its neurons cannot be told apart."
                )
            maps = output.flatten(2) if output.dim() > 2 else output.unsqueeze(2)
            change = (maps[:half] - maps[half:]).abs().sum(2).double()
            norm = maps[:half].abs().sum(2).double()
            if name not in sums:
                sums[name] = _Sums(kind, type_name, maps.shape[1], maps.shape[2], output.device)
            sums[name].add(change, norm, self.zero)

        with torch.no_grad(), watch(subject.classifier.network, see):
            subject.classifier(torch.cat([pair.x, pair.x_adv]))


class _Sums:
    """Running sums of one layer; float64, one entry per neuron, whatever the number of images."""

    def __init__(self, kind: LayerKind, type_name: str, neurons: int, positions: int, device: torch.device) -> None:
        self.kind, self.type, self.positions = kind, type_name, positions
        self.change, self.ratio, self.counted, self.zeros = (
            torch.zeros(neurons, dtype=torch.float64, device=device) for _ in range(4)
        )

    def add(self, change: Tensor, norm: Tensor, zero: str) -> None:
        """``change`` and ``norm``: L1 norm of each neuron's difference and clean output, float64, (B, M)."""
        empty = norm == 0
        if zero == "eps":
            ratio, counts = change / (norm + RATIO_EPSILON), torch.ones_like(norm)
        else:
            ratio = torch.where(empty, 1.0 if zero == "one" else 0.0, change / norm.masked_fill(empty, 1.0))
            counts = torch.ones_like(norm) if zero == "one" else (~empty).double()
        self.change += change.sum(0)
        self.ratio += ratio.sum(0)
        self.counted += counts.sum(0)
        self.zeros += empty.sum(0)

    def layer(self, name: str, images: int) -> LayerSensitivity:
        ratio = torch.where(self.counted > 0, self.ratio / self.counted.clamp_min(1), torch.nan)
        return LayerSensitivity(
            name,
            self.kind,
            self.type,
            (self.change / (images * self.positions)).cpu().numpy(),
            ratio.cpu().numpy(),
            float(self.zeros.sum() / (images * len(self.zeros))),
        )


_ZERO_RULE = {"one": "ratio 1", "skip": "left out", "eps": "divided by the norm + 1e-6"}


def _neuron(layer: LayerSensitivity, row: dict[str, Any]) -> Measures:
    """One neuron in numbers, beside its layer."""
    return Measures(
        items=(
            Measure(
                title=f"Sensitivity of neuron {row['neuron']}",
                value=row["sensitivity"],
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


def _successes(pair: Pair) -> Pair:
    keep = torch.from_numpy(np.flatnonzero(pair.fooled)).to(pair.x.device)
    return Pair(pair.sample[pair.fooled], pair.x[keep], pair.x_adv[keep], pair.labels[keep], pair.fooled[pair.fooled])


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
