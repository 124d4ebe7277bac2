"""Charts: each a function from rows and options to an Altair chart. Figures name them; pages and reports draw them."""

from __future__ import annotations

from collections.abc import Callable

from auditor.show.blocks import Figure
from auditor.show.charts.bars import class_values, neuron_values
from auditor.show.charts.dots import dots
from auditor.show.charts.grid import grid
from auditor.show.charts.histogram import histogram
from auditor.show.charts.lines import layer_lines, lines
from auditor.show.charts.network import layer_map, route_map
from auditor.show.charts.parts import PICK, AnyChart, ChartRows, Options, domain_of
from auditor.show.charts.scatter import scatter

__all__ = ["CHARTS", "OVERLAYING", "PICK", "AnyChart", "domain_of", "draw"]

CHARTS: dict[str, Callable[[ChartRows, Options], AnyChart]] = {
    chart.__name__: chart
    for chart in (
        class_values,
        dots,
        grid,
        histogram,
        layer_lines,
        layer_map,
        lines,
        neuron_values,
        route_map,
        scatter,
    )
}

OVERLAYING = frozenset({"dots", "histogram", "layer_lines", "lines"})
"""Charts that tell several models apart, by the field that the option ``group`` names; of others there is one for each model."""


def draw(figure: Figure, *, width: int | None = None) -> AnyChart:
    """The chart of a figure; ``width`` in pixels with all that stands around it, or as wide as its container.

    The option ``height`` is that of the plot alone: the room for legends and axes comes on top.
    """
    chart = CHARTS[figure.chart](figure.rows, figure.options | {"select": figure.select})
    # Room at the sides: texts are measured with one font and may be drawn with a wider one.
    return chart.properties(
        width=width if width is not None else "container",
        height=figure.options.get("height", 260),
        autosize={"type": "fit-x", "contains": "padding"},
        padding={"left": 20, "top": 5, "right": 30, "bottom": 8},
    )
