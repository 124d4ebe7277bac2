"""Charts: each a function from rows and options to an Altair chart. Figures name them; pages and reports draw them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import altair as alt

from auditor.report.blocks import Figure

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart
Rows = tuple[dict[str, Any], ...]

PICK = "pick"
"""Name of the selection parameter of a chart whose marks can be clicked."""

KIND_COLOURS = {"conv": "#3b6fb6", "linear": "#b0492f", "norm": "#7f8c8d", "activation": "#2e8b57"}
SERIES_COLOURS = ["#3b6fb6", "#d98032", "#2e8b57", "#8e5ea2", "#b0492f", "#5f6b6d"]


def draw(figure: Figure, *, width: int | None = None) -> AnyChart:
    """The chart of a figure; ``width`` in pixels, or as wide as its container."""
    chart = CHARTS[figure.chart](figure.rows, figure.options | {"select": figure.select})
    # Room at the right: a legend is measured with one font and may be drawn with a wider one.
    return chart.properties(
        width=width if width is not None else "container",
        height=figure.options.get("height", 300),
        padding={"right": 30},
    )


def layer_profile(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """A value per layer from input to output; one line per kind of layer, one dash per series.

    Options: ``series`` maps a field of the rows to its name; ``y`` titles the axis; ``group`` names a field (default
    "kind") that colours the lines.
    """
    series = options["series"]
    group = options.get("group", "kind")
    flat = [
        row | {"series": title, "dash": title, "value": row[field]}
        for row in rows
        for field, title in series.items()
        if row[field] is not None
    ]
    present = sorted({row[group] for row in rows})
    colours = [
        KIND_COLOURS.get(item, SERIES_COLOURS[index % len(SERIES_COLOURS)]) for index, item in enumerate(present)
    ]
    base = alt.Chart(alt.Data(values=flat)).encode(
        x=alt.X(
            "depth:Q",
            title="layer, from input to output",
            axis=_whole_numbers(max((row["depth"] for row in rows), default=1)),
        ),
        y=alt.Y("value:Q", title=options["y"]),
        color=alt.Color(f"{group}:N", title=group, scale=alt.Scale(domain=present, range=colours)),
    )
    dashes = alt.StrokeDash("dash:N", sort=list(series.values()), legend=None)
    lines = base.mark_line(strokeWidth=1.5, opacity=0.7).encode(strokeDash=dashes, detail="kind:N")
    points = base.mark_point(filled=True, size=70).encode(
        shape=alt.Shape("series:N", title="average over", sort=list(series.values()), legend=alt.Legend(labelLimit=260)),
        tooltip=[
            alt.Tooltip("layer:N"), alt.Tooltip("kind:N"), alt.Tooltip("neurons:Q"),
            alt.Tooltip("series:N", title="average over"), alt.Tooltip("value:Q", format=".4g"),
        ],
    )  # fmt: skip
    return alt.layer(lines, _pickable(points, options, on="layer"))


def neuron_bars(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """Neurons sorted by a value; the sensitive ones stand out. Options: ``y`` titles the axis."""
    labelled = len(rows) <= 64
    chart = (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_bar()
        .encode(
            x=alt.X(
                "neuron:O",
                title="neuron, by its index in the layer",
                sort=[row["neuron"] for row in rows],
                axis=alt.Axis(labels=labelled, ticks=labelled, labelOverlap=True),
            ),
            y=alt.Y("sensitivity:Q", title=options["y"]),
            color=alt.Color(
                "sensitive:N",
                title="most sensitive",
                scale=alt.Scale(domain=["yes", "no"], range=["#d98032", "#9fb3c8"]),
            ),
            tooltip=[
                alt.Tooltip("neuron:Q"),
                alt.Tooltip("rank:Q"),
                alt.Tooltip("sensitivity:Q", format=".4g"),
                alt.Tooltip("ratio:Q", format=".4g"),
            ],
        )
    )
    return _pickable(chart, options, on="neuron")


def accuracy_curve(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """Accuracy against epsilon with its interval; rows hold epsilon, label, series, value, low, high.

    Options: ``x`` titles the axis; ``mark`` is an epsilon to mark with a rule.
    """
    names = list(dict.fromkeys(row["series"] for row in rows))
    base = alt.Chart(alt.Data(values=list(rows))).encode(
        x=alt.X("epsilon:Q", title=options["x"]),
        color=alt.Color(
            "series:N", title=None, sort=names, scale=alt.Scale(domain=names, range=SERIES_COLOURS[: len(names)])
        ),
    )
    scale = alt.Scale(domain=[0, 1])
    axis = alt.Axis(format=".0%")
    band = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", scale=scale, axis=axis, title="accuracy"), y2="high:Q")
    line = base.mark_line().encode(y=alt.Y("value:Q", scale=scale))
    points = base.mark_point(filled=True, size=60).encode(
        y=alt.Y("value:Q", scale=scale),
        tooltip=[
            alt.Tooltip("series:N", title="model"), alt.Tooltip("label:N", title="epsilon"),
            alt.Tooltip("value:Q", title="accuracy", format=".1%"), alt.Tooltip("low:Q", format=".1%"),
            alt.Tooltip("high:Q", format=".1%"), alt.Tooltip("n:Q"),
        ],
    )  # fmt: skip
    headline = alt.Chart(alt.Data(values=[{"epsilon": options["mark"]}]))
    rule = headline.mark_rule(strokeDash=[4, 4], color="#888").encode(x="epsilon:Q")
    return alt.layer(rule, band, line, points)


def corruption_grid(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """Accuracy by corruption and severity; rows hold corruption, severity, value, low, high, n. Corruptions keep their order."""
    base = alt.Chart(alt.Data(values=list(rows))).encode(
        x=alt.X("severity:O", title="severity (0: uncorrupted)", axis=alt.Axis(labelAngle=0)),
        y=alt.Y(
            "corruption:N",
            title=None,
            sort=list(dict.fromkeys(row["corruption"] for row in rows)),
            axis=alt.Axis(minExtent=120),  # room for names in a wider font
        ),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "value:Q",
            title="accuracy",
            scale=alt.Scale(domain=[0, 1], scheme="blues"),
            legend=alt.Legend(format=".0%"),
        ),
        tooltip=[
            alt.Tooltip("corruption:N"), alt.Tooltip("severity:O"), alt.Tooltip("value:Q", title="accuracy", format=".1%"),
            alt.Tooltip("low:Q", format=".1%"), alt.Tooltip("high:Q", format=".1%"), alt.Tooltip("n:Q"),
        ],
    )  # fmt: skip
    numbers = base.mark_text().encode(
        text=alt.Text("value:Q", format=".0%"),
        color=alt.condition("datum.value > 0.6", alt.value("white"), alt.value("black")),
    )
    return alt.layer(cells, numbers)


def histogram(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """Shares of values in bins, one stepped line per series; rows hold low, high (edges of a bin), share, series.

    Options: ``x`` and ``y`` title the axes; ``log`` puts the edges on a logarithmic axis, ``root`` the shares on a square-root
    axis; ``group`` names a field (default "series") that colours the lines.
    """
    group = options.get("group", "series")
    names = list(dict.fromkeys(row[group] for row in rows))
    series = list(dict.fromkeys(row["series"] for row in rows))
    scale = alt.Scale(type="log") if options.get("log") else alt.Scale(zero=False)
    return (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_line(interpolate="step-after", strokeWidth=1.5)
        .encode(
            x=alt.X("low:Q", title=options["x"], scale=scale),
            y=alt.Y(
                "share:Q",
                title=options["y"],
                axis=alt.Axis(format="%"),
                scale=alt.Scale(type="sqrt") if options.get("root") else alt.Undefined,
            ),
            color=_colours(group, names),
            strokeDash=alt.StrokeDash("series:N", title=None, sort=series, legend=None if group == "series" else alt.Legend()),
            tooltip=[
                alt.Tooltip("series:N"), alt.Tooltip("low:Q", title="from", format=".3g"),
                alt.Tooltip("high:Q", title="to", format=".3g"), alt.Tooltip("share:Q", format=".2%"),
            ],
        )
    )  # fmt: skip


def rate_curve(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """Rates with their intervals against a number; rows hold x, series, value, low, high, n.

    Options: ``x`` and ``y`` title the axes; ``percent`` shows x in percent; ``group`` names a field (default "series") that
    colours the lines.
    """
    group = options.get("group", "series")
    names = list(dict.fromkeys(row[group] for row in rows))
    series = list(dict.fromkeys(row["series"] for row in rows))
    format = "%" if options.get("percent") else "d"
    values = sorted({row["x"] for row in rows})
    axis = alt.Axis(format=format, values=values if len(values) <= 20 else alt.Undefined)
    scale, percent = alt.Scale(domain=[0, 1]), alt.Axis(format=".0%")
    base = alt.Chart(alt.Data(values=list(rows))).encode(
        x=alt.X("x:Q", title=options["x"], axis=axis),
        color=_colours(group, names),
        detail="series:N",
    )
    band = base.mark_area(opacity=0.15).encode(
        y=alt.Y("low:Q", scale=scale, axis=percent, title=options["y"]), y2="high:Q"
    )
    line = base.mark_line().encode(y=alt.Y("value:Q", scale=scale))
    points = base.mark_point(filled=True, size=60).encode(
        y=alt.Y("value:Q", scale=scale),
        shape=alt.Shape("series:N", title=None, sort=series, legend=None if group == "series" else alt.Legend()),
        tooltip=[
            alt.Tooltip("series:N"), alt.Tooltip("x:Q", title=options["x"], format=format),
            alt.Tooltip("value:Q", title=options["y"], format=".1%"), alt.Tooltip("low:Q", format=".1%"),
            alt.Tooltip("high:Q", format=".1%"), alt.Tooltip("n:Q"),
        ],
    )  # fmt: skip
    return alt.layer(band, line, points)


def neuron_values(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """A value of each neuron, in the order of the rows; rows hold neuron, value, marked. Options: ``y`` titles the axis;
    ``marked`` titles the legend of the marked ones; ``log`` puts the values on a logarithmic axis; ``group`` names a field that
    colours the points instead."""
    marked = alt.Color(
        "marked:N", title=options["marked"], scale=alt.Scale(domain=["yes", "no"], range=["#d98032", "#9fb3c8"])
    )
    group = options.get("group")
    colour = _colours(group, list(dict.fromkeys(row[group] for row in rows))) if group else marked
    labelled = len(rows) <= 64
    chart = (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_point(filled=True, size=40)
        .encode(
            x=alt.X(
                "neuron:O",
                title="neuron, by its index in the layer",
                sort=list(dict.fromkeys(row["neuron"] for row in rows)),
                axis=alt.Axis(labels=labelled, ticks=labelled, labelOverlap=True),
            ),
            y=alt.Y(
                "value:Q", title=options["y"], scale=alt.Scale(type="log") if options.get("log") else alt.Undefined
            ),
            color=colour,
            tooltip=[alt.Tooltip("neuron:Q"), alt.Tooltip("value:Q", title=options["y"], format=".4g")],
        )
    )
    return _pickable(chart, options, on="neuron")


def _colours(field: str, names: list[Any]) -> alt.Color:
    """Colours of a field's values, in their order."""
    colours = [SERIES_COLOURS[index % len(SERIES_COLOURS)] for index in range(len(names))]
    return alt.Color(f"{field}:N", title=None, sort=names, scale=alt.Scale(domain=names, range=colours))


def _whole_numbers(last: int) -> alt.Axis:
    """Ticks at whole numbers from 1 on, at most about twenty of them."""
    return alt.Axis(values=list(range(1, last + 1, max(1, -(-last // 20)))), format="d")


def _pickable(chart: alt.Chart, options: dict[str, Any], *, on: str) -> alt.Chart:
    """Let a click pick a mark, where the figure asks for it."""
    if options.get("select") != on:
        return chart
    return chart.add_params(alt.selection_point(name=PICK, fields=[on], on="click", nearest=False))


CHARTS: dict[str, Callable[[Rows, dict[str, Any]], AnyChart]] = {
    chart.__name__: chart
    for chart in (
        layer_profile,
        neuron_bars,
        accuracy_curve,
        corruption_grid,
        histogram,
        rate_curve,
        neuron_values,
    )
}
