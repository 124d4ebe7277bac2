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
SERIES_COLOURS = ["#3b6fb6", "#d98032", "#2e8b57", "#8e5ea2", "#b0492f", "#5f6b6d", "#c2a83e", "#d37295"]


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


def layer_map(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """The network as boxes from input to output, row by row, joined in the order of execution, coloured by a value.

    Rows hold ``order``, ``label``, ``name``, ``row``, ``column``, ``kind``, ``layers``, ``neurons``, ``value``. Options:
    ``value`` titles the colour, ``domain`` is its scale, so that several maps can share one.
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
    labels = base.mark_text(fontSize=11, limit=options.get("limit", 90)).encode(
        text="label:N",
        color=alt.condition(f"datum.value > {middle}", alt.value("white"), alt.value("black")),
    )
    on = options.get("select", "")
    return alt.layer(way, _pickable(boxes, options, on=on) if on else boxes, labels)


def ranked_neurons(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """Neurons sorted by a value, the marked ones standing out; rows hold neuron, rank, value, marked.

    Options: ``y`` titles the axis, ``marked`` the legend; ``domain``: the scale, so that several charts can share one.
    """
    labelled = len(rows) <= 64
    scale = alt.Scale(domain=options["domain"]) if "domain" in options else alt.Undefined
    chart = (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_bar()
        .encode(
            x=alt.X(
                "neuron:O", title="neuron, by its index in the layer", sort=[row["neuron"] for row in rows],
                axis=alt.Axis(labels=labelled, ticks=labelled, labelOverlap=True),
            ),
            y=alt.Y("value:Q", title=options["y"], scale=scale),
            color=alt.Color(
                "marked:N", title=options["marked"], scale=alt.Scale(domain=["yes", "no"], range=["#d98032", "#9fb3c8"])
            ),
            tooltip=[alt.Tooltip("neuron:Q"), alt.Tooltip("rank:Q"), alt.Tooltip("value:Q", format=".4g")],
        )
    )  # fmt: skip
    return _pickable(chart, options, on="neuron")


def count_bars(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """How many there are in each interval; rows hold low, high, count. Options: ``x`` and ``y`` title the axes."""
    return (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_bar(color="#3b6fb6")
        .encode(
            x=alt.X("low:Q", title=options["x"], bin="binned"),
            x2="high:Q",
            y=alt.Y("count:Q", title=options["y"]),
            tooltip=[alt.Tooltip("low:Q", format=".4g"), alt.Tooltip("high:Q", format=".4g"), alt.Tooltip("count:Q")],
        )
    )


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


def interval_dots(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """A value with its interval for each label, one colour per series; rows hold label, series, value, low, high, n.

    Options: ``x`` titles the axis; ``format`` is that of the numbers. A line marks zero.
    """
    names = list(dict.fromkeys(row["series"] for row in rows))
    number = options.get("format", ".3g")
    axis = alt.Axis(format=number) if "%" in number else alt.Axis()
    base = alt.Chart(alt.Data(values=[row for row in rows if row["value"] is not None])).encode(
        y=alt.Y("label:N", title=None, sort=list(dict.fromkeys(row["label"] for row in rows)), axis=alt.Axis(labelLimit=260)),
        yOffset=alt.YOffset("series:N", sort=names),
        color=alt.Color("series:N", title=None, sort=names, scale=alt.Scale(domain=names, range=SERIES_COLOURS[: len(names)])),
    )  # fmt: skip
    known = base.transform_filter("isValid(datum.low)")
    bars = known.mark_rule(strokeWidth=2, opacity=0.6).encode(
        x=alt.X("low:Q", title=options["x"], axis=axis), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=60).encode(
        x=alt.X("value:Q", title=options["x"], axis=axis),
        tooltip=[
            alt.Tooltip("label:N"), alt.Tooltip("series:N"), alt.Tooltip("value:Q", format=number),
            alt.Tooltip("low:Q", format=number), alt.Tooltip("high:Q", format=number), alt.Tooltip("n:Q"),
        ],
    )  # fmt: skip
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[4, 4], color="#888").encode(x="zero:Q")
    return alt.layer(zero, bars, points)


def curves(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """A value against another, one line per series, with a band where there is an interval; rows hold x, series, value, and
    low, high where known.

    Options: ``x`` and ``y`` title the axes; ``format`` is that of the values; ``domain`` is the range of x, where it is known.
    """
    names = list(dict.fromkeys(row["series"] for row in rows))
    number = options.get("format", ".3g")
    axis = alt.Axis(format=number) if "%" in number else alt.Axis()
    across = alt.Scale(domain=options["domain"]) if "domain" in options else alt.Scale(zero=False, nice=False)
    base = alt.Chart(alt.Data(values=[row for row in rows if row["value"] is not None])).encode(
        x=alt.X("x:Q", title=options["x"], axis=alt.Axis(tickMinStep=1), scale=across),
        color=alt.Color(
            "series:N", title=None, sort=names, scale=alt.Scale(domain=names, range=SERIES_COLOURS[: len(names)]),
            legend=alt.Legend(symbolOpacity=1, labelLimit=260),
        ),
    )  # fmt: skip
    band = base.transform_filter("isValid(datum.low)").mark_area(opacity=0.15)
    line = base.mark_line(point=len(rows) <= 100)
    return alt.layer(
        band.encode(y=alt.Y("low:Q", title=options["y"], axis=axis), y2="high:Q"),
        line.encode(
            y=alt.Y("value:Q", title=options["y"], axis=axis),
            tooltip=[
                alt.Tooltip("series:N"),
                alt.Tooltip("x:Q", title=options["x"]),
                alt.Tooltip("value:Q", title=options["y"], format=number),
            ],
        ),
    )


def matrix(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """A value for each row and column of a square; rows hold row, column, value. Both keep their order.

    Options: ``value`` names the number; ``domain`` is the range of the colours; ``format`` is that of the numbers.
    """
    number: str = options.get("format", ".2f")
    low, high = options["domain"]
    names = list(dict.fromkeys(row["row"] for row in rows))
    base = alt.Chart(alt.Data(values=list(rows))).encode(
        x=alt.X("column:N", title=None, sort=names, axis=alt.Axis(labelAngle=-40, labelLimit=200)),
        y=alt.Y("row:N", title=None, sort=names, axis=alt.Axis(labelLimit=200)),
    )
    colours = (
        alt.Scale(domain=[low, high], scheme="redblue") if low < 0 else alt.Scale(domain=[low, high], scheme="blues")
    )
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title=options["value"], scale=colours),
        tooltip=[alt.Tooltip("row:N"), alt.Tooltip("column:N"), alt.Tooltip("value:Q", title=options["value"], format=number)],
    )  # fmt: skip
    strong = f"abs(datum.value) > {0.6 * high}"
    numbers = base.mark_text().encode(
        text=alt.Text("value:Q", format=number), color=alt.condition(strong, alt.value("white"), alt.value("black"))
    )
    return alt.layer(cells, numbers) if len(names) <= 15 else alt.layer(cells)


def interval_lines(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """A value with its interval against a number, one line per series; rows hold x, value, low, high, series and label.

    Options: ``x`` and ``y`` title the axes; ``percent`` shows values as such; ``whole`` ticks x at whole numbers. ``label`` is
    what the tooltip calls a point (a layer, an epsilon). Rows without a value are left out, intervals without ends, too.
    """
    names = list(dict.fromkeys(row["series"] for row in rows))
    kept = [row for row in rows if row["value"] is not None]
    axis = _whole_numbers(max((row["x"] for row in kept), default=1)) if options.get("whole") else alt.Axis()
    form = ".1%" if options.get("percent") else ".4g"
    base = alt.Chart(alt.Data(values=kept)).encode(
        x=alt.X("x:Q", title=options["x"], axis=axis, scale=alt.Scale(zero=False)),
        color=alt.Color(
            "series:N",
            title=None,
            sort=names,
            scale=alt.Scale(domain=names, range=SERIES_COLOURS[: len(names)])
            if len(names) <= len(SERIES_COLOURS)
            else alt.Scale(domain=names, scheme="tableau20"),
            legend=alt.Legend(labelLimit=320, orient="bottom", columns=2),
        ),
    )
    y = alt.Y("value:Q", title=options["y"], axis=alt.Axis(format="%") if options.get("percent") else alt.Axis())
    bounded = base.transform_filter("isValid(datum.low) && isValid(datum.high)")
    bars = bounded.mark_rule(strokeWidth=1.5, opacity=0.6).encode(y=alt.Y("low:Q", title=options["y"]), y2="high:Q")
    points = base.mark_point(filled=True, size=50).encode(
        y=y,
        tooltip=[
            alt.Tooltip("label:N", title="at"), alt.Tooltip("series:N"), alt.Tooltip("value:Q", format=form),
            alt.Tooltip("low:Q", format=form), alt.Tooltip("high:Q", format=form), alt.Tooltip("n:Q"),
        ],
    )  # fmt: skip
    return alt.layer(bars, base.mark_line(strokeWidth=1.5).encode(y=y), points)


def class_bars(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """A value per class beside what chance would give; rows hold name, value and n.

    Options: ``y`` titles the axis; ``chance``, ``low``, ``high``: the mean and the range of random values.
    """
    base = alt.Chart(alt.Data(values=[row for row in rows if row["value"] is not None]))
    bars = base.mark_bar(color=SERIES_COLOURS[0]).encode(
        x=alt.X("name:N", title="target class", sort=[row["name"] for row in rows], axis=alt.Axis(labelOverlap=True)),
        y=alt.Y("value:Q", title=options["y"]),
        tooltip=[alt.Tooltip("name:N"), alt.Tooltip("value:Q", format=".3f"), alt.Tooltip("n:Q", title="images")],
    )
    chance = alt.Chart(alt.Data(values=[{key: options[key] for key in ("chance", "low", "high")}]))
    band = chance.mark_rect(color="#888", opacity=0.25).encode(y=alt.Y("low:Q", title=options["y"]), y2="high:Q")
    rule = chance.mark_rule(color="#555", strokeDash=[4, 4]).encode(y="chance:Q")
    return alt.layer(bars, band, rule)


def layer_series(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """A value per layer from input to output, one line per series, with intervals where there are any.

    Rows hold layer, depth, series, value, low, high. Options: ``y`` titles the axis; ``percent`` writes shares as percentages;
    ``log`` scales logarithmically, where only positive values can be shown.
    """
    log = options.get("log", False)
    shown = [row for row in rows if row["value"] is not None and not (log and row["value"] <= 0)]
    names = list(dict.fromkeys(row["series"] for row in rows))
    number = ".1%" if options.get("percent") else ".4g"
    scale = alt.Scale(type="log") if log else alt.Scale(domainMin=0)
    base = alt.Chart(alt.Data(values=shown)).encode(
        x=alt.X(
            "depth:Q",
            title="layer, from input to output",
            axis=_whole_numbers(max((row["depth"] for row in shown), default=1)),
        ),
        color=alt.Color(
            "series:N", title=None, sort=names, scale=alt.Scale(domain=names, range=SERIES_COLOURS[: len(names)])
        ),
    )
    axis = alt.Axis(format=".0%") if options.get("percent") else alt.Axis()
    line = base.mark_line(strokeWidth=1.5).encode(y=alt.Y("value:Q", scale=scale, axis=axis, title=options["y"]))
    positive = "datum.low > 0" if log else "datum.low != null"
    bars = base.transform_filter(positive).mark_rule().encode(y=alt.Y("low:Q", scale=scale), y2="high:Q")
    points = base.mark_point(filled=True, size=60).encode(
        y=alt.Y("value:Q", scale=scale),
        tooltip=[
            alt.Tooltip("layer:N"), alt.Tooltip("series:N"), alt.Tooltip("value:Q", format=number),
            alt.Tooltip("low:Q", format=number), alt.Tooltip("high:Q", format=number),
        ],
    )  # fmt: skip
    return alt.layer(line, bars, _pickable(points, options, on="layer"))


def route_map(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """Which neurons of each layer are on a route; rows hold layer, depth, neuron, place (in [0, 1]), group, clean, adversarial.

    Groups: both, clean only, adversarial only.
    """
    groups = ["both", "clean only", "adversarial only"]
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    marks = (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_tick(thickness=2)
        .encode(
            x=alt.X("layer:N", title="layer, from input to output", sort=layers, axis=alt.Axis(labelAngle=-40)),
            y=alt.Y("place:Q", title="neuron, by index", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
            color=alt.Color(
                "group:N", title="on the route of", sort=groups,
                scale=alt.Scale(domain=groups, range=["#5f6b6d", "#3b6fb6", "#d98032"]),
            ),
            tooltip=[
                alt.Tooltip("layer:N"), alt.Tooltip("neuron:Q"), alt.Tooltip("group:N", title="on the route of"),
                alt.Tooltip("clean:Q", format=".1%"), alt.Tooltip("adversarial:Q", format=".1%"),
            ],
        )
    )  # fmt: skip
    return _pickable(marks, options, on="layer")


def neuron_scatter(rows: Rows, options: dict[str, Any]) -> AnyChart:
    """Neurons by two shares, with the diagonal; rows hold neuron, x, y, group. Options: ``x``, ``y``, ``group`` are titles."""
    groups = sorted({row["group"] for row in rows})
    share = alt.Scale(domain=[0, 1])
    percent = alt.Axis(format=".0%")
    points = (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_point(filled=True, size=50, opacity=0.7)
        .encode(
            x=alt.X("x:Q", title=options["x"], scale=share, axis=percent),
            y=alt.Y("y:Q", title=options["y"], scale=share, axis=percent),
            color=alt.Color(
                "group:N",
                title=options["group"],
                scale=alt.Scale(domain=groups, range=SERIES_COLOURS[: len(groups)]),
            ),
            tooltip=[
                alt.Tooltip("neuron:Q"), alt.Tooltip("x:Q", title=options["x"], format=".1%"),
                alt.Tooltip("y:Q", title=options["y"], format=".1%"), alt.Tooltip("group:N", title=options["group"]),
            ],
        )
    )  # fmt: skip
    corners = alt.Chart(alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}]))
    diagonal = corners.mark_line(strokeDash=[4, 4], color="#888").encode(x="x:Q", y="y:Q")
    return alt.layer(diagonal, _pickable(points, options, on="neuron"))


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

    Options: ``x``, ``y`` and ``series`` title the axes and the legend; ``x_format`` (default "d") formats x; ``group`` names a
    field (default "series") that colours the lines.
    """
    group = options.get("group", "series")
    names = list(dict.fromkeys(row[group] for row in rows))
    series = list(dict.fromkeys(row["series"] for row in rows))
    format = options.get("x_format", "d")
    values = sorted({row["x"] for row in rows})
    axis = alt.Axis(format=format, values=values if len(values) <= 20 else alt.Undefined)
    scale, percent = alt.Scale(domain=[0, 1]), alt.Axis(format=".0%")
    base = alt.Chart(alt.Data(values=list(rows))).encode(
        x=alt.X("x:Q", title=options["x"], axis=axis),
        color=_colours(group, names, options.get("series") if group == "series" else None),
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


def _colours(field: str, names: list[Any], title: str | None = None) -> alt.Color:
    """Colours of a field's values, in their order."""
    colours = [SERIES_COLOURS[index % len(SERIES_COLOURS)] for index in range(len(names))]
    scale, legend = alt.Scale(domain=names, range=colours), alt.Legend(symbolOpacity=1)
    return alt.Color(f"{field}:N", title=title, sort=names, scale=scale, legend=legend)


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
        layer_map,
        neuron_bars,
        ranked_neurons,
        count_bars,
        accuracy_curve,
        corruption_grid,
        interval_dots,
        curves,
        matrix,
        interval_lines,
        class_bars,
        layer_series,
        route_map,
        neuron_scatter,
        histogram,
        rate_curve,
        neuron_values,
    )
}
