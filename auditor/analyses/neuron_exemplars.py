"""Which images excite a neuron most, and what the attack makes of that."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from auditor.analysis import Analysis, Finding, MeasuredLayer, NeuronMeasure, Subject
from auditor.errors import EvaluationError
from auditor.neurons import LayerKind, watch
from auditor.report.blocks import AnyBlock, Column, Figure, Section, Table, Text


class Exemplars(NamedTuple):
    """One layer: its neurons, most changed first, and the samples that excite each most.

    ``neurons``: (n,). ``samples``: ids, (n, k), most exciting first. ``clean``, ``attacked``: what the neuron's output is on
    them, (n, k). ``excitation``, ``change``: mean over all samples of every neuron's output and of its absolute change, (M,).
    """

    name: str
    kind: LayerKind
    neurons: list[int]
    samples: list[list[int]]
    clean: list[list[float]]
    attacked: list[list[float]]
    excitation: list[float]
    change: list[float]


class NeuronExemplars(Analysis):
    """The images that excite each layer's most changed neurons, and the excitation that is left under attack.

    A neuron's excitation by an image is the largest (or mean) value of its output map (Zeiler and Fergus 2014, arXiv 1311.2901,
    section 4.1, show the images with the largest activations in the same way).
    """

    title: ClassVar[str] = "Images that excite neurons"
    kind: Literal["neuron_exemplars"] = "neuron_exemplars"
    excitation: Literal["max", "mean"] = Field(
        "max", description="A neuron's excitation by an image: the largest value of its map, or the mean."
    )
    images: int = Field(4, ge=1, le=32, description="Images for each neuron.")
    neurons: int = Field(16, ge=1, le=512, description="Neurons of each layer, at most; those that change most.")

    def run(self, subject: Subject) -> Finding:
        layers: dict[str, _Running] = {}
        seen = 0
        for pair in subject.pairs:
            half = len(pair.sample)
            ids = torch.from_numpy(pair.sample).to(pair.x.device)

            def see(name: str, kind: LayerKind, type_name: str, output: Tensor, ids: Tensor = ids) -> None:
                if len(output) != 2 * len(ids):
                    raise EvaluationError(
                        f"Layer {name} does not keep one row per image; its neurons cannot be told apart."
                    )
                if name not in layers:
                    layers[name] = _Running(kind, output.shape[1], self.images, output)
                layers[name].add(ids, *self._excitation(output).chunk(2))

            with torch.no_grad(), watch(subject.classifier.network, see):
                subject.classifier(torch.cat([pair.x, pair.x_adv]))
            seen += half
            subject.on_progress(seen / len(subject.pairs), self.title)
        found = [running.exemplars(name, self.neurons, seen) for name, running in layers.items()]
        data = {"images": seen, "pairs": subject.pairs_from, "layers": [layer._asdict() for layer in found]}
        return Finding(kind=self.kind, settings=self.settings(), data=data)

    def section(self, finding: Finding) -> Section:
        rows = tuple(
            {
                "layer": layer.name,
                "depth": depth,
                "kind": layer.kind,
                "neurons": len(layer.change),
                "kept": _kept(layer),
            }
            for depth, layer in enumerate(exemplars_in(finding), 1)
        )
        return Section(
            key=self.kind,
            title="What excites the neurons",
            blocks=(
                Text(
                    text=f"For each layer's most changed neurons (at most {self.neurons}), the {self.images} of "
                    f"{finding.data['images']} clean images that excite it most, and its excitation by their twins: "
                    f"{finding.data['pairs']}. The Neurons page shows the images."
                ),
                Figure(
                    chart="layer_lines",
                    title="Excitation that is left under attack",
                    rows=rows,
                    options={"fields": {"kept": "most changed neurons"}, "y": "attacked / clean excitation, median"},
                    reading="1: the images that excite a neuron most still do so under attack. 0: the attack has switched "
                    "it off. Layers whose excitation is not positive are left out.",
                    select="layer",
                ),
            ),
        )

    def detail(self, finding: Finding, path: tuple[str, ...]) -> tuple[AnyBlock, ...]:
        """A layer's neurons with the samples that excite them."""
        layer = next((one for one in exemplars_in(finding) if one.name == path[0]), None)
        if layer is None:
            return ()
        rows = tuple(
            {
                "neuron": neuron,
                "change": layer.change[neuron],
                "clean": layer.clean[place][0],
                "attacked": layer.attacked[place][0],
                "samples": ", ".join(map(str, layer.samples[place])),
            }
            for place, neuron in enumerate(layer.neurons)
        )
        columns = (
            Column(key="neuron", title="Neuron"),
            Column(key="change", title="Mean |Δ excitation|", format=".4g"),
            Column(key="clean", title="Strongest excitation", format=".4g"),
            Column(key="attacked", title="The same under attack", format=".4g"),
            Column(key="samples", title="Samples, most exciting first"),
        )
        return (Table(title=f"Most changed neurons of {layer.name}", columns=columns, rows=rows),)

    def neuron_measures(self, finding: Finding) -> tuple[NeuronMeasure, ...]:
        return (
            NeuronMeasure(
                "change", "Change of excitation", "mean |Δ excitation|",
                "Large: the attack changes how strongly the neuron is excited.", "with exciting images kept",
                tuple(
                    MeasuredLayer(one.name, one.kind, np.array(one.change), np.array(one.neurons, np.int64))
                    for one in exemplars_in(finding)
                ),
            ),
        )  # fmt: skip

    def _excitation(self, output: Tensor) -> Tensor:
        """(B, M) from neurons-first outputs (B, M, ...), float64."""
        maps = output.flatten(2) if output.dim() > 2 else output.unsqueeze(2)
        return (maps.amax(2) if self.excitation == "max" else maps.double().mean(2)).double()


