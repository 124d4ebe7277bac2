"""Lines with intervals: values against a number, or over the layers of a network."""

from __future__ import annotations

import altair as alt

from auditor.show.blocks import Row
from auditor.show.charts.parts import (
    AnyChart,
    ChartRows,
    Options,
    colours,
    interval_tooltip,
    legend,
    names_in,
    number_axis,
    pickable,
    value_scale,
)

TICKS = 20
"""Whole numbers on an axis, at most."""
MANY = 100
"""Points on all lines, at most, that are drawn; of more only the lines are seen, and the points answer with their tooltips."""


def lines(rows: ChartRows, options: Options) -> AnyChart:
    """A value against a number, one line for each series, with its interval where known.

    Rows hold x, series and value; where known low, high, n, ``label`` (what the tooltip calls the point) and ``kind`` (of a
    layer; kinds have lines of their own). Rows without a value are left out.

    Options: ``x`` and ``y`` title the axes, ``legend`` the legend. ``share``: values are shares, shown as percentages on the
    whole scale; else ``format`` is that of the values. ``x_format``: that of x; ``x_domain``: its range, where it is known.
    ``log``: a logarithmic scale, on which only positive values are shown. ``bars``: intervals as bars, not as bands. ``mark``:
    an x to mark by a rule. ``group``: the field that colours the lines (default "series"; dashes and shapes then tell the
    series apart).
    """
    log, share = options.get("log", False), options.get("share", False)
    number = ".1%" if share else options.get("format", ".4g")
    shown = [
        {"label": "", **row, "dash": row["series"]}
        for row in rows
        if row.get("value") is not None and not (log and row["value"] <= 0)
    ]  # fmt: skip
    group = options.get("group", "series")
    series = names_in(rows, "series")
    lined = [
        "series",
        *([group] if group != "series" else []),
        *(["kind"] if any("kind" in row for row in rows) else []),
    ]
    ends = options.get("x_domain", ())
    across = alt.Scale(domain=ends) if ends else alt.Scale(zero=False, nice=False, padding=12)
    base = alt.Chart(alt.Data(values=shown)).encode(
        x=alt.X(
            "x:Q", title=options["x"], axis=_ticks([*shown, *({"x": end} for end in ends)], options.get("x_format", "")),
            scale=across,
        ),
        color=colours(group, names_in(rows, group), options.get("legend")),
        detail=[alt.Detail(f"{field}:N") for field in lined],
    )  # fmt: skip
    scale = value_scale({"domain": [0, 1]} if share else {}, "log" if log else None)
    y = alt.Y("value:Q", title=options["y"], scale=scale, axis=number_axis(number))
    line = base.mark_line(strokeWidth=1.5)
    points = base.mark_point(filled=True, size=60, opacity=0 if len(shown) > MANY else 1).encode(
        y=y,
        tooltip=[
            *([alt.Tooltip("label:N", title="at")] if any(row["label"] for row in shown) else []),
            *(alt.Tooltip(f"{field}:N") for field in lined),
            alt.Tooltip("x:Q", title=options["x"], format=options.get("x_format", "")),
            *interval_tooltip(number, options["y"]),
        ],
    )
    if group != "series" and len(series) > 1:
        # By a field of its own: of two legends of one field, the missing one would take the other away.
        line = line.encode(strokeDash=alt.StrokeDash("dash:N", sort=series, legend=None))
        points = points.encode(shape=alt.Shape("series:N", title=None, sort=series, legend=legend(series, "bottom")))
    layers = [_intervals(base, options, scale, log), line.encode(y=y), pickable(points, options)]
    if "mark" in options:
        place = alt.Chart(alt.Data(values=[{"x": options["mark"]}]))
        layers.insert(0, place.mark_rule(strokeDash=[4, 4], color="#888").encode(x="x:Q"))
    return alt.layer(*layers)


def layer_lines(rows: ChartRows, options: Options) -> AnyChart:
    """``lines`` over the layers from input to output, with intervals as bars.

    Rows hold layer and depth, and what ``lines`` needs; or, where ``fields`` maps fields to the names of series, a value
    under each of these fields: layers are then coloured by their kind.
    """
    fields = options.get("fields")
    if fields:
        rows = tuple(row | {"series": name, "value": row[field]} for row in rows for field, name in fields.items())
        options = {"group": "kind", "legend": None} | options
    placed = tuple(row | {"x": row["depth"], "label": row["layer"]} for row in rows)
    return lines(placed, options | {"x": "layer, from input to output", "bars": True})


def _intervals(base: alt.Chart, options: Options, scale: alt.Scale, log: bool) -> alt.Chart:
    known = base.transform_filter(
        "isValid(datum.low) && isValid(datum.high)" + (" && datum.low > 0" if log else "")
    )  # fmt: skip
    marks = known.mark_rule(strokeWidth=1.5, opacity=0.6) if options.get("bars") else known.mark_area(opacity=0.15)
    return marks.encode(y=alt.Y("low:Q", title=options["y"], scale=scale), y2="high:Q")


def _ticks(rows: list[Row], number: str) -> alt.Axis:
    """Of whole numbers at most about twenty, evenly spaced, with none between them; ``tickMinStep`` does not hold its promise."""
    if number or not rows or not all(float(row["x"]).is_integer() for row in rows):
        return alt.Axis(format=number or alt.Undefined)
    low, high = (int(end(row["x"] for row in rows)) for end in (min, max))
    return alt.Axis(format="d", values=list(range(low, high + 1, -(-(high - low + 1) // TICKS))))
