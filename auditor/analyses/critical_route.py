"""The critical attacking route: which neurons of each layer pass an attack on, on clean and on adversarial images."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from auditor.analysis import Analysis, Finding, MeasuredLayer, NeuronMeasure, Subject
from auditor.flag import Flag
from auditor.influence.route_tally import (
    Contrast,
    Interval,
    RouteTally,
    agreement,
    chance_jaccard,
    chance_occurrence,
    occurrence,
)
from auditor.influence.routes import RouteFinder, count_of, model_route
from auditor.neurons import LayerKind, watch
from auditor.randomness import derive_seed
from auditor.report.blocks import AnyBlock, Section
from auditor.report.route import one_layer, overview

FEW_IMAGES = 50
PARTS = 10
CLASSES, CLASS_NEURONS = 20, 5
"""Classes of which the routes are kept, at most, and neurons of each layer of these that are kept with their frequency."""
IMAGES = 20
"""Images, the first, of which the routes are kept."""

Rows = list[NDArray[np.float64]]


class CriticalRoute(Analysis):
    """Which neurons pass an attack on from layer to layer: the critical attacking route (Li et al. 2021, Information Sciences).

    The last convolution's neurons with the largest loss gradient, and from there back in each layer those with most influence
    on the selected ones of the next (eq. 1-6), image by image; the neurons that are most often on these routes form the route
    of the model (eq. 7-8). Influence is computed in closed form, exactly, at about the cost of a forward pass.
    """

    title: ClassVar[str] = "Critical attacking route"
    changes: ClassVar[tuple[str, ...]] = (
        "Neurons that are equally often on the routes of a part of the images were taken by index, so the agreement between "
        "parts of the images is too high where many are. Audit again for the right numbers.",
        "Random neurons beside those of the route were drawn from all, dead ones too, which made the control weaker where there "
        "are any. Audit again for the right numbers.",
    )
    kind: Literal["critical_route"] = "critical_route"
    width: float = Field(
        0.2, gt=0, le=1, description="Share of a layer's neurons on the route of an image (at least one)."
    )
    model_width: float = Field(0.3, gt=0, le=1, description="Share of a layer's neurons on the route of the model.")
    mode: Literal["serial", "dag"] = Field(
        "serial",
        description="serial: the chain of layers, without skip connections. dag: every edge, skip connections too.",
    )
    node: Literal["conv", "bn"] = Field(
        "conv",
        description="A neuron's output: of the convolution as it is, or after its normalisation (always so for dag).",
    )
    linear: bool = Field(False, description="Follow hidden linear layers too, after the last convolution.")

    @property
    def cost(self) -> float:
        """Two routes, then two forward passes and a backward one."""
        return 2 * 1.4 + 2 + 2

    def run(self, subject: Subject) -> Finding:
        finder = RouteFinder(subject.classifier, mode=self.mode, node=self.node, linear=self.linear)
        tallies = self._tally(subject, finder)
        generator = np.random.default_rng(derive_seed(subject.seed, self.kind, "controls"))
        route = model_route([tally.clean_frequency for tally in tallies], self.model_width)
        contrasts = self._contrasts(subject, finder.outputs, route, generator)
        layers = [
            self._layer(depth, name, tally, contrast, generator)
            for depth, (name, tally, contrast) in enumerate(zip(finder.layers, tallies, contrasts, strict=True), 1)
        ]
        parts = agreement(tallies, self.model_width)
        data = {
            "images": len(subject.pairs),
            "pairs": subject.pairs_from,
            "samples": _first_samples(subject),
            "layers": layers,
            "left_out": list(finder.left_out),
            "agreement": {
                "mean": float(parts.mean()),
                "lowest": float(parts.min()),
                "highest": float(parts.max()),
                "parts": len(parts),
                "chance": float(np.mean([layer["route_count"] / layer["neurons"] for layer in layers])),
            },
            "class_names": [subject.classifier.class_name(index) for index in range(subject.classifier.num_classes)][
                :1000
            ],
        }
        flags = _doubts(data)
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=flags, revision=self.revision)

    def neuron_measures(self, finding: Finding) -> tuple[NeuronMeasure, ...]:
        def measure(side: str, title: str) -> NeuronMeasure:
            layers = tuple(
                MeasuredLayer(
                    layer["name"], "conv", np.array(layer["frequency"][side]), np.array(layer["route"][side], np.int64)
                )
                for layer in finding.data["layers"]
            )
            reading = "1 means that the neuron is on the route of every image; a layer's mean is the route's width."
            return NeuronMeasure(side, title, f"share of {side} images", reading, "on the model's route", layers)

        return (
            measure("clean", "On the critical route, clean"),
            measure("adversarial", "On the critical route, under attack"),
        )

    def _tally(self, subject: Subject, finder: RouteFinder) -> list[RouteTally]:
        """The routes of every image and of its twin."""
        n = len(subject.pairs)
        order = np.random.default_rng(derive_seed(subject.seed, self.kind, "parts")).permutation(n)
        groups = order % min(PARTS, n)
        tallies: list[RouteTally] = []
        done = 0
        for pair in subject.pairs:
            clean = finder(pair.x, pair.labels, width=self.width)
            adversarial = finder(pair.x_adv, pair.labels, width=self.width)
            if not tallies:
                classes = subject.classifier.num_classes
                tallies = [RouteTally(m.shape[1], groups, classes, IMAGES) for m in clean.members]
            for tally, one, other in zip(tallies, clean.members, adversarial.members, strict=True):
                tally.add(one, other, pair.labels.cpu().numpy())
            done += len(pair.sample)
            subject.on_progress(done / n / 2, self.title)
        return tallies

    def _contrasts(
        self, subject: Subject, names: tuple[str, ...], route: list[NDArray[np.int64]], generator: np.random.Generator
    ) -> list[dict[str, tuple[Contrast, NDArray[np.float64]]]]:
        """For each layer: neuron sensitivity and loss gradient on and off the route, and their means for each neuron."""
        values: list[dict[str, Rows]] = [{"sensitivity": [], "gradient": []} for _ in names]
        totals: list[dict[str, NDArray[np.float64]]] = [{} for _ in names]
        done = 0
        for pair in subject.pairs:
            found = sensitivity_and_gradient(subject, names, pair.x, pair.x_adv, pair.labels)
            for index, quantities in enumerate(found):
                for what, each in quantities.items():
                    rows = each.double().cpu().numpy()
                    on = np.isin(np.arange(rows.shape[1]), route[index])
                    outside = rows[:, ~on].mean(1) if not on.all() else np.full(len(rows), np.nan)
                    values[index][what].append(np.stack([rows[:, on].mean(1), outside]))
                    totals[index][what] = totals[index].get(what, np.zeros(rows.shape[1])) + rows.sum(0)
            done += len(pair.sample)
            subject.on_progress(0.5 + done / len(subject.pairs) / 2, self.title)
        contrasts = []
        for index, kept in enumerate(route):
            layer = {}
            for what in ("sensitivity", "gradient"):
                on, off = np.concatenate(values[index][what], axis=1)
                mean = totals[index][what] / done
                layer[what] = Contrast.of(on, off, mean, len(kept), generator), mean
            contrasts.append(layer)
        return contrasts

    def _layer(
        self,
        depth: int,
        name: str,
        tally: RouteTally,
        contrast: dict[str, tuple[Contrast, NDArray[np.float64]]],
        generator: np.random.Generator,
    ) -> dict[str, Any]:
        clean, adversarial = tally.clean_frequency, tally.adversarial_frequency
        neurons = len(clean)
        narrow, wide = count_of(self.width, neurons), count_of(self.model_width, neurons)
        routes = {"clean": clean, "adversarial": adversarial}
        chosen = {which: model_route([shares], self.model_width)[0] for which, shares in routes.items()}
        common = len(np.intersect1d(chosen["clean"], chosen["adversarial"]))
        return {
            "depth": depth,
            "name": name,
            "neurons": neurons,
            "image_count": narrow,
            "route_count": wide,
            "frequency": {which: shares.tolist() for which, shares in routes.items()},
            "route": {which: indices.tolist() for which, indices in chosen.items()},
            "occurrence": {which: occurrence(shares, self.width) for which, shares in routes.items()}
            | {
                "chance": chance_occurrence(neurons, tally.images, self.width, generator),
                "model": occurrence(clean, self.model_width),
                "bound": min(1.0, narrow / wide),
            },
            "overlap": {
                "twins": Interval.of(np.array(tally.overlaps))._asdict(),
                "neighbours": Interval.of(np.array(tally.neighbours))._asdict() if tally.neighbours else None,
                "chance": chance_jaccard(neurons, narrow),
                "model": common / (2 * wide - common),
                "model_chance": chance_jaccard(neurons, wide),
            },
            "contrast": {what: _contrast_data(item) for what, (item, _) in contrast.items()},
            "mean": {what: mean.tolist() for what, (_, mean) in contrast.items()},
            "classes": tally.by_class(CLASSES, CLASS_NEURONS, self.model_width),
            "samples": tally.kept,
        }

    def section(self, finding: Finding) -> Section:
        edges = "along the longest chain" if self.mode == "serial" else "along every edge, skip connections too"
        after = self.mode == "dag" or self.node == "bn"
        how = f"{edges}, neurons {'after' if after else 'before'} their normalisation"
        blocks = overview(finding.data, how, self.width, self.model_width)
        return Section(key=self.kind, title="Critical attacking route", blocks=blocks)

    def detail(self, finding: Finding, path: tuple[str, ...]) -> tuple[AnyBlock, ...]:
        """One layer: which neurons are on its routes, on clean and on adversarial images, and by class."""
        layer = next((item for item in finding.data["layers"] if item["name"] == path[0]), None)
        return () if layer is None else one_layer(layer, finding.data["class_names"])


def sensitivity_and_gradient(
    subject: Subject, names: tuple[str, ...], x: Tensor, x_adv: Tensor, labels: Tensor
) -> list[dict[str, Tensor]]:
    """Of each layer named, (B, M) each: mean over positions of |F(x) - F(x')| (eq. 1 of arXiv 1909.06978), and
    sum over positions of |dL/dZ| at x, L the cross-entropy with the true label."""
    clean: dict[str, Tensor] = {}
    change: dict[str, Tensor] = {}

    def keep(name: str, kind: LayerKind, type_name: str, output: Tensor) -> Tensor | None:
        if name not in names:
            return None
        clean[name] = output
        return output.clone()  # the next layer may work in place

    def compare(name: str, kind: LayerKind, type_name: str, output: Tensor) -> None:
        if name in names:
            difference = (output - clean[name].detach()).abs()
            change[name] = difference.flatten(2).mean(2) if difference.dim() > 2 else difference

    network = subject.classifier.network
    with torch.enable_grad(), watch(network, keep):
        logits = subject.classifier(x.detach().requires_grad_())
        loss = functional.cross_entropy(logits.double(), labels, reduction="sum")
    with torch.no_grad(), watch(network, compare):
        subject.classifier(x_adv)
    slopes = torch.autograd.grad(loss, [clean[name] for name in names])
    return [
        {"sensitivity": change[name], "gradient": slope.abs().flatten(2).sum(2) if slope.dim() > 2 else slope.abs()}
        for name, slope in zip(names, slopes, strict=True)
    ]


def _first_samples(subject: Subject) -> list[dict[str, Any]]:
    """Who the images are whose routes are kept: id, true class, and the classes predicted for them and for their twins."""
    found: list[dict[str, Any]] = []
    for pair in subject.pairs:
        count = min(IMAGES - len(found), len(pair.sample))
        said = {
            side: subject.classifier.logits(x[:count]).argmax(1)
            for side, x in (("clean", pair.x), ("adversarial", pair.x_adv))
        }
        found += [
            {"id": int(pair.sample[row]), "label": int(pair.labels[row])}
            | {side: int(each[row]) for side, each in said.items()}
            for row in range(count)
        ]
        if len(found) == IMAGES:
            break
    return found


def _contrast_data(contrast: Contrast) -> dict[str, Any]:
    return contrast._asdict() | {
        "on": contrast.on._asdict(),
        "off": None if contrast.off is None else contrast.off._asdict(),
    }


def _doubts(data: dict[str, Any]) -> tuple[Flag, ...]:
    flags = []
    if data["images"] < FEW_IMAGES:
        flags.append(
            Flag(
                name="few images",
                severity="warning",
                message="The route of the model comes from few images.",
                evidence=f"{data['images']} images, at least {FEW_IMAGES} are advisable.",
                remedy="Use more images.",
            )
        )
    if data["left_out"]:
        flags.append(
            Flag(
                name="route is partial",
                severity="warning",
                message="A part of the network is not on the route.",
                evidence=f"{data['left_out'][0]} ({len(data['left_out'])} such edges.)",
                remedy="Read the route as that of the layers named, not of the network.",
            )
        )
    plain = [
        layer["name"]
        for layer in data["layers"]
        if layer["contrast"]["sensitivity"]["on"]["value"] <= layer["contrast"]["sensitivity"]["random_high"]
    ]
    if plain:
        flags.append(
            Flag(
                name="route no more sensitive than random neurons",
                severity="info",
                message="In some layers the neurons of the route change no more under attack than random neurons do.",
                evidence=f"{len(plain)} of {len(data['layers'])} layers, the first: {plain[0]}.",
                remedy="Do not read these neurons as those that carry the attack.",
            )
        )
    return tuple(flags)
