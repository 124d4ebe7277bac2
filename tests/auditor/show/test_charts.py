"""Charts from rows: every kind becomes a picture, and the options do what they say."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.neural.analysis import MeasuredLayer, NeuronMeasure
from auditor.report.neuron_map import measure_csv as neurons_csv
from auditor.show.blocks import Figure
from auditor.show.charts import CHARTS, OVERLAYING, PICK, domain_of, draw
from auditor.show.export import as_csv, as_svg

ROW = {
    "x": 1, "series": "all", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "layer": "conv1", "depth": 1, "kind": "conv",
    "label": "conv1", "name": "conv1", "order": 0, "row": 0, "column": 0, "layers": 1, "neurons": 8, "neuron": 3,
    "marked": "no", "y": 0.3, "group": "both", "from": 0.5, "to": 0.6, "clean": 0.2, "adversarial": 0.1, "share": 0.5,
}  # fmt: skip
OPTIONS = {"x": "place", "y": "size", "value": "size", "marked": "top", "group": "group", "domain": [0, 1]}
CHANCE = {"chance": 0.1, "low": 0.0, "high": 0.2}


def chart(name: str, *rows: dict[str, Any], **options: Any) -> dict[str, Any]:
    figure = Figure(chart=name, title="", rows=tuple(ROW | row for row in rows), options=OPTIONS | CHANCE | options)
    return dict(draw(figure.model_copy(update={"select": options.get("select", "")}), width=400).to_dict())


def layers(drawn: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The layers of a chart by their mark."""
    return {layer["mark"]["type"]: layer for layer in drawn["layer"]}


