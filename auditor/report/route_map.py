"""The critical route over the layers, clean against adversarial: of the model, of a class, of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from auditor.errors import NotFoundError
from auditor.influence.route_tally import SIDES, chance_jaccard
from auditor.report.blocks import Column, Figure, Table

HEIGHTS = 340, 640
"""Pixels of the figure, at least and at most: in between, a neuron of the widest layer is a little more than one pixel high."""

GROUPS = {(True, True): "both", (True, False): "clean only", (False, True): "adversarial only"}


class LayerRoute(NamedTuple):
    """One layer of a route: indices of the neurons on it, as many for clean images as for adversarial ones.

    ``depth``: from 1 at the input. ``neurons``: of the layer. ``frequency``: where known, the share of the clean and of the
    adversarial images on whose routes each neuron is, (neurons,) each.
    """

    name: str
    depth: int
    neurons: int
    clean: Sequence[int]
    adversarial: Sequence[int]
    frequency: dict[str, list[float]] | None = None

    @property
    def common(self) -> int:
        return len(set(self.clean) & set(self.adversarial))

    @property
    def jaccard(self) -> float:
        """|both| / |either|."""
        return self.common / len(set(self.clean) | set(self.adversarial))


class RouteSample(NamedTuple):
    """An image whose routes were kept: its id, its true class, and what the model says of it and of its twin."""

    id: int
    label: int
    clean: int
    adversarial: int


def model_route(data: dict[str, Any]) -> tuple[LayerRoute, ...]:
    """The route of the model, from the data of a finding of the analysis ``critical_route``, as in the functions below."""
    return tuple(_layer(layer, layer["route"], layer["frequency"]) for layer in data["layers"])


def class_route(data: dict[str, Any], label: int) -> tuple[LayerRoute, ...]:
    """The route of one class. Raises NotFoundError."""
    if label not in classes_in(data):
        raise NotFoundError(f"The route of class {label} was not kept.", "Choose one of the classes listed.")
    found = [next(item for item in layer["classes"] if item["class"] == label) for layer in data["layers"]]
    return tuple(_layer(layer, item["route"]) for layer, item in zip(data["layers"], found, strict=True))


def image_route(data: dict[str, Any], sample: int) -> tuple[LayerRoute, ...]:
    """The route of one image, by the id of its sample. Raises NotFoundError."""
    ids = [one.id for one in samples_in(data)]
    if sample not in ids:
        raise NotFoundError(f"The route of sample {sample} was not kept.", "Choose one of the images listed.")
    place = ids.index(sample)
    return tuple(_layer(layer, {side: layer["samples"][side][place] for side in SIDES}) for layer in data["layers"])


def classes_in(data: dict[str, Any]) -> dict[int, int]:
    """The classes whose routes are kept, with their numbers of images; none in findings from before they were."""
    return {item["class"]: item["images"] for item in data["layers"][0]["classes"] if "route" in item}


def samples_in(data: dict[str, Any]) -> tuple[RouteSample, ...]:
    """The images whose routes are kept; none in findings from before they were."""
    return tuple(RouteSample(**item) for item in data.get("samples", ()))


def route_figure(route: Sequence[LayerRoute], title: str, *, select: str = "") -> Figure:
    """A column for each layer, from input to output, and a mark for each neuron that is on the clean or the adversarial route."""
    return Figure(
        chart="route_map",
        title=title,
        rows=tuple(row for layer in route for row in _marks(layer)),
        options={"height": min(HEIGHTS[1], max(HEIGHTS[0], round(1.25 * max(layer.neurons for layer in route))))},
        reading="Each column is a layer, from input to output; each mark in it is a neuron, the first of the layer at the "
        "bottom. Grey neurons are on the clean and on the adversarial route, blue ones only on the clean, orange ones only on "
        "the adversarial: where these prevail, the attack goes another way through the network.",
        select=select,
    )


def route_table(route: Sequence[LayerRoute]) -> Table:
    """Of each layer, how much of the route clean and adversarial images have in common, beside what chance would give."""
    return Table(
        columns=(
            Column(key="layer", title="Layer"),
            Column(key="neurons", title="Neurons"),
            Column(key="route", title="On a route"),
            Column(key="common", title="On both"),
            Column(key="jaccard", title="Jaccard", format=".2f"),
            Column(key="chance", title="By chance", format=".2f"),
        ),
        rows=tuple(
            {
                "layer": layer.name,
                "neurons": layer.neurons,
                "route": len(layer.clean),
                "common": layer.common,
                "jaccard": layer.jaccard,
                "chance": chance_jaccard(layer.neurons, len(layer.clean)),
            }
            for layer in route
        ),
        caption="Jaccard: neurons on both routes as a share of those on either. By chance: what two random sets of as many "
        "neurons would have on average.",
    )


def _layer(
    layer: dict[str, Any], sides: dict[str, list[int]], frequency: dict[str, list[float]] | None = None
) -> LayerRoute:
    return LayerRoute(
        layer["name"], layer["depth"], layer["neurons"], sides["clean"], sides["adversarial"], frequency
    )  # fmt: skip


def _marks(layer: LayerRoute) -> list[dict[str, Any]]:
    clean, adversarial = set(layer.clean), set(layer.adversarial)
    return [
        {
            "layer": layer.name,
            "depth": layer.depth,
            "neuron": neuron,
            "from": neuron / layer.neurons,
            "to": (neuron + 1) / layer.neurons,
            "group": GROUPS[neuron in clean, neuron in adversarial],
        }
        | ({side: layer.frequency[side][neuron] for side in SIDES} if layer.frequency else {})
        for neuron in sorted(clean | adversarial)
    ]
