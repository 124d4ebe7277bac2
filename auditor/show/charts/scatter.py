"""A scatter plot: neurons by two shares."""

from __future__ import annotations

import altair as alt

from auditor.show.charts.parts import AnyChart, ChartRows, Options, colours, names_in, pickable


def scatter(rows: ChartRows, options: Options) -> AnyChart:
    """Neurons by two shares, with the diagonal; rows hold neuron, x, y, group. Options: ``x``, ``y``, ``group`` are titles."""
    share, percent = alt.Scale(domain=[0, 1]), alt.Axis(format=".0%")
    points = (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_point(filled=True, size=50, opacity=0.7)
        .encode(
            x=alt.X("x:Q", title=options["x"], scale=share, axis=percent),
            y=alt.Y("y:Q", title=options["y"], scale=share, axis=percent),
            color=colours("group", sorted(names_in(rows, "group")), options["group"]),
            tooltip=[
                alt.Tooltip("neuron:Q"), alt.Tooltip("x:Q", title=options["x"], format=".1%"),
                alt.Tooltip("y:Q", title=options["y"], format=".1%"), alt.Tooltip("group:N", title=options["group"]),
            ],
        )
    )  # fmt: skip
    corners = alt.Chart(alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}]))
    diagonal = corners.mark_line(strokeDash=[4, 4], color="#888").encode(x="x:Q", y="y:Q")
    return alt.layer(diagonal, pickable(points, options))
