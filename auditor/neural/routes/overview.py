"""The critical attacking route in a result: figures and tables drawn from what the analysis found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from auditor.kit.statistics.estimate import Estimate
from auditor.neural.found import SIDES
from auditor.neural.routes.contrasts import QUANTITIES, Quantity
from auditor.neural.routes.critical import Critical, CriticalLayer
from auditor.neural.routes.route_map import route_figure, route_table, stored_model_route
from auditor.show.blocks import AnyBlock, Column, Figure, Measure, Measures, Row, Table, Text


def overview(found: Critical, how: str, width: float, model_width: float) -> tuple[AnyBlock, ...]:
    """All layers: occurrence, overlap, and what lies on and off the route.

    ``how`` says along which edges; the widths are those of the analysis.
    """
    layers, route = found.layers, stored_model_route(found)
    share, wide = f"{100 * width:g} %", f"{100 * model_width:g} %"
    bound = max(layer.occurrence.bound for layer in layers)
    agreed = found.agreement
    blocks: list[AnyBlock] = [
        Text(
            text=f"Routes of {found.images} images and of their twins ({found.pairs}) through {len(layers)} layers, {how}, "
            f"with the true label: {share} of a layer's neurons on the route of an image, {wide} on that of the model."
        ),
        *(Text(text=sentence, tone="note") for sentence in found.left_out[:10]),
        Measures(
            items=(
                Measure(
                    title="Agreement of a part of the images with all of them",
                    value=agreed.mean,
                    n=agreed.parts,
                    unit="%",
                    higher_is_better=True,
                    explanation="Share of the model's route that a random part of the images finds too, mean over "
                    f"{agreed.parts} parts of equal size (from {100 * agreed.lowest:.1f} to {100 * agreed.highest:.1f} "
                    f"%) and the layers; random neurons would give {100 * agreed.chance:.1f} %. The images of a part "
                    "are among all.",
                ),
            )
        ),
        route_figure(route, "The route of the model over the layers", select="layer"),
        route_table(route),
        Text(text="The Neurons page shows the routes of single classes and images, too."),
        Figure(
            chart="layer_lines",
            title="How often the same neurons are on the route",
            rows=tuple(_occurrence(layers)),
            options={"y": f"mean occurrence of the top {share}", "share": True},
            reading=f"Share of the images on whose route a neuron is, averaged over the {share} of each layer that occur most. "
            f"100 % means that all images share one route; averaged over the model's route ({wide}) it could not exceed "
            f"{100 * bound:.1f} %.",
            select="layer",
        ),
        Figure(
            chart="layer_lines",
            title="Overlap of clean and adversarial routes",
            rows=tuple(_overlaps(layers)),
            options={"y": "Jaccard index of two routes", "share": True},
            reading="Neurons on both routes, as a share of those on either, averaged over the images (bars: 95 % interval). "
            "An attack that changes the route brings the first line down towards that of two different clean images.",
            select="layer",
        ),
    ]
    contrasts: tuple[tuple[Quantity, str, str], ...] = (
        ("sensitivity", "Neuron sensitivity on and off the route", "mean |Δ output|"),
        ("gradient", "Loss gradient on and off the route", "mean over images of Σ |dL/dZ|"),
    )
    for what, title, unit in contrasts:
        blocks.append(
            Figure(
                chart="layer_lines",
                title=title,
                rows=tuple(_contrast_rows(layers, what)),
                options={"y": unit, "log": True},
                reading=f"Mean over the neurons of the model's route ({wide}) and over the others; the bars of 'random neurons' "
                "hold 95 % of random sets of as many neurons of the layer. Only where the route lies above these "
                "bars does it stand out."
                + (
                    " In the last layer the route is chosen by this gradient, so there it always does."
                    if what == "gradient"
                    else ""
                ),
                select="layer",
            )
        )
    return tuple(blocks)


def one_layer(layer: CriticalLayer, class_names: Sequence[str]) -> tuple[AnyBlock, ...]:
    """The neurons of a layer: how often they are on clean and on adversarial routes, and the routes of each class."""
    rows = _neuron_rows(layer)
    overlap, occurs = layer.overlap, layer.occurrence
    return (
        Text(
            text=f"{layer.name}: {layer.neurons} neurons, {layer.image_count} on the route of an image and "
            f"{layer.route_count} on that of the model. The model's route on clean images and that on their twins have "
            f"a Jaccard index of {overlap.model:.2f} (random sets: {overlap.model_chance:.2f}). Mean occurrence over the "
            f"model's route: {100 * occurs.model:.1f} %, at most {100 * occurs.bound:.1f} %."
        ),
        Figure(
            chart="scatter",
            title=f"Neurons of {layer.name} on the route",
            rows=rows,
            options={"x": "share of clean images", "y": "share of adversarial images", "group": "route of the model"},
            reading="Each point is one neuron. Above the diagonal it is more often on the route of an adversarial image.",
        ),
        Table(
            title=f"The model's route in {layer.name}, most frequent first",
            columns=(
                Column(key="neuron", title="Neuron"),
                Column(key="x", title="Clean", format=".1%"),
                Column(key="y", title="Adversarial", format=".1%"),
                Column(key="sensitivity", title="Sensitivity", format=".4g"),
                Column(key="gradient", title="Loss gradient", format=".4g"),
            ),
            rows=tuple(rows[index] for index in layer.route.clean[:20]),
        ),
        Table(
            title="Most frequent neurons by class",
            columns=(
                Column(key="class", title="Class"),
                Column(key="images", title="Images"),
                Column(key="neurons", title="Neurons (share of the class's images)"),
            ),
            rows=tuple(
                {
                    "class": class_names[item.label] if item.label < len(class_names) else f"class {item.label}",
                    "images": item.images,
                    "neurons": ", ".join(
                        f"{neuron} ({100 * share:.0f} %)"
                        for neuron, share in zip(item.neurons, item.frequency, strict=True)
                    ),
                }
                for item in layer.classes
            ),
            caption=f"Clean images; the {len(layer.classes)} classes with most of them.",
        ),
    )


def _point(
    layer: CriticalLayer, series: str, value: float | None, low: float | None = None, high: float | None = None
) -> Row:
    return {"layer": layer.name, "depth": layer.depth, "series": series, "value": value, "low": low, "high": high}


def _points(layer: CriticalLayer, series: str, item: Estimate | None) -> list[Row]:
    """A point with its interval, or no point if the value is missing."""
    return [] if item is None else [_point(layer, series, item.value, item.low, item.high)]


def _occurrence(layers: Sequence[CriticalLayer]) -> Iterator[Row]:
    yield from (_point(layer, "clean", layer.occurrence.clean) for layer in layers)
    yield from (_point(layer, "adversarial", layer.occurrence.adversarial) for layer in layers)
    yield from (_point(layer, "random routes", layer.occurrence.chance) for layer in layers)


def _overlaps(layers: Sequence[CriticalLayer]) -> Iterator[Row]:
    for layer in layers:
        yield from _points(layer, "an image and its twin", layer.overlap.twins)
    for layer in layers:
        yield from _points(layer, "two different clean images", layer.overlap.neighbours)
    yield from (_point(layer, "two random sets", layer.overlap.chance) for layer in layers)


def _contrast_rows(layers: Sequence[CriticalLayer], what: Quantity) -> Iterator[Row]:
    for layer in layers:
        item = layer.contrast[what]
        yield from _points(layer, "on the route", item.on)
        yield from _points(layer, "off the route", item.off)
        mean = float(np.mean(layer.mean[what]))
        yield _point(layer, "random neurons", mean, item.random_low, item.random_high)


def _neuron_rows(layer: CriticalLayer) -> tuple[Row, ...]:
    on = {side: set(layer.route[side]) for side in SIDES}
    words = {(True, True): "both", (True, False): "clean only", (False, True): "adversarial only", (False, False): "no"}
    values = (*(layer.frequency[side].tolist() for side in SIDES), *(layer.mean[what].tolist() for what in QUANTITIES))
    return tuple(
        {
            "neuron": neuron,
            "x": clean,
            "y": adversarial,
            "sensitivity": sensitivity,
            "gradient": gradient,
            "group": words[neuron in on["clean"], neuron in on["adversarial"]],
        }
        for neuron, (clean, adversarial, sensitivity, gradient) in enumerate(zip(*values, strict=True))
    )
