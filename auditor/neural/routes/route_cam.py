"""Grad-CAM at the end of the critical route, split into its channels and the others: shares of the mass, and images to show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier
from auditor.models.neurons import list_layers
from auditor.neural.analysis import Pair
from auditor.neural.found import SIDES, Side
from auditor.neural.probes.cam import SplitCam, overlay, split_cam
from auditor.neural.probes.layer_gradient import Slope, slopes
from auditor.neural.routes.selection import Choice, Selector
from auditor.show.blocks import ImageRow
from auditor.show.pictures import picture

CamNode = Literal["activation", "conv"]
Target = Literal["predicted", "label"]
RouteShares = dict[Side, NDArray[np.float64]]
"""Share of the Grad-CAM mass inside, float64 (N,), NaN if there is no mass; by clean and adversarial version."""

_COMPARED: tuple[Choice, ...] = ("route", "random")


class CamExample(NamedTuple):
    """One image to be shown: its id, and for the clean and the adversarial version the image, the class and the heat maps."""

    sample: int
    fooled: bool
    images: tuple[Tensor, ...]
    classes: tuple[int, ...]
    cams: tuple[SplitCam, ...]


class RouteCam(NamedTuple):
    """``route``: shares of the route's channels. ``random``: of as many channels drawn at random, for each image its own.

    ``shown``: the images to be shown.
    """

    route: RouteShares
    random: RouteShares
    shown: list[CamExample]


def cam_layer(classifier: Classifier, last: str, node: CamNode) -> str:
    """Where the maps are taken, of a route that ends in the layer ``last``. Raises EvaluationError if it has no maps."""
    layers = list_layers(classifier)
    conv = next(layer for layer in layers if layer.name == last)
    if len(conv.spatial) != 2:
        raise EvaluationError(f"The route ends in {last}, which has no maps: there is nothing to lay over an image.")
    after = (
        layer.name
        for layer in layers[conv.depth :]
        if layer.kind == "activation" and (layer.neurons, layer.spatial) == (conv.neurons, conv.spatial)
    )
    return next(after, last) if node == "activation" else last


def route_cam(
    classifier: Classifier, pairs: Iterable[Pair], layer: str, target: Target, selector: Selector, place: int, most: int
) -> RouteCam:
    """All images; up to ``most`` to be shown. ``place``: that of the layer on the route, at the selector's width."""
    parts: list[RouteCam] = []
    shown: list[CamExample] = []
    for pair in pairs:
        found = _look(classifier, pair, layer, target, selector, place, most)
        parts.append(found._replace(shown=[]))
        # Stable: fooled ones first, each in the order of the images, so the batch size does not matter.
        shown = sorted([*shown, *found.shown], key=lambda item: not item.fooled)[:most]
    route: RouteShares = {side: np.concatenate([part.route[side] for part in parts]) for side in SIDES}
    random: RouteShares = {side: np.concatenate([part.random[side] for part in parts]) for side in SIDES}
    return RouteCam(route, random, shown)


def _look(
    classifier: Classifier, pair: Pair, layer: str, target: Target, selector: Selector, place: int, most: int
) -> RouteCam:
    """One batch."""
    (route,), (random,) = (
        selector.masks(choice, (place,), selector.width, pair.sample, pair.x.device) for choice in _COMPARED
    )
    found = RouteCam({}, {}, [])
    cams, classes = [], []
    for side, x in zip(SIDES, (pair.x, pair.x_adv), strict=True):
        explained, slope = _slope(classifier, x, pair.labels, layer, target)
        cam = split_cam(slope, route)
        found.route[side] = cam.share.cpu().numpy()
        found.random[side] = split_cam(slope, random).share.cpu().numpy()
        cams.append(cam.normalized())
        classes.append(explained.tolist())
    for row in sorted(range(len(pair.sample)), key=lambda row: not pair.fooled[row])[:most]:
        images = tuple(x[row].float().cpu() for x in (pair.x, pair.x_adv))
        maps = tuple(SplitCam(cam.inside[row].cpu(), cam.outside[row].cpu()) for cam in cams)
        said = tuple(side[row] for side in classes)
        found.shown.append(CamExample(int(pair.sample[row]), bool(pair.fooled[row]), images, said, maps))
    return found


def _slope(classifier: Classifier, x: Tensor, labels: Tensor, layer: str, target: Target) -> tuple[Tensor, Slope]:
    """The class explained of each image, (B,), and the gradient of its logit at the layer."""
    explained: list[Tensor] = []

    def logit(logits: Tensor) -> Tensor:
        explained.append(logits.detach().argmax(1) if target == "predicted" else labels)
        return logits.gather(1, explained[0][:, None]).sum()

    found = slopes(classifier, x, logit, (layer,))
    return explained[0], found.layers[layer]


def specimen_rows(classifier: Classifier, item: CamExample) -> list[ImageRow]:
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
