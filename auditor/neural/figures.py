"""Charts of what an analysis found: their rows, taken from fields of its models, and the figures around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from auditor.kit.statistics.estimate import Estimate
from auditor.neural.found import Found, at
from auditor.show.blocks import Figure, Row


def along_layers(layers: Iterable[Any], series: dict[str, str], kind: str = "") -> tuple[Row, ...]:
    """Rows of a ``layer_lines`` chart: of each layer (``name``; its place is its depth), or of those of one kind, a point for
    each of some fields, whose titles name the lines; Estimates with their intervals."""
    return tuple(
        {"depth": depth, "layer": row.name, "series": title} | _point(at(row, path))
        for depth, row in enumerate(layers, 1)
        if not kind or row.kind == kind
        for path, title in series.items()
    )


def profile(layers: Iterable[Any], **fields: str) -> tuple[Row, ...]:
    """Rows of a ``layer_lines`` chart with the option ``fields``: of each layer (a ``LayerRow``; its place is its depth) some
    of its fields or properties, by name."""
    return tuple(
        {"layer": row.name, "depth": depth, "kind": row.kind, "neurons": row.neurons}
        | {name: at(row, path) for name, path in fields.items()}
        for depth, row in enumerate(layers, 1)
    )


def line_rows(points: Iterable[Any], x: str, series: dict[str, str]) -> tuple[Row, ...]:
    """Rows of a ``lines`` chart through some fields of points, whose titles name the lines, against another field."""
    points = tuple(points)
    return tuple(
        {"x": at(point, x), "series": title} | _point(at(point, path))
        for path, title in series.items()
        for point in points
    )


def layer_lines(
    title: str, rows: Sequence[Row], fields: dict[str, str], y: str, *, reading: str, select: str = ""
) -> Figure:
    """Lines over the layers through some fields of a ``profile``, whose titles name the lines."""
    options = {"fields": fields, "y": y}
    return Figure(chart="layer_lines", title=title, rows=tuple(rows), options=options, reading=reading, select=select)


class NeuronValue(Found):
    """A bar of ``neuron_values``."""

    neuron: int
    value: float
    marked: Literal["yes", "no"]


def neuron_values(title: str, rows: Iterable[Found], y: str, marked: str, *, reading: str, **options: Any) -> Figure:
    """A bar for each neuron, in the order given, behind which it opens. ``rows`` have ``neuron``, ``value`` and ``marked``:
    "yes" for those that the option ``marked`` says."""
    return Figure(
        chart="neuron_values",
        title=title,
        rows=tuple(row.model_dump() for row in rows),
        options={"y": y, "marked": marked} | options,
        reading=reading,
        select="neuron",
    )


def by_value(values: Iterable[tuple[int, float | None]]) -> list[tuple[int, float]]:
    """Neurons with their values, lowest first, ties by the lower index; those without a value are left out."""
    known = ((neuron, value) for neuron, value in values if value is not None)
    return sorted(known, key=lambda item: (item[1], item[0]))


def value_rows(ranked: Iterable[tuple[int, float]], marked: int) -> tuple[NeuronValue, ...]:
    """Rows for ``neuron_values`` from ``by_value``; the first few are marked."""
    return tuple(
        NeuronValue(neuron=neuron, value=value, marked="yes" if rank < marked else "no")
        for rank, (neuron, value) in enumerate(ranked)
    )


def _point(value: Any) -> Row:
    return value.model_dump() if isinstance(value, Estimate) else {"value": value}
