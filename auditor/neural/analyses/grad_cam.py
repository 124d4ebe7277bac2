"""Grad-CAM of the channels on the critical attacking route and of the others, on clean and adversarial images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from auditor.kit.flag import Flag
from auditor.kit.statistics.estimate import Estimate
from auditor.neural.analysis import Analysis, Subject
from auditor.neural.found import SIDES, OfPairs, Sides
from auditor.neural.routes.route_cam import CamNode, RouteCam, Target, cam_layer, route_cam, specimen_rows
from auditor.neural.routes.routes import Mode, count_of
from auditor.neural.routes.selection import RouteFrequency, Selector, route_frequency
from auditor.show.blocks import AnyBlock, ImageRow, Images, Measures, Text


class RouteMass(OfPairs):
    """Shares of the Grad-CAM mass at a layer that the route's channels hold, ``inside`` of its ``channels``.

    ``random``: of as many random channels; ``over_random``: the route minus these. ``change``: adversarial minus clean.
    ``undefined``: images without any mass. ``rows``: pictures of some images.
    """

    layer: str
    channels: int
    inside: int
    undefined: Sides[int]
    route: Sides[Estimate]
    random: Sides[Estimate]
    over_random: Sides[Estimate]
    change: Estimate
    rows: tuple[ImageRow, ...]


class GradCam(Analysis[RouteMass]):
    """Where a network looks through its critical attacking route (Li et al. 2021, Information Sciences).

    Grad-CAM at the route's last layer, once with the model-level route's channels and once with the others, both on one scale
    (Fig. 5), for clean and adversarial images; and the share of its mass that the route's channels hold.
    """

    title: ClassVar[str] = "Grad-CAM on the route"
    heading: ClassVar[str] = "Grad-CAM on and off the critical attacking route"
    kind: Literal["grad_cam"] = "grad_cam"
    images: int = Field(4, ge=0, le=20, description="Images that are shown; those that the attack fooled come first.")
    node: CamNode = Field(
        "activation",
        description="Maps taken at the activation after the last convolution, or at the convolution itself.",
    )
    target: Target = Field(
        "predicted", description="Class whose logit is explained: the one predicted for that very image, or the label."
    )
    width: float = Field(0.2, gt=0, le=1, description="Share of each layer's channels on the route of one image.")
    model_width: float = Field(0.3, gt=0, lt=1, description="Share of each layer's channels on the model-level route.")
    mode: Mode = Field("serial", description="How routes pass residual blocks: as one chain, or along every edge.")

    def cost(self, images: int) -> float:
        return 4.5 * images

    def measure(self, subject: Subject) -> tuple[str, RouteFrequency, RouteCam]:
        """The layer, the route, and the shares of all images with those to be shown."""
        found = route_frequency(subject.during(0.0, 0.3), width=self.width, mode=self.mode)
        layer, place = cam_layer(subject.classifier, found.layers[-1], self.node), len(found.layers) - 1
        selector = Selector({"route": found.order}, self.model_width, subject.seed)
        pairs = self.each(subject.during(0.3, 1.0))
        cam = route_cam(subject.classifier, pairs, layer, self.target, selector, place, self.images)
        return layer, found, cam

    def find(self, subject: Subject) -> RouteMass:
        layer, found, cam = self.measure(subject)
        return RouteMass(
            images=found.images,
            pairs=subject.pairs_from,
            layer=layer,
            channels=found.sizes[-1],
            inside=count_of(self.model_width, found.sizes[-1]),
            undefined=Sides[int].of(lambda side: int(np.isnan(cam.route[side]).sum())),
            route=Sides[Estimate].of(lambda side: Estimate.of_mean(cam.route[side])),
            random=Sides[Estimate].of(lambda side: Estimate.of_mean(cam.random[side])),
            over_random=Sides[Estimate].of(lambda side: Estimate.of_mean(cam.route[side] - cam.random[side])),
            change=Estimate.of_mean(cam.route["adversarial"] - cam.route["clean"]),
            rows=tuple(row for item in cam.shown for row in specimen_rows(subject.classifier, item)),
        )

    def doubts(self, found: RouteMass) -> Iterator[Flag]:
        if sum(found.undefined[side] for side in SIDES) > 0.1 * 2 * found.images:
            yield Flag(
                name="empty maps",
                severity="warning",
                message="For many images Grad-CAM is zero everywhere: no channel speaks for the class at that layer.",
                evidence=f"{' and '.join(f'{found.undefined[side]} {side}' for side in SIDES)} of {found.images} each.",
                remedy="Use the maps at another node.",
            )
        lows = {side: found.over_random[side].low for side in SIDES}
        usual = [side for side, low in lows.items() if low is not None and low <= 0]
        if usual:
            yield Flag(
                name="route holds no more than random channels",
                severity="info",
                message=f"On {' and '.join(usual)} images the route holds no more of the mass than the same number of "
                "random channels.",
                evidence="; ".join(f"{side}: route minus random {found.over_random[side]:.3f}" for side in usual),
            )

    def blocks(self, found: RouteMass) -> Iterator[AnyBlock]:
        expected = 100 * found.inside / found.channels
        explained = "the class predicted for that very image" if self.target == "predicted" else "the label"
        yield Text(
            text=f"Grad-CAM of {explained} at layer {found.layer}, of {found.images} images and their twins "
            f"({found.pairs}): {found.inside} of {found.channels} channels ({expected:.0f} %) are on the "
            "model-level route, which is that of the clean images with their true labels. No mass on either side: "
            f"{found.undefined.clean} clean and {found.undefined.adversarial} adversarial images, left out."
        )
        shares = {f"Mass on the route, {side}": found.route[side] for side in SIDES}
        shares |= {f"Mass on as many random channels, {side}": found.random[side] for side in SIDES}
        shares["Mass on the route, adversarial minus clean"] = found.change
        yield Measures(items=tuple(share.measure(title, unit="%") for title, share in shares.items()))
        if found.rows:
            yield Images(
                title="Where the network looks",
                rows=found.rows,
                reading="Bright is where the channels speak for the class. Both maps of a row are on one scale, so a dark one "
                "weighs little. A few images are examples and do not show how often this happens: read the shares "
                "above for that.",
            )
