"""Dots with intervals: a value for each name."""

from __future__ import annotations

import altair as alt

from auditor.show.charts.parts import (
    AnyChart,
    ChartRows,
    Options,
    colours,
    interval_tooltip,
    names_in,
    number_axis,
    value_scale,
)


def dots(rows: ChartRows, options: Options) -> AnyChart:
    """A value with its interval for each label, one colour per series; rows hold label, series, value, low, high, n.

    Options: ``x`` titles the axis; ``format`` is that of the numbers; ``domain`` the scale; ``group`` names a field that splits
    each series. ``aligned``: a label has one series only, whose dot stands at its height; else each series has a line of its
    own there. A line marks zero.
    """
    group = options.get("group")
    if group:
        rows = tuple(row | {"series": f"{row['series']}, {row[group]}"} for row in rows)
    names = names_in(rows, "series")
    number = options.get("format", ".3g")
    base = alt.Chart(alt.Data(values=[row for row in rows if row["value"] is not None])).encode(
        y=alt.Y("label:N", title=None, sort=names_in(rows, "label"), axis=alt.Axis(labelLimit=340)),
        color=colours("series", names),
    )
    if not options.get("aligned"):
        base = base.encode(yOffset=alt.YOffset("series:N", sort=names))
    known = base.transform_filter("isValid(datum.low)")
    axis, scale = number_axis(number), value_scale(options)
    bars = known.mark_rule(strokeWidth=2, opacity=0.6).encode(
        x=alt.X("low:Q", title=options["x"], axis=axis, scale=scale), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=60).encode(
        x=alt.X("value:Q", title=options["x"], axis=axis, scale=scale),
        tooltip=[alt.Tooltip("label:N"), alt.Tooltip("series:N"), *interval_tooltip(number)],
    )
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[4, 4], color="#888").encode(x="zero:Q")
    return alt.layer(zero, bars, points)
