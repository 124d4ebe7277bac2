"""Bars: a value for each neuron of a layer, or for each class."""

from __future__ import annotations

import altair as alt

from auditor.show.charts.parts import (
    MARKED,
    SERIES_COLOURS,
    AnyChart,
    ChartRows,
    Options,
    names_in,
    pickable,
    value_scale,
)

LABELLED = 64
"""Neurons, at most, that have their index below the bar."""


def neuron_values(rows: ChartRows, options: Options) -> AnyChart:
    """A value of each neuron, in the order of the rows; rows hold neuron, value and marked ("yes" or "no").

    Options: ``y`` titles the axis, ``marked`` the legend. ``domain``: the scale, so several charts can share one.
    ``log``: a logarithmic scale, where points stand for bars, which would need a zero.
    """
    log = options.get("log", False)
    labelled = len(rows) <= LABELLED
    base = alt.Chart(alt.Data(values=[row for row in rows if row["value"] is not None]))
    chart = (base.mark_point(filled=True, size=40) if log else base.mark_bar()).encode(
        x=alt.X(
            "neuron:O", title="neuron, by its index in the layer", sort=names_in(rows, "neuron"),
            axis=alt.Axis(labels=labelled, ticks=labelled, labelOverlap=True),
        ),
        y=alt.Y("value:Q", title=options["y"], scale=value_scale(options, "log" if log else None)),
        color=alt.Color("marked:N", title=options["marked"], scale=MARKED, legend=alt.Legend(orient="top", titleLimit=500)),
        tooltip=[alt.Tooltip("neuron:Q"), alt.Tooltip("value:Q", title=options["y"], format=".4g")],
    )  # fmt: skip
    return pickable(chart, options)


def class_values(rows: ChartRows, options: Options) -> AnyChart:
    """A value per class and what chance would give; rows hold name, value and n.

    Options: ``y`` titles the axis; ``chance``, ``low``, ``high``: the mean and the range of random values.
    """
    base = alt.Chart(alt.Data(values=[row for row in rows if row["value"] is not None]))
    bars = base.mark_bar(color=SERIES_COLOURS[0]).encode(
        x=alt.X("name:N", title="target class", sort=names_in(rows, "name"), axis=alt.Axis(labelOverlap=True)),
        y=alt.Y("value:Q", title=options["y"], scale=value_scale(options)),
        tooltip=[alt.Tooltip("name:N"), alt.Tooltip("value:Q", format=".3f"), alt.Tooltip("n:Q", title="images")],
    )
    chance = alt.Chart(alt.Data(values=[{"chance": options["chance"], "low": options["low"], "high": options["high"]}]))
    band = chance.mark_rect(color="#888", opacity=0.25).encode(y=alt.Y("low:Q", title=options["y"]), y2="high:Q")
    rule = chance.mark_rule(color="#555", strokeDash=[4, 4]).encode(y="chance:Q")
    return alt.layer(band, bars, rule)
