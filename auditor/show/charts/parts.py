"""What the charts share: colours, axes, legends, and marks that can be clicked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import altair as alt

from auditor.show.blocks import ChartOptions, Row

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart
ChartRows = tuple[Row, ...]
Options = ChartOptions

PICK = "pick"
"""Name of the selection parameter of a chart whose marks can be clicked."""

KIND_COLOURS = {"conv": "#3b6fb6", "linear": "#b0492f", "norm": "#7f8c8d", "activation": "#2e8b57"}
SERIES_COLOURS = ["#3b6fb6", "#d98032", "#2e8b57", "#8e5ea2", "#b0492f", "#5f6b6d", "#c2a83e", "#d37295"]
MARKED = alt.Scale(domain=["yes", "no"], range=["#d98032", "#9fb3c8"])
"""Colours of what stands out and of the rest."""

LEGEND_WIDTH, LETTER = 480, 7
"""Pixels of a line of a legend, and of a letter in it, about. The page in a window of 900 pixels has 536 for a chart."""

LABEL_LIMIT = 620
"""Pixels of one name in a legend; a longer one ends in dots."""


def names_in(rows: Iterable[Row], field: str) -> list[Any]:
    """The values of a field, each once, in their order."""
    return list(dict.fromkeys(row[field] for row in rows))


def colours(field: str, names: Sequence[Any], title: str | None = None) -> alt.Color:
    """A colour for each value of a field, in their order; those of the kinds of layers are always the same.

    A single value has no legend: the figure's title and axes say what it is.
    """
    if set(names) <= KIND_COLOURS.keys():
        scale = alt.Scale(domain=names, range=[KIND_COLOURS[name] for name in names])
    elif len(names) <= len(SERIES_COLOURS):
        scale = alt.Scale(domain=names, range=SERIES_COLOURS[: len(names)])
    else:
        scale = alt.Scale(domain=names, scheme="tableau20")
    alone = len(names) == 1 and not set(names) <= KIND_COLOURS.keys()
    return alt.Color(f"{field}:N", title=title, sort=names, scale=scale, legend=None if alone else legend(names))


def legend(names: Sequence[Any], orient: Literal["top", "bottom"] = "top") -> alt.Legend:
    """A legend above the chart, where long names take nothing from its width. A second one goes below: side by side their widths
    add up, and the last one is cut in a narrow window.
    """
    longest = max((len(str(name)) for name in names), default=0)
    columns = max(1, LEGEND_WIDTH // (LETTER * longest + 40))
    # Of a longer name more is missing where it is drawn with a wider font than the one it was measured with.
    return alt.Legend(
        orient=orient, direction="horizontal", columns=columns, columnPadding=10 + longest, labelLimit=LABEL_LIMIT,
        symbolOpacity=1, padding=6,
    )  # fmt: skip


def number_axis(number: str) -> alt.Axis:
    """The axis of numbers that are shown in this format; only percentages need one on the axis, too."""
    return alt.Axis(format=".0%") if "%" in number else alt.Axis()


def value_scale(options: Options, kind: Literal["log", "sqrt"] | None = None) -> alt.Scale:
    """The scale of a chart's values: over the option ``domain``, where there is one."""
    return alt.Scale(domain=options.get("domain", alt.Undefined), type=kind or alt.Undefined)


def interval_tooltip(number: str, title: str = "value") -> list[alt.Tooltip]:
    """What the tooltip says of a value with its interval."""
    return [
        alt.Tooltip("value:Q", title=title, format=number),
        alt.Tooltip("low:Q", title="from", format=number),
        alt.Tooltip("high:Q", title="to", format=number),
        alt.Tooltip("n:Q"),
    ]


def pickable(chart: alt.Chart, options: Options) -> alt.Chart:
    """Let a click pick a mark by the field of the option ``select``, where the figure has one."""
    if not options.get("select"):
        return chart
    return chart.add_params(alt.selection_point(name=PICK, fields=[options["select"]], on="click", nearest=False))


def domain_of(values: Iterable[float], *, positive: bool = False) -> list[float]:
    """The scale for some values: from 0, or below where there is less, to the largest; it has some width.

    ``positive``: from the smallest above 0, as a logarithmic scale needs it.
    """
    seen = [float(value) for value in values if math.isfinite(value) and not (positive and value <= 0)]
    low, high = min(seen, default=0.0), max(seen, default=0.0)
    if not positive:
        low, high = min(0.0, low), max(0.0, high)
    return [low, high if high > low else low + 1]
