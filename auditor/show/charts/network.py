"""The network from input to output: its layers as boxes, or a route through their neurons."""

from __future__ import annotations

import altair as alt

from auditor.show.charts.parts import AnyChart, ChartRows, Options, names_in, pickable

SHORT = 70
"""Letters, at most, of names that stand side by side."""
ROUTES = {"both": "#5f6b6d", "clean only": "#3b6fb6", "adversarial only": "#d98032"}


def layer_map(rows: ChartRows, options: Options) -> AnyChart:
    """The network as boxes from input to output, row by row, joined in the order of execution, coloured by a value.

    Rows hold ``order``, ``label``, ``name``, ``row``, ``column``, ``kind``, ``layers``, ``neurons``, ``value``. Options:
    ``value`` titles the colour, ``domain`` is its scale, so several maps can share one.
    """
    base = alt.Chart(alt.Data(values=list(rows))).encode(
        x=alt.X("column:O", axis=None, scale=alt.Scale(paddingInner=0.12)),
        y=alt.Y("row:O", axis=None, scale=alt.Scale(paddingInner=0.3)),
    )
    way = base.mark_line(color="#8a97a3", strokeWidth=1.5).encode(order="order:Q")
    boxes = base.mark_rect(cornerRadius=4, stroke="#5f6b6d", strokeWidth=1).encode(
        color=alt.condition(
            "isValid(datum.value)",
            alt.Color(
                "value:Q", title=options["value"], scale=alt.Scale(domain=options["domain"], scheme="oranges"),
                legend=alt.Legend(orient="top", gradientLength=260, titleLimit=400),
            ),
            alt.value("#e6e9ec"),
        ),
        tooltip=[
            alt.Tooltip("name:N"), alt.Tooltip("kind:N"), alt.Tooltip("layers:Q"), alt.Tooltip("neurons:Q"),
            alt.Tooltip("value:Q", title=options["value"], format=".4g"),
        ],
    )  # fmt: skip
    middle = sum(options["domain"]) / 2 + 0.15 * (options["domain"][1] - options["domain"][0])
    labels = base.mark_text(fontSize=11, limit=90).encode(
        text="label:N",
        color=alt.condition(f"datum.value > {middle}", alt.value("white"), alt.value("black")),
    )
    return alt.layer(way, pickable(boxes, options), labels)


def route_map(rows: ChartRows, options: Options) -> AnyChart:
    """Which neurons of each layer are on a route; rows hold layer, neuron, from and to (its place in the layer, in [0, 1]),
    group, and where known clean and adversarial (shares of images on whose routes it is).

    Groups: both, clean only, adversarial only.
    """
    layers = names_in(rows, "layer")
    short = sum(len(layer) + 2 for layer in layers) < SHORT
    axis = alt.Axis(labelAngle=0 if short else -40, labelLimit=110, labelOverlap=True)
    gap = alt.Scale(paddingInner=0.08)
    x = alt.X("layer:N", title="layer, from input to output", sort=layers, axis=axis, scale=gap)
    scale = alt.Scale(domain=list(ROUTES), range=list(ROUTES.values()))
    shares = [
        alt.Tooltip(f"{side}:Q", title=f"on routes of {side} images", format=".1%")
        for side in ("clean", "adversarial")
        if all(side in row for row in rows)
    ]
    whole = alt.Chart(alt.Data(values=[{"layer": layer} for layer in layers]))
    columns = whole.mark_rect(color="#eef1f4").encode(x=x, y=alt.datum(0, type="quantitative"), y2=alt.datum(1))
    marks = (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_rect(aria=False)  # thousands of labels would be most of the picture
        .encode(
            x=x,
            y=alt.Y(
                "from:Q", title="neuron, by its index in the layer", scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(labels=False, ticks=False, grid=False),
            ),
            y2="to:Q",
            color=alt.Color(
                "group:N", title="on the route of", sort=list(ROUTES), scale=scale, legend=alt.Legend(orient="top"),
            ),
            tooltip=[
                alt.Tooltip("layer:N"), alt.Tooltip("neuron:Q"), alt.Tooltip("group:N", title="on the route of"), *shares,
            ],
        )
    )  # fmt: skip
    return alt.layer(columns, pickable(marks, options))