def values(drawn: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that a chart holds, those of its lines."""
    return list(layers(drawn)["line"].get("data", drawn.get("data", {}))["values"])


@pytest.mark.parametrize("name", list(CHARTS))
def test_every_chart_is_a_picture(name: str) -> None:
    figure = Figure(chart=name, title="", rows=(ROW, ROW | {"x": 2, "neuron": 4}), options=OPTIONS | CHANCE)
    assert as_svg(figure).count("<path") > 1


@pytest.mark.parametrize("name", sorted(OVERLAYING))
def test_two_models_on_one_chart_are_told_apart(name: str) -> None:
    """As a comparison of audits draws it: the rows of both, each with the name of its model."""
    drawn = chart(name, {"model": "plain"}, {"model": "robust"}, group="model")
    colours = [layer["encoding"]["color"] for layer in drawn.get("layer", [drawn]) if "color" in layer["encoding"]]
    models = ["all, plain", "all, robust"] if name == "dots" else ["plain", "robust"]
    assert colours
    assert all(colour["scale"]["domain"] == models for colour in colours)


def test_series_within_a_group_have_dashes_and_shapes() -> None:
    rows = [{"model": model, "series": series} for model in "ab" for series in ("clean", "twin")]
    found = layers(chart("lines", *rows, group="model"))
    assert found["point"]["encoding"]["shape"]["field"] == "series"
    assert found["line"]["encoding"]["strokeDash"]["field"] == "dash"
    alone = layers(chart("lines", *rows, group="series"))
    assert "strokeDash" not in alone["line"]["encoding"]


def legends(chart: Any) -> list[str]:
    """Where the legends of a chart stand, those of one field once."""
    if isinstance(chart, list):
        return [place for item in chart for place in legends(item)]
    if not isinstance(chart, dict):
        return []
    own = [chart["legend"]["orient"]] if isinstance(chart.get("legend"), dict) else []
    return own + [place for item in chart.values() for place in legends(item)]


@pytest.mark.parametrize(
    ("name", "options"), [("lines", {"x": "depth", "y": "share"}), ("histogram", {"x": "v", "y": "share"})]
)
def test_two_legends_do_not_share_a_line(name: str, options: dict[str, Any]) -> None:
    rows = tuple(
        {"x": at, "low": at, "high": at + 1, "value": 0.5, "share": 0.5, "series": series, "model": model}
        for at in (1.0, 2.0)
        for series in ("attack, most sensitive neurons", "attack, all neurons")
        for model in ("first", "second")
    )
    figure = Figure(chart=name, title="t", reading="r", rows=rows, options=options | {"group": "model"})
    assert set(legends(draw(figure).to_dict())) == {"top", "bottom"}


def test_kinds_of_layers_have_lines_of_their_own_and_their_colours() -> None:
    rows = [
        {"kind": kind, "depth": depth, "mean": 1.0, "top": None} for depth, kind in enumerate(["linear", "conv"], 1)
    ]
    drawn = chart("layer_lines", *rows, fields={"mean": "all neurons", "top": "top"}, group="kind")
    line = layers(drawn)["line"]
    assert {item["field"] for item in line["encoding"]["detail"]} == {"series", "kind"}
    assert line["encoding"]["color"]["scale"] == {"domain": ["linear", "conv"], "range": ["#b0492f", "#3b6fb6"]}
    assert [(row["x"], row["label"], row["series"], row["value"]) for row in values(drawn)] == [
        (1, "conv1", "all neurons", 1.0), (2, "conv1", "all neurons", 1.0),
    ]  # fmt: skip


def test_intervals_are_bands_or_bars_and_a_rule_marks_a_place() -> None:
    assert set(layers(chart("lines", {}, group="series"))) == {"area", "line", "point"}
    assert set(layers(chart("lines", {}, group="series", bars=True))) == {"rule", "line", "point"}
    marked = chart("lines", {}, group="series", mark=8)
    assert set(layers(marked)) == {"rule", "area", "line", "point"}
    assert layers(marked)["rule"]["data"]["values"] == [{"x": 8}]


def test_a_logarithmic_scale_has_no_zero_and_shares_the_whole_scale() -> None:
    drawn = chart("lines", {"value": 0.0}, {"value": 1e-3}, {"value": None}, group="series", log=True)
    assert [row["value"] for row in values(drawn)] == [1e-3]
    assert layers(drawn)["line"]["encoding"]["y"]["scale"] == {"type": "log"}
    share = layers(chart("lines", {}, group="series", share=True))["point"]["encoding"]
    assert share["y"]["scale"] == {"domain": [0, 1]}
    assert share["tooltip"][-4]["format"] == ".1%"
    assert chart("neuron_values", {}, log=True)["mark"]["type"] == "point", "a bar would begin at zero"
    assert chart("neuron_values", {})["mark"]["type"] == "bar"


@pytest.mark.parametrize(("name", "field"), [("lines", "layer"), ("neuron_values", "neuron"), ("layer_map", "layer"),
                                             ("route_map", "layer"), ("scatter", "neuron")])  # fmt: skip
def test_a_click_picks_the_field_that_the_figure_names(name: str, field: str) -> None:
    (parameter,) = chart(name, {}, group="group", select=field)["params"]
    assert (parameter["name"], parameter["select"]["fields"]) == (PICK, [field])
    assert "params" not in chart(name, {}, group="group")


def test_a_grid_keeps_the_order_of_its_rows_and_numbers_its_cells() -> None:
    rows = [{"row": row, "column": column} for row in ("noise", "fog") for column in range(3)]
    drawn = layers(chart("grid", *rows))
    assert drawn["rect"]["encoding"]["y"]["sort"] == ["noise", "fog"]
    assert drawn["rect"]["encoding"]["x"]["sort"] == [0, 1, 2]
    assert "text" in drawn
    assert "text" not in layers(chart("grid", *({"column": column} for column in range(16))))


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan"))), st.booleans())
def test_a_scale_holds_its_values_and_has_some_width(numbers: list[float], positive: bool) -> None:
    low, high = domain_of(numbers, positive=positive)
    seen = [number for number in numbers if number == number and (number > 0 or not positive)]
    assert low < high
    assert all(low <= number <= high for number in seen)
    assert low > 0 if positive and seen else low <= 0


@pytest.mark.parametrize(
    ("places", "ticks"),
    [([1, 2, 3], [1, 2, 3]), ([2, 5], [2, 3, 4, 5]), ([0, 64], list(range(0, 65, 4))), ([0.5, 1], None), ([], None)],
)
def test_whole_numbers_have_ticks_of_their_own(places: list[float], ticks: list[int] | None) -> None:
    """As a picture: Vega's least step of 1 puts ticks at 1.5 and 2.5 and rounds what it writes there."""
    figure = Figure(
        chart="lines", title="", rows=tuple(ROW | {"x": place} for place in places), options=OPTIONS | {"y": "of"}
    )
    axis = layers(draw(figure, width=400).to_dict())["line"]["encoding"]["x"].get("axis", {})
    assert axis.get("values") == ticks
    if ticks:
        written = re.findall(r">(\d+)</text>", as_svg(figure).split('aria-label="Y-axis')[0])
        assert [int(number) for number in written] == ticks


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_of_an_export_is_a_formula(sign: str) -> None:
    """A spreadsheet runs what begins like a formula; numbers, negative ones too, stay numbers."""
    hostile = f"{sign}cmd|'/c calc'!A1"
    rows = ({"layer": hostile, "value": -0.25, hostile: "-1.5e-3"}, {"layer": "+12.5 [9.1, 15.8]", "value": -3})
    text = as_csv(Figure(chart="lines", title="", rows=rows))
    read = list(csv.reader(io.StringIO(text, newline="")))
    hostile = hostile.replace("\r", "\n")
    assert read == [
        ["layer", "value", f"'{hostile}"], [f"'{hostile}", "-0.25", "-1.5e-3"], ["'+12.5 [9.1, 15.8]", "-3", ""],
    ]  # fmt: skip
    layer = MeasuredLayer(hostile, "conv", np.array([-1.5, np.nan]), np.array([0]))
    rows_of_neurons = list(
        csv.reader(io.StringIO(neurons_csv(NeuronMeasure("", "", "", "", "", (layer,))), newline=""))
    )
    assert rows_of_neurons[1:] == [[f"'{hostile}", "conv", "0", "-1.5", "1"], [f"'{hostile}", "conv", "1", "", "0"]]
