"""Activation distribution of the last layer: how the features are spread, and how many of them are zero."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from scipy import stats
from torch import Tensor

from auditor.analysis import Analysis, Finding, NeuronMeasure, Subject, before_head
from auditor.delta.values import Activations, activations_of, features_of
from auditor.flag import Flag
from auditor.metrics import CONFIDENCE
from auditor.probes.head import head_of
from auditor.report.blocks import AnyBlock, Figure, Measure, Measures, Section, Text

TOP = 0.1
"""Share of the neurons that the figure of the neurons marks: those that are zero most rarely."""
IMAGES: dict[str, str] = {"clean": "clean images", "attacked": "attacked images"}


class ActivationDistribution(Analysis):
    """How the outputs of the last hidden layer are spread, and how many are zero (Suri and Evans 2020, arXiv 2003.09372).

    The outputs are scaled from 0 (the lowest on the clean images) to 1 (the highest), as in Fig. 3 of the paper, which finds
    more zeros after adversarial training and almost none after training for low sensitivity.
    """

    title: ClassVar[str] = "Activation distribution"
    kind: Literal["activation_distribution"] = "activation_distribution"
    scale: Literal["layer", "neuron"] = Field(
        "layer", description="What the lowest and the highest output are taken over: the whole layer, or each neuron."
    )
    bins: int = Field(50, ge=2, le=1000, description="Bins of the histogram between 0 and 1.")

    @property
    def cost(self) -> float:
        return 3.0

    def run(self, subject: Subject) -> Finding:
        classifier, head = subject.classifier, head_of(subject.classifier)
        clean = activations_of(classifier, head, subject.pairs)
        counts = {name: torch.zeros(self.bins, dtype=torch.int64, device=classifier.device) for name in IMAGES}
        shares: dict[str, list[float]] = {name: [] for name in IMAGES}
        zeros = torch.zeros_like(clean.mean)
        outside = 0
        for pair in subject.pairs:
            for name, x in zip(IMAGES, (pair.x, pair.x_adv), strict=True):
                features = features_of(classifier, head, x)
                scaled = self._scaled(features, clean)
                outside += int(((scaled < 0) | (scaled > 1)).sum())
                place = (scaled * self.bins).floor().clamp(0, self.bins - 1).long()
                counts[name] += place.flatten().bincount(minlength=self.bins)
                shares[name] += (features == 0).double().mean(1).tolist()
                zeros += (features == 0).sum(0) if name == "attacked" else 0
            subject.on_progress(0.5 + 0.5 * len(shares["clean"]) / len(subject.pairs), self.title)
        data = {
            "layer": head.name,
            "neurons": len(clean.mean),
            "images": clean.images,
            "twins": subject.pairs_from,
            "outside": outside,
            "lowest": float(clean.lowest.min()),
            "highest": float(clean.highest.max()),
            "counts": {name: values.tolist() for name, values in counts.items()},
            "zeros": {name: _mean(values) for name, values in shares.items()},
            "by_neuron": {
                "mean": clean.mean.tolist(),
                "std": clean.std.tolist(),
                "zeros": clean.zeros.tolist(),
                "zeros_attacked": (zeros / clean.images).tolist(),
            },
        }
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=_doubts(data))

    def section(self, finding: Finding) -> Section:
        data = finding.data
        silent = sum(share == 1 for share in data["by_neuron"]["zeros"])
        over = "the layer" if self.scale == "layer" else "each neuron"
        return Section(
            key=self.kind,
            title="Activations of the last layer",
            blocks=(
                Text(
                    text=f"The {data['neurons']} inputs of {data['layer']} on {data['images']} clean images, from "
                    f"{data['lowest']:.4g} to {data['highest']:.4g}, and on their twins: {data['twins']}."
                ),
                Measures(
                    items=(
                        *(
                            Measure(title=f"Zero on {title}", **data["zeros"][name], unit="%", explanation=_ZERO)
                            for name, title in IMAGES.items()
                        ),
                        Measure(
                            title="Neurons that are always zero",
                            value=silent / data["neurons"],
                            unit="%",
                            explanation=f"{silent} of the {data['neurons']} neurons, on clean images.",
                        ),
                    )
                ),
                Figure(
                    chart="histogram",
                    title="Distribution of the scaled activations",
                    rows=tuple(_bins(data["counts"], self.bins)),
                    options={
                        "x": f"output, from the lowest (0) to the highest (1) of {over}",
                        "y": "share of the outputs",
                        "root": True,
                    },
                    reading="Each line counts the outputs of every neuron on every image. The upright axis is a "
                    "square root, so that small shares show. The first bin holds what is zero or "
                    f"close to it. Outputs beyond the clean range ({data['outside']}) count in the outermost bins.",
                ),
                Figure(
                    chart="neuron_values",
                    title="How often each neuron is zero",
                    rows=_neurons(data),
                    options={"y": "share of the clean images where it is zero", "marked": "most often active tenth"},
                    reading="Each bar is one neuron, the most often active first.",
                    select="neuron",
                ),
            ),
        )

    def neuron_measures(self, finding: Finding) -> tuple[NeuronMeasure, ...]:
        data = finding.data
        each = data["by_neuron"]
        silent = [neuron for neuron, share in enumerate(each["zeros"]) if share == 1]
        risen = [after - before for before, after in zip(each["zeros"], each["zeros_attacked"], strict=True)]
        return (
            NeuronMeasure(
                "zeros", "Zero on clean images", "share of the clean images where it is zero",
                "1: the neuron is silent on every clean image.", "always zero",
                (before_head(data["layer"], each["zeros"], silent),),
            ),
            NeuronMeasure(
                "zeros_rise", "Zero more often under attack", "share of zeros, attacked minus clean",
                "Above 0: the attack switches the neuron off; below 0: it switches the neuron on.", "always zero when clean",
                (before_head(data["layer"], risen, silent),),
            ),
        )  # fmt: skip

    def detail(self, finding: Finding, path: tuple[str, ...]) -> tuple[AnyBlock, ...]:
        """One neuron in numbers."""
        data = finding.data
        if not path[0].isdecimal() or int(path[0]) >= data["neurons"]:
            return ()
        each = {name: values[int(path[0])] for name, values in data["by_neuron"].items()}
        n = data["images"]
        return (
            Measures(
                items=(
                    Measure(title=f"Mean output of neuron {path[0]}", value=each["mean"], n=n),
                    Measure(title="Standard deviation", value=each["std"], n=n),
                    Measure(title="Zero on clean images", value=each["zeros"], n=n, unit="%"),
                    Measure(title="Zero on attacked images", value=each["zeros_attacked"], n=n, unit="%"),
                )
            ),
        )

    def _scaled(self, features: Tensor, clean: Activations) -> Tensor:
        """Min-max scaling by the clean images; a range of zero width gives 0."""
        low, high = clean.lowest, clean.highest
        if self.scale == "layer":
            low, high = low.min(), high.max()
        width = high - low
        return (features - low) / torch.where(width > 0, width, torch.inf)


_ZERO = "Share of the neurons that are exactly zero, mean over the images."


def _mean(values: list[float]) -> dict[str, Any]:
    """Mean over the images with its t interval, cut to [0, 1]; no interval for one image."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return {"value": mean, "low": None, "high": None, "n": n}
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * stats.sem(values)
    return {"value": mean, "low": float(max(0.0, mean - half)), "high": float(min(1.0, mean + half)), "n": n}


def _bins(counts: dict[str, list[int]], bins: int) -> list[dict[str, Any]]:
    return [
        {"low": place / bins, "high": (place + 1) / bins, "share": count / sum(counts[name]), "series": title}
        for name, title in IMAGES.items()
        for place, count in enumerate([*counts[name], 0])
    ]


def _neurons(data: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    order = sorted((share, neuron) for neuron, share in enumerate(data["by_neuron"]["zeros"]))
    marked = max(1, int(TOP * len(order)))
    return tuple(
        {"neuron": neuron, "value": share, "marked": "yes" if rank < marked else "no"}
        for rank, (share, neuron) in enumerate(order)
    )


def _doubts(data: dict[str, Any]) -> tuple[Flag, ...]:
    if data["highest"] > data["lowest"]:
        return ()
    return (
        Flag(
            name="constant features",
            severity="warning",
            message="The last hidden layer gives the same output for every neuron and every image.",
            evidence=f"All outputs are {data['lowest']:.4g}.",
            remedy="The network ignores its input: check the weights and the normalisation.",
        ),
    )
