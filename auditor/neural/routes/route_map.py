"""The critical route over the layers, clean against adversarial: of the model, of a class, of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from auditor.kit.errors import NotFoundError
from auditor.neural.found import SIDES, Sides, Values
from auditor.neural.routes.critical import Critical, CriticalLayer, RouteSample
from auditor.neural.routes.route_tally import Indices, chance_jaccard
from auditor.show.blocks import Column, Figure, Row, Table

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
    frequency: Sides[Values] | None = None

    @property
    def common(self) -> int:
        return len(set(self.clean) & set(self.adversarial))

    @property
    def jaccard(self) -> float:
        """|both| / |either|."""
        return self.common / len(set(self.clean) | set(self.adversarial))


def stored_model_route(found: Critical) -> tuple[LayerRoute, ...]:
    """The route of the model."""
    return tuple(_layer(layer, layer.route, layer.frequency) for layer in found.layers)


def class_route(found: Critical, label: int) -> tuple[LayerRoute, ...]:
    """The route of one class. Raises NotFoundError."""
    if label not in classes_in(found):
        raise NotFoundError(f"The route of class {label} was not kept.", "Choose one of the classes listed.")
    routes = ((layer, item.route) for layer in found.layers for item in layer.classes if item.label == label)
    return tuple(_layer(layer, route) for layer, route in routes if route is not None)


def image_route(found: Critical, sample: int) -> tuple[LayerRoute, ...]:
    """The route of one image, by the id of its sample. Raises NotFoundError."""
    ids = [one.id for one in found.samples]
    if sample not in ids:
        raise NotFoundError(f"The route of sample {sample} was not kept.", "Choose one of the images listed.")
    place = ids.index(sample)
    return tuple(_layer(layer, _at(layer.samples, place)) for layer in found.layers)


def classes_in(found: Critical) -> dict[int, int]:
    """The classes whose routes are kept, with their numbers of images; none in findings from before they were."""
    return {item.label: item.images for item in found.layers[0].classes if item.route is not None}


def samples_in(found: Critical) -> tuple[RouteSample, ...]:
    """The images whose routes are kept; none in findings from before they were."""
    return found.samples


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
    """Of each layer, how much of the route clean and adversarial images have in common, and what chance would give."""
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


def _at(routes: Sides[tuple[Indices, ...]], place: int) -> Sides[Indices]:
    return Sides[Indices](clean=routes.clean[place], adversarial=routes.adversarial[place])


def _layer(layer: CriticalLayer, route: Sides[Indices], frequency: Sides[Values] | None = None) -> LayerRoute:
    return LayerRoute(layer.name, layer.depth, layer.neurons, route.clean, route.adversarial, frequency)


def _marks(layer: LayerRoute) -> list[Row]:
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
        | ({side: float(layer.frequency[side][neuron]) for side in SIDES} if layer.frequency else {})
        for neuron in sorted(clean | adversarial)
    ]
