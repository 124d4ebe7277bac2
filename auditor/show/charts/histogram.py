"""A histogram: shares of values in bins."""

from __future__ import annotations

import altair as alt

from auditor.show.charts.parts import AnyChart, ChartRows, Options, colours, legend, names_in, value_scale


def histogram(rows: ChartRows, options: Options) -> AnyChart:
    """One stepped line per series; rows hold low, high (edges of a bin), share, series; the last bin of a series is empty.

    Options: ``x`` and ``y`` title the axes; ``log`` puts the edges on a logarithmic axis, ``root`` the shares on a square-root
    axis; ``domain`` is the scale of the shares; ``group`` names a field (default "series") that colours the lines.
    """
    group = options.get("group", "series")
    series = names_in(rows, "series")
    chart = (
        alt.Chart(alt.Data(values=list(rows)))
        .mark_line(interpolate="step-after", strokeWidth=1.5)
        .encode(
            x=alt.X(
                "low:Q", title=options["x"], scale=alt.Scale(type="log") if options.get("log") else alt.Scale(zero=False)
            ),
            y=alt.Y(
                "share:Q", title=options["y"], axis=alt.Axis(format="~%"),
                scale=value_scale(options, "sqrt" if options.get("root") else None),
            ),
            color=colours(group, names_in(rows, group)),
            detail="series:N",
            tooltip=[
                alt.Tooltip("series:N"), alt.Tooltip("low:Q", title="from", format=".3g"),
                alt.Tooltip("high:Q", title="to", format=".3g"), alt.Tooltip("share:Q", format=".2%"),
            ],
        )
    )  # fmt: skip
    if group != "series" and len(series) > 1:
        return chart.encode(
            strokeDash=alt.StrokeDash("series:N", title=None, sort=series, legend=legend(series, "bottom"))
        )
    return chart
