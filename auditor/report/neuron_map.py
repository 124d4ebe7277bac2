"""The network as a map, coloured by what an analysis says of its neurons: modules, their layers, their neurons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from auditor.auditing.result import AuditResult
from auditor.kit.errors import NotFoundError
from auditor.neural.analysis import MeasuredLayer, NeuronMeasure, measures_of
from auditor.show.blocks import AnyBlock, Column, Figure, Measure, Measures, Row, Table, Text, apart
from auditor.show.charts import domain_of
from auditor.show.export import csv_text

COLUMNS = 8
"""Boxes in one row of the map."""
ROW_HEIGHT = 52
"""Pixels."""
BINS = 24
LISTED = 20
"""Neurons in the table of a layer."""


def measures_in(result: AuditResult) -> dict[str, NeuronMeasure]:
    """Every measure of single neurons that an audit has, by key."""
    return measures_of(result.findings)


def of_kind(measure: NeuronMeasure, kind: str) -> NeuronMeasure:
    """The measure on the layers of one kind (all where empty)."""
    return measure._replace(layers=tuple(layer for layer in measure.layers if kind in ("", layer.kind)))


def module_of(layer: str) -> str:
    """What holds a layer: ``layer1.0`` for ``layer1.0.conv1``; a layer at the top holds itself."""
    return layer.rpartition(".")[0] or layer


def network_map(
    measure: NeuronMeasure, *, collapse: bool, beside: Sequence[NeuronMeasure] = (), module: str = ""
) -> Figure:
    """A box for each layer, or each module where ``collapse``; coloured by the mean over its neurons.

    ``beside``: other models' measures that share the scale. ``module``: only its layers.
    """
    layers = [layer for layer in measure.layers if module in ("", module_of(layer.name))]
    names = [module_of(layer.name) if collapse else layer.name for layer in layers]
    boxes = [
        (name, [layer for layer, at in zip(layers, names, strict=True) if at == name]) for name in dict.fromkeys(names)
    ]
    rows = tuple(_box(order, name, inside, collapse) for order, (name, inside) in enumerate(boxes))
    what = "modules" if collapse else "layers"
    return Figure(
        chart="layer_map",
        title=f"{measure.title}: {what} of {module}" if module else f"{measure.title}: the network's {what}",
        rows=rows,
        options={
            "value": f"{measure.unit}, mean over the neurons",
            "domain": domain_of([mean_of(layer) for one in (measure, *beside) for layer in one.layers]),
            "height": ROW_HEIGHT * -(-len(rows) // COLUMNS),
        },
        reading=f"Each box is a {what[:-1]}, in the order in which the network runs them, row by row. {measure.reading}",
        select="module" if collapse else "layer",
    )


def layer_blocks(measure: NeuronMeasure, name: str, beside: Sequence[NeuronMeasure] = ()) -> tuple[AnyBlock, ...]:
    """A layer's neurons sorted, their histogram, and the first of them as a table. Raises NotFoundError."""
    layer = _layer(measure, name)
    others = [other.values for one in beside for other in one.layers if other.name == name]
    order = np.argsort(np.where(np.isnan(layer.values), np.inf, -layer.values), kind="stable")
    marked = set(layer.marked.tolist())
    rows = tuple(
        {
            "rank": rank,
            "neuron": int(neuron),
            "value": _plain(layer.values[neuron]),
            "marked": "yes" if int(neuron) in marked else "no",
        }
        for rank, neuron in enumerate(order, 1)
    )
    seen = layer.values[~np.isnan(layer.values)]
    blocks: list[AnyBlock] = [
        Text(text=f"{name}: {layer.kind}, {len(rows)} neurons; {len(marked)} of them marked: {measure.marked_as}."),
        Figure(
            chart="neuron_values",
            title=f"Neurons of {name}, largest first",
            rows=rows,
            options={
                "y": measure.unit,
                "marked": measure.marked_as,
                "domain": domain_of([value for values in (layer.values, *others) for value in values.tolist()]),
            },
            reading=f"Each bar is one neuron: a channel, or a unit of a linear layer. {measure.reading}",
            select="neuron",
        ),
    ]
    if len(seen) > 1:
        blocks.append(_histogram(measure, name, seen, [values[~np.isnan(values)] for values in others]))
    value, marked_as = apart(("Rank", "Neuron", measure.unit, measure.marked_as.capitalize()))[2:]
    columns = (
        Column(key="rank", title="Rank"),
        Column(key="neuron", title="Neuron"),
        Column(key="value", title=value, format=".5g"),
        Column(key="marked", title=marked_as),
    )
    blocks.append(Table(title=f"First neurons of {name}", columns=columns, rows=rows[:LISTED]))
    return tuple(blocks)


