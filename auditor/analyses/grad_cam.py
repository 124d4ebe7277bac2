"""Grad-CAM of the channels on the critical attacking route and of the others, on clean and adversarial images."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.analysis import Analysis, Finding, Pair, Subject
from auditor.classifier import Classifier
from auditor.errors import EvaluationError
from auditor.flag import Flag
from auditor.influence.routes import Mode, count_of
from auditor.influence.selection import Choice, RouteFrequency, Selector, route_frequency
from auditor.neurons import list_layers
from auditor.probes.cam import SplitCam, overlay, split_cam
from auditor.probes.layer_gradient import Slope, slopes
from auditor.progress import part_of
from auditor.report.blocks import ImageRow, Images, Measure, Measures, Section, Text
from auditor.report.pictures import picture
from auditor.statistics.association import Estimate, mean_estimate

SIDES = ("clean", "adversarial")
_COMPARED: tuple[Choice, ...] = ("route", "random")


class Specimen(NamedTuple):
    """One image to be shown: its id, and for the clean and the adversarial version the image, the class and the heat maps."""

    sample: int
    fooled: bool
    images: tuple[Tensor, ...]
    classes: tuple[int, ...]
    cams: tuple[SplitCam, ...]


class Shares(NamedTuple):
    """Share of the Grad-CAM mass inside, float64 (N,), NaN where there is no mass; by clean and adversarial version.

    ``random``: the same for as many channels drawn at random, for each image its own.
    """

    route: dict[str, NDArray[np.float64]]
    random: dict[str, NDArray[np.float64]]


class GradCam(Analysis):
    """Where a network looks through its critical attacking route (Li et al. 2021, Information Sciences).

    Grad-CAM at the route's last layer, once with the model-level route's channels and once with the others, both on one scale
    (Fig. 5), for clean and adversarial images; and the share of its mass that the route's channels hold.
    """

    title: ClassVar[str] = "Grad-CAM on the route"
    kind: Literal["grad_cam"] = "grad_cam"
    images: int = Field(4, ge=0, le=20, description="Images that are shown; those that the attack fooled come first.")
    node: Literal["activation", "conv"] = Field(
        "activation",
        description="Maps taken at the activation after the last convolution, or at the convolution itself.",
    )
    target: Literal["predicted", "label"] = Field(
        "predicted", description="Class whose logit is explained: the one predicted for that very image, or the label."
    )
    width: float = Field(0.2, gt=0, le=1, description="Share of each layer's channels on the route of one image.")
    model_width: float = Field(0.3, gt=0, lt=1, description="Share of each layer's channels on the model-level route.")
    mode: Mode = Field("serial", description="How routes pass residual blocks: as one chain, or along every edge.")

    @property
    def cost(self) -> float:
        return 3.0 + 2 * 3.0

    def measure(self, subject: Subject) -> tuple[str, RouteFrequency, Shares, list[Specimen]]:
        """The layer, the route, the shares of all images, and the images to be shown."""
        found = route_frequency(
            subject, width=self.width, mode=self.mode, on_progress=part_of(subject.on_progress, 0.0, 0.3)
        )
        layer = self._layer(subject.classifier, found.layers[-1])
        selector = Selector({"route": found.order}, self.model_width, subject.seed)
        parts: list[Shares] = []
        shown: list[Specimen] = []
        done = 0
        for pair in subject.pairs:
            share, specimens = self._look(subject.classifier, pair, layer, selector, len(found.layers) - 1)
            parts.append(share)
            # Stable: fooled ones first, each in the order of the images, so that the batch size does not matter.
            shown = sorted([*shown, *specimens], key=lambda item: not item.fooled)[: self.images]
            done += len(pair.sample)
            subject.on_progress(0.3 + 0.7 * done / len(subject.pairs), self.title)
        joined = [{side: np.concatenate([part[place][side] for part in parts]) for side in SIDES} for place in range(2)]
        return layer, found, Shares(*joined), shown

    def _layer(self, classifier: Classifier, last: str) -> str:
        """Where the maps are taken."""
        layers = list_layers(classifier)
        conv = next(layer for layer in layers if layer.name == last)
        if len(conv.spatial) != 2:
            raise EvaluationError(
                f"The route ends in {last}, which has no maps: there is nothing to lay over an image."
            )
        after = (
            layer.name
            for layer in layers[conv.depth :]
            if layer.kind == "activation" and (layer.neurons, layer.spatial) == (conv.neurons, conv.spatial)
        )
        return next(after, last) if self.node == "activation" else last

    def _look(
        self, classifier: Classifier, pair: Pair, layer: str, selector: Selector, last: int
    ) -> tuple[Shares, list[Specimen]]:
        (route,), (random,) = (
            selector.masks(choice, (last,), self.model_width, pair.sample, pair.x.device) for choice in _COMPARED
        )
        shares = Shares({}, {})
        cams, classes = [], []
        for side, x in zip(SIDES, (pair.x, pair.x_adv), strict=True):
            explained, slope = self._slope(classifier, x, pair.labels, layer)
            cam = split_cam(slope, route)
            shares.route[side] = cam.share.cpu().numpy()
            shares.random[side] = split_cam(slope, random).share.cpu().numpy()
            cams.append(cam.normalized())
            classes.append(explained.tolist())
        specimens = [
            Specimen(
                int(pair.sample[row]),
                bool(pair.fooled[row]),
                tuple(x[row].float().cpu() for x in (pair.x, pair.x_adv)),
                tuple(side[row] for side in classes),
                tuple(SplitCam(cam.inside[row].cpu(), cam.outside[row].cpu()) for cam in cams),
            )
            for row in sorted(range(len(pair.sample)), key=lambda row: not pair.fooled[row])[: self.images]
        ]
        return shares, specimens

    def _slope(self, classifier: Classifier, x: Tensor, labels: Tensor, layer: str) -> tuple[Tensor, Slope]:
        """The class explained of each image, (B,), and the gradient of its logit at the layer."""
        explained: list[Tensor] = []

        def logit(logits: Tensor) -> Tensor:
            explained.append(logits.detach().argmax(1) if self.target == "predicted" else labels)
            return logits.gather(1, explained[0][:, None]).sum()

        found = slopes(classifier, x, logit, (layer,))
        return explained[0], found.layers[layer]

    def run(self, subject: Subject) -> Finding:
        layer, found, shares, shown = self.measure(subject)
        route, random = shares
        size = found.sizes[-1]
        change = route["adversarial"] - route["clean"]
        undefined = {side: int(np.isnan(route[side]).sum()) for side in SIDES}
        data = {
            "images": found.images,
            "pairs": subject.pairs_from,
            "layer": layer,
            "channels": size,
            "inside": count_of(self.model_width, size),
            "undefined": undefined,
            "route": {side: _estimate(route[side]) for side in SIDES},
            "random": {side: _estimate(random[side]) for side in SIDES},
            "over_random": {side: _estimate(route[side] - random[side]) for side in SIDES},
            "change": _estimate(change),
            "rows": [row.model_dump() for item in shown for row in _rows(subject.classifier, item)],
        }
        return Finding(kind=self.kind, settings=self.settings(), data=data, flags=_doubts(data))

    def section(self, finding: Finding) -> Section:
        data = finding.data
        expected = 100 * data["inside"] / data["channels"]
        explained = "the class predicted for that very image" if self.target == "predicted" else "the label"
        return Section(
            key=self.kind,
            title="Grad-CAM on and off the critical attacking route",
            blocks=(
                Text(
                    text=f"Grad-CAM of {explained} at layer {data['layer']}, of {data['images']} images and their twins "
                    f"({data['pairs']}): {data['inside']} of {data['channels']} channels ({expected:.0f} %) are on the "
                    "model-level route, which is that of the clean images with their true labels. No mass on either side: "
                    f"{data['undefined']['clean']} clean and {data['undefined']['adversarial']} adversarial images, left out."
                ),
                Measures(
                    items=(
                        *(_share(f"Mass on the route, {side}", data["route"][side]) for side in SIDES),
                        *(_share(f"Mass on as many random channels, {side}", data["random"][side]) for side in SIDES),
                        _share("Mass on the route, adversarial minus clean", data["change"]),
                    )
                ),
                *self._pictures(data),
            ),
        )

    def _pictures(self, data: dict[str, Any]) -> tuple[Images, ...]:
        rows = tuple(ImageRow.model_validate(row) for row in data["rows"])
        if not rows:
            return ()
        return (
            Images(
                title="Where the network looks",
                rows=rows,
                reading="Bright is where the channels speak for the class. Both maps of a row are on one scale, so a dark one "
                "weighs little. A few images show how it looks, not how often: read the shares above for that.",
            ),
        )


def _rows(classifier: Classifier, item: Specimen) -> list[ImageRow]:
    """The clean version and the adversarial one, each with the map of the route and that of the other channels."""
    outcome = "fooled" if item.fooled else "not fooled"
    rows = []
    for side, x, explained, cam in zip(SIDES, item.images, item.classes, item.cams, strict=True):
        what = f"sample {item.sample}, {side}"
        pictures = [("image", x), ("on the route", overlay(x, cam.inside)), ("off the route", overlay(x, cam.outside))]
        rows.append(
            ImageRow(
                title=f"Sample {item.sample} ({outcome}), {side}: {classifier.class_name(explained)}",
                images=tuple(picture(image, title, f"{title}, {what}") for title, image in pictures),
            )
        )
    return rows


def _estimate(values: NDArray[np.float64]) -> dict[str, Any]:
    """Mean over the images where it is defined, as data."""
    return mean_estimate(values[~np.isnan(values)])._asdict()


def _share(title: str, estimate: dict[str, Any]) -> Measure:
    return Measure(title=title, unit="%", **estimate)


def _doubts(data: dict[str, Any]) -> tuple[Flag, ...]:
    flags = []
    if sum(data["undefined"].values()) > 0.1 * 2 * data["images"]:
        flags.append(
            Flag(
                name="empty maps",
                severity="warning",
                message="For many images Grad-CAM is zero everywhere: no channel speaks for the class at that layer.",
                evidence=" and ".join(f"{data['undefined'][side]} {side}" for side in SIDES)
                + f" of {data['images']} each.",
                remedy="Take the maps at another node.",
            )
        )
    usual = [
        side for side in SIDES if data["over_random"][side]["low"] is not None and data["over_random"][side]["low"] <= 0
    ]
    if usual:
        flags.append(
            Flag(
                name="route holds no more than random channels",
                severity="info",
                message=f"On {' and '.join(usual)} images the route holds no more of the mass than as many random channels.",
                evidence="; ".join(
                    f"{side}: route minus random {Estimate(**data['over_random'][side])}" for side in usual
                ),
            )
        )
    return tuple(flags)
