"""A grid of values: rows by columns, each cell coloured and, where there is room, with its number."""

from __future__ import annotations

import altair as alt

from auditor.show.charts.parts import AnyChart, ChartRows, Options, interval_tooltip, names_in

NUMBERED = 15
"""Columns, at most, whose cells have room for a number."""


def grid(rows: ChartRows, options: Options) -> AnyChart:
    """A value for each row and column, both in the order of the rows; rows hold row, column and value; low, high, n where known.

    Options: ``value`` names the number, ``domain`` is the range of the colours (with a middle where it begins below zero),
    ``format`` that of the numbers; ``x`` titles the columns.
    """
    number: str = options.get("format", ".2f")
    low, high = options["domain"]
    columns = names_in(rows, "column")
    turned = any(len(str(column)) > 3 for column in columns)
    base = alt.Chart(alt.Data(values=list(rows))).encode(
        x=alt.X(
            "column:N", title=options.get("x"), sort=columns,
            axis=alt.Axis(labelAngle=-40 if turned else 0, labelLimit=200, labelOverlap=False),
        ),
        y=alt.Y(
            "row:N", title=None, sort=names_in(rows, "row"),
            axis=alt.Axis(labelLimit=200, minExtent=120, labelOverlap=False),  # room for names in a wider font
        ),
    )  # fmt: skip
    scale = alt.Scale(domain=[low, high], scheme="redblue" if low < 0 else "blues")
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title=options["value"], scale=scale, legend=alt.Legend(format=number)),
        tooltip=[
            alt.Tooltip("row:N", title="row"),
            alt.Tooltip("column:N", title=options.get("x") or "column"),
            *interval_tooltip(number, options["value"]),
        ],
    )
    strong = f"abs(datum.value) > {0.6 * high}"
    numbers = base.mark_text().encode(
        text=alt.Text("value:Q", format=number), color=alt.condition(strong, alt.value("white"), alt.value("black"))
    )
    return alt.layer(cells, numbers) if len(columns) <= NUMBERED else alt.layer(cells)
