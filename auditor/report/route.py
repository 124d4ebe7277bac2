"""The critical attacking route in a result: figures and tables drawn from what the analysis found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from auditor.report.blocks import AnyBlock, Column, Figure, Measure, Measures, Table, Text
from auditor.report.route_map import model_route, route_figure, route_table


def overview(data: dict[str, Any], how: str, width: float, model_width: float) -> tuple[AnyBlock, ...]:
    """All layers: occurrence, overlap, and what lies on and off the route.

    ``how`` says in words along which edges; the widths are those of the analysis.
    """
    layers, route = data["layers"], model_route(data)
    share, wide = f"{100 * width:g} %", f"{100 * model_width:g} %"
    bound = max(layer["occurrence"]["bound"] for layer in layers)
    agreed = data["agreement"]
    blocks: list[AnyBlock] = [
        Text(
            text=f"Routes of {data['images']} images and of their twins ({data['pairs']}) through {len(layers)} layers, {how}, "
            f"with the true label: {share} of a layer's neurons on the route of an image, {wide} on that of the model."
        ),
        *(Text(text=sentence, tone="note") for sentence in data["left_out"][:10]),
        Measures(
            items=(
                Measure(
                    title="Agreement of a part of the images with all of them",
                    value=agreed["mean"],
                    n=agreed["parts"],
                    unit="%",
                    higher_is_better=True,
                    explanation=f"Share of the model's route that a random part of the images finds too, mean over "
                    f"{agreed['parts']} parts of equal size (from {100 * agreed['lowest']:.1f} to "
                    f"{100 * agreed['highest']:.1f} %) and the layers; random neurons would give "
                    f"{100 * agreed['chance']:.1f} %. The images of a part are among all.",
                ),
            )
        ),
        route_figure(route, "The route of the model over the layers", select="layer"),
        route_table(route),
        Text(text="The Neurons page shows the routes of single classes and images, too."),
        Figure(
            chart="layer_lines",
            title="How often the same neurons are on the route",
            rows=tuple(
                _point(layer, series, layer["occurrence"][key])
                for key, series in (("clean", "clean"), ("adversarial", "adversarial"), ("chance", "random routes"))
                for layer in layers
            ),
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
    for what, title, unit in (
        ("sensitivity", "Neuron sensitivity on and off the route", "mean |Δ output|"),
        ("gradient", "Loss gradient on and off the route", "mean over images of Σ |dL/dZ|"),
    ):
        blocks.append(
            Figure(
                chart="layer_lines",
                title=title,
                rows=tuple(_contrast_rows(layers, what)),
                options={"y": unit, "log": True},
                reading=f"Mean over the neurons of the model's route ({wide}) and over the others; the bars of 'random neurons' "
                "hold 95 % of random sets of as many neurons of the layer. Only where the route lies above them does it hold "
                "more than any neurons would."
                + (
                    " In the last layer the route is chosen by this gradient, so that it must."
                    if what == "gradient"
                    else ""
                ),
                select="layer",
            )
        )
    return tuple(blocks)


def one_layer(layer: dict[str, Any], class_names: Sequence[str]) -> tuple[AnyBlock, ...]:
    """The neurons of a layer: how often they are on clean and on adversarial routes, and the routes of each class."""
    rows = _neuron_rows(layer)
    overlap, occurs = layer["overlap"], layer["occurrence"]
    return (
        Text(
            text=f"{layer['name']}: {layer['neurons']} neurons, {layer['image_count']} on the route of an image and "
            f"{layer['route_count']} on that of the model. The model's route on clean images and that on their twins have "
            f"a Jaccard index of {overlap['model']:.2f} (random sets: {overlap['model_chance']:.2f}). Mean occurrence over the "
            f"model's route: {100 * occurs['model']:.1f} %, at most {100 * occurs['bound']:.1f} %."
        ),
        Figure(
            chart="scatter",
            title=f"Neurons of {layer['name']} on the route",
            rows=rows,
            options={"x": "share of clean images", "y": "share of adversarial images", "group": "route of the model"},
            reading="Each point is one neuron. Above the diagonal it is more often on the route of an adversarial image.",
        ),
        Table(
            title=f"The model's route in {layer['name']}, most frequent first",
            columns=(
                Column(key="neuron", title="Neuron"),
                Column(key="x", title="Clean", format=".1%"),
                Column(key="y", title="Adversarial", format=".1%"),
                Column(key="sensitivity", title="Sensitivity", format=".4g"),
                Column(key="gradient", title="Loss gradient", format=".4g"),
            ),
            rows=tuple(rows[index] for index in layer["route"]["clean"][:20]),
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
                    "class": class_names[item["class"]]
                    if item["class"] < len(class_names)
                    else f"class {item['class']}",
                    "images": item["images"],
                    "neurons": ", ".join(
                        f"{neuron} ({100 * share:.0f} %)"
                        for neuron, share in zip(item["neurons"], item["frequency"], strict=True)
                    ),
                }
                for item in layer["classes"]
            ),
            caption=f"Clean images; the {len(layer['classes'])} classes with most of them.",
        ),
    )


def _point(
    layer: dict[str, Any], series: str, value: float | None, low: float | None = None, high: float | None = None
) -> dict[str, Any]:
    return {"layer": layer["name"], "depth": layer["depth"], "series": series, "value": value, "low": low, "high": high}


def _overlaps(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for key, series in (("twins", "an image and its twin"), ("neighbours", "two different clean images")):
        for layer in layers:
            item = layer["overlap"][key]
            if item is not None:
                rows.append(_point(layer, series, item["value"], item["low"], item["high"]))
    return rows + [_point(layer, "two random sets", layer["overlap"]["chance"]) for layer in layers]


def _contrast_rows(layers: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    rows = []
    for layer in layers:
        item = layer["contrast"][what]
        for key, series in (("on", "on the route"), ("off", "off the route")):
            if item[key] is not None:
                rows.append(_point(layer, series, item[key]["value"], item[key]["low"], item[key]["high"]))
        mean = float(np.mean(layer["mean"][what]))
        rows.append(_point(layer, "random neurons", mean, item["random_low"], item["random_high"]))
    return rows


def _neuron_rows(layer: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    on = {which: set(indices) for which, indices in layer["route"].items()}
    words = {(True, True): "both", (True, False): "clean only", (False, True): "adversarial only", (False, False): "no"}
    return tuple(
        {
            "neuron": neuron,
            "x": clean,
            "y": adversarial,
            "sensitivity": layer["mean"]["sensitivity"][neuron],
            "gradient": layer["mean"]["gradient"][neuron],
            "group": words[neuron in on["clean"], neuron in on["adversarial"]],
        }
        for neuron, (clean, adversarial) in enumerate(
            zip(layer["frequency"]["clean"], layer["frequency"]["adversarial"], strict=True)
        )
    )
