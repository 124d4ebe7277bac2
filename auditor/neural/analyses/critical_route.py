"""The critical attacking route: which neurons of each layer pass an attack on, on clean and on adversarial images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from auditor.kit.flag import Flag
from auditor.kit.randomness import derive_seed
from auditor.neural.analysis import Analysis, NeuronMeasure, Subject, measured_layer
from auditor.neural.found import SIDES, Stored, some_of
from auditor.neural.routes.contrasts import contrasts
from auditor.neural.routes.critical import Critical, RouteAgreement, critical_layer, first_samples
from auditor.neural.routes.overview import one_layer, overview
from auditor.neural.routes.route_tally import route_agreement, tally_routes
from auditor.neural.routes.routes import RouteFinder, model_route
from auditor.show.blocks import AnyBlock

FEW_IMAGES = 50
PARTS = 10
IMAGES = 20
"""Images, the first, of which the routes are kept."""
CLASS_NAMES = 1000
"""Names of classes that are kept, at most."""


class CriticalRoute(Analysis[Critical]):
    """Which neurons pass an attack on from layer to layer: the critical attacking route (Li et al. 2021, Information
    Sciences).

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
        description="A neuron's output: of the convolution as it is, or after its normalization (always so for dag).",
    )
    linear: bool = Field(False, description="Follow hidden linear layers too, after the last convolution.")

    def cost(self, images: int) -> float:
        """Two routes, then two forward passes and a backward one."""
        return (2 * 1.5 + 2 + 2) * images

    def find(self, subject: Subject) -> Critical:
        classifier = subject.classifier
        finder = RouteFinder(classifier, mode=self.mode, node=self.node, linear=self.linear)
        order = np.random.default_rng(derive_seed(subject.seed, self.kind, "parts")).permutation(len(subject.pairs))
        groups = order % min(PARTS, len(order))
        tallies = tally_routes(finder, self.each(subject, 1, of=2), self.width, groups, classifier.num_classes, IMAGES)
        generator = np.random.default_rng(derive_seed(subject.seed, self.kind, "controls"))
        route = model_route([tally.clean_frequency for tally in tallies], self.model_width)
        contrast = contrasts(classifier, self.each(subject, 2, of=2), finder.outputs, route, generator)
        layers = tuple(
            critical_layer(depth, name, tally, item, (self.width, self.model_width), generator)
            for depth, (name, tally, item) in enumerate(zip(finder.layers, tallies, contrast, strict=True), 1)
        )
        parts = route_agreement(tallies, self.model_width)
        return Critical(
            images=len(subject.pairs),
            pairs=subject.pairs_from,
            samples=first_samples(classifier, subject.pairs, IMAGES),
            layers=layers,
            left_out=tuple(finder.left_out),
            agreement=RouteAgreement(
                mean=parts.mean(),
                lowest=parts.min(),
                highest=parts.max(),
                parts=len(parts),
                chance=float(np.mean([layer.route_count / layer.neurons for layer in layers])),
            ),
            class_names=tuple(map(classifier.class_name, range(min(classifier.num_classes, CLASS_NAMES)))),
        )

    @classmethod
    def lift(cls, data: Stored, revision: int) -> Stored:
        """Routes of classes and of images were not kept at first."""
        nothing: Stored = {"samples": {side: [] for side in SIDES}}
        layers = [
            nothing | layer | {"classes": [{"route": None} | item for item in layer["classes"]]}
            for layer in data["layers"]
        ]
        return {"samples": []} | data | {"layers": layers}

    def doubts(self, found: Critical) -> Iterator[Flag]:
        if found.images < FEW_IMAGES:
            yield Flag(
                name="few images",
                severity="warning",
                message="The route of the model comes from few images.",
                evidence=f"{found.images} images, at least {FEW_IMAGES} are advisable.",
                remedy="Use more images.",
            )
        if found.left_out:
            yield Flag(
                name="route is partial",
                severity="warning",
                message="A part of the network is not on the route.",
                evidence=f"{found.left_out[0]} ({len(found.left_out)} such edges.)",
                remedy="Read the route as that of the layers named, not of the network.",
            )
        plain = [layer for layer in found.layers if layer.contrast.sensitivity.ordinary]
        if plain:
            yield Flag(
                name="route no more sensitive than random neurons",
                severity="info",
                message="In some layers the neurons of the route change no more under attack than random neurons do.",
                evidence=f"{some_of(plain, found.layers)}.",
                remedy="Do not read these neurons as those that carry the attack.",
            )

    def blocks(self, found: Critical) -> Iterator[AnyBlock]:
        edges = "along the longest chain" if self.mode == "serial" else "along every edge, skip connections too"
        after = self.mode == "dag" or self.node == "bn"
        how = f"{edges}, neurons {'after' if after else 'before'} their normalization"
        yield from overview(found, how, self.width, self.model_width)

    def detail(self, found: Critical, path: tuple[str, ...]) -> Iterator[AnyBlock]:
        """One layer: which neurons are on its routes, on clean and on adversarial images, and by class."""
        for layer in found.layers:
            if layer.name == path[0]:
                yield from one_layer(layer, found.class_names)

    def neuron_measures(self, found: Critical) -> Iterator[NeuronMeasure]:
        reading = "1 means that the neuron is on the route of every image; a layer's mean is the route's width."
        for side, title in zip(SIDES, ("clean", "under attack"), strict=True):
            yield NeuronMeasure(
                side, f"On the critical route, {title}", f"share of {side} images", reading, "on the model's route",
                tuple(measured_layer(row.name, "conv", row.frequency[side], row.route[side]) for row in found.layers),
            )  # fmt: skip