class _Running:
    """The strongest samples so far of every neuron of one layer, and its running means; memory does not grow with the samples."""

    def __init__(self, kind: LayerKind, neurons: int, keep: int, like: Tensor) -> None:
        self.kind, self.keep = kind, keep
        self.clean = like.new_zeros((neurons, 0), dtype=torch.float64)
        self.attacked, self.ids = self.clean.clone(), self.clean.long()
        self.total, self.change = (like.new_zeros(neurons, dtype=torch.float64) for _ in range(2))

    def add(self, ids: Tensor, clean: Tensor, attacked: Tensor) -> None:
        """``ids``: (B,). ``clean``, ``attacked``: (B, M). Of equals, the sample that came first stays."""
        self.total += clean.sum(0)
        self.change += (attacked - clean).abs().sum(0)
        all_clean = torch.cat([self.clean, clean.T], 1)
        order = all_clean.argsort(dim=1, descending=True, stable=True)[:, : self.keep]
        self.clean = all_clean.gather(1, order)
        self.attacked = torch.cat([self.attacked, attacked.T], 1).gather(1, order)
        self.ids = torch.cat([self.ids, ids.expand(len(self.ids), -1)], 1).gather(1, order)

    def exemplars(self, name: str, most: int, seen: int) -> Exemplars:
        chosen = self.change.argsort(dim=0, descending=True, stable=True)[:most]
        kept = (part[chosen].tolist() for part in (self.ids, self.clean, self.attacked))
        means = ((part / seen).tolist() for part in (self.total, self.change))
        return Exemplars(name, self.kind, chosen.tolist(), *kept, *means)


def exemplars_in(finding: Finding) -> list[Exemplars]:
    """What a finding of this analysis holds, layer by layer."""
    return [Exemplars(**item) for item in finding.data["layers"]]


def _kept(layer: Exemplars) -> float | None:
    """Median over the neurons of the share of their strongest excitation that is left; None where none is positive."""
    shares: list[Any] = [
        attacked[0] / clean[0] for clean, attacked in zip(layer.clean, layer.attacked, strict=True) if clean[0] > 0
    ]
    return float(np.median(shares)) if shares else None