def _histogram(
    measure: NeuronMeasure, name: str, values: NDArray[np.float64], others: Sequence[NDArray[np.float64]]
) -> Figure:
    """The distribution of a layer's values, in bins and on a scale that the others' would have, too."""
    every = [values, *(other for other in others if len(other))]
    edges = np.histogram_bin_edges(np.concatenate(every), BINS)
    tops = [float(np.histogram(each, edges)[0].max()) / len(each) for each in every]
    counts = [*np.histogram(values, edges)[0].tolist(), 0]  # the empty bin at the end draws the last edge
    bins = zip(edges.tolist(), [*edges[1:].tolist(), float(edges[-1])], counts, strict=True)
    return Figure(
        chart="histogram",
        title=f"How the neurons of {name} are distributed",
        rows=tuple(
            {"low": low, "high": high, "count": count, "share": count / len(values), "series": measure.title}
            for low, high, count in bins
        ),
        options={"x": measure.unit, "y": "share of the neurons", "domain": [0, max(tops)], "height": 200},
        reading="A long tail to the right means that few neurons carry most of it.",
    )


def neuron_blocks(measures: Sequence[NeuronMeasure], name: str, neuron: int) -> tuple[AnyBlock, ...]:
    """One neuron under every measure that knows its layer: value and rank within the layer. Raises NotFoundError."""
    items = []
    for measure in measures:
        layer = next((one for one in measure.layers if one.name == name), None)
        if layer is not None and neuron < len(layer.values):
            value = _plain(layer.values[neuron])
            rank = None if value is None else 1 + int((layer.values > value).sum())
            items.append(
                Measure(
                    title=measure.title,
                    value=value,
                    explanation=f"{measure.unit}. {measure.reading} Rank {rank or '–'} of {len(layer.values)} in its layer.",
                )
            )
    if not items:
        raise NotFoundError(f"There is no neuron {neuron} in layer {name}.", "Choose one of the bars.")
    return tuple(Measures(items=tuple(items[start : start + 4])) for start in range(0, len(items), 4))


def measure_csv(measure: NeuronMeasure) -> str:
    """Every neuron's value: layer, kind, neuron, value, marked."""
    rows: list[list[object]] = [["layer", "kind", "neuron", "value", "marked"]]
    for layer in measure.layers:
        marked = set(layer.marked.tolist())
        rows += [
            [layer.name, layer.kind, neuron, None if np.isnan(value) else value, int(neuron in marked)]
            for neuron, value in enumerate(layer.values.tolist())
        ]
    return csv_text(rows)


def mean_of(layer: MeasuredLayer) -> float:
    """The mean over the neurons that have a value; NaN where none has."""
    return float("nan") if np.isnan(layer.values).all() else float(np.nanmean(layer.values))


def _box(order: int, name: str, layers: list[MeasuredLayer], collapse: bool) -> Row:
    values = np.concatenate([layer.values for layer in layers])
    return {
        "module" if collapse else "layer": name,
        "name": name,
        "label": name,
        "order": order,
        "row": order // COLUMNS,
        "column": order % COLUMNS,
        "kind": ", ".join(dict.fromkeys(layer.kind for layer in layers)),
        "layers": len(layers),
        "neurons": len(values),
        "value": _plain(np.nan if np.isnan(values).all() else np.nanmean(values)),
    }


def _layer(measure: NeuronMeasure, name: str) -> MeasuredLayer:
    for layer in measure.layers:
        if layer.name == name:
            return layer
    raise NotFoundError(f"{measure.title} has no layer {name}.", "Choose one of the boxes.")


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
