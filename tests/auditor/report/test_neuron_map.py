"""The map of the network: boxes in the order of execution, modules, neurons, scales shared by two models."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from auditor.kit.errors import NotFoundError
from auditor.neural.analysis import MeasuredLayer, NeuronMeasure
from auditor.report.neuron_map import layer_blocks, measure_csv, network_map, neuron_blocks, of_kind
from auditor.show.blocks import Figure, Measures, Table, Text
from auditor.show.charts import draw
from auditor.show.export import as_csv as figure_csv
from auditor.show.export import as_svg
from tests.narrow import typed

NAN = float("nan")


def measure(**values: list[float]) -> NeuronMeasure:
    layers = tuple(
        MeasuredLayer(
            name.replace("_", "."), "conv" if "conv" in name else "activation", np.array(numbers), np.array([0])
        )
        for name, numbers in values.items()
    )
    return NeuronMeasure("size", "Size", "metres", "Large is large.", "large ones", layers)


RESNET = {
    "conv1": [1.0, 3.0],
    "layer1_0_conv1": [2.0, 4.0, 6.0],
    "layer1_0_relu": [0.0, 0.0],
    "layer1_1_conv1": [NAN, 5.0],
    "linear": [NAN, NAN],
}


def test_layers_stand_in_their_order_with_their_means() -> None:
    figure = network_map(measure(**RESNET), collapse=False)
    assert [(row["layer"], row["label"], row["value"]) for row in figure.rows] == [
        ("conv1", "conv1", 2.0),
        ("layer1.0.conv1", "layer1.0.conv1", 4.0),
        ("layer1.0.relu", "layer1.0.relu", 0.0),
        ("layer1.1.conv1", "layer1.1.conv1", 5.0),
        ("linear", "linear", None),
    ]
    assert figure.options["domain"] == [0.0, 5.0]
    assert draw(figure).to_dict()


def test_modules_hold_their_layers_and_open_to_them() -> None:
    figure = network_map(measure(**RESNET), collapse=True)
    # layer1.0: (2 + 4 + 6 + 0 + 0) / 5 neurons
    assert [(row["module"], row["layers"], row["neurons"], row["value"]) for row in figure.rows] == [
        ("conv1", 1, 2, 2.0), ("layer1.0", 2, 5, 2.4), ("layer1.1", 1, 2, 5.0), ("linear", 1, 2, None),
    ]  # fmt: skip
    inside = network_map(measure(**RESNET), collapse=False, module="layer1.0")
    assert [row["layer"] for row in inside.rows] == ["layer1.0.conv1", "layer1.0.relu"]
    assert inside.options["domain"] == figure.options["domain"]


def test_two_models_share_a_scale() -> None:
    one, other = measure(conv1=[1.0, 2.0]), measure(conv1=[-4.0, 9.0, 40.0])
    assert network_map(one, collapse=False, beside=[other]).options["domain"] == [0.0, 15.0]
    figure = next(block for block in layer_blocks(one, "conv1", [other]) if block.type == "figure")
    assert figure.options["domain"] == [-4.0, 40.0]


def test_a_long_network_goes_on_in_the_next_row() -> None:
    figure = network_map(measure(**{f"relu{index}": [1.0] for index in range(20)}), collapse=False)
    assert [(row["row"], row["column"]) for row in figure.rows[6:10]] == [(0, 6), (0, 7), (1, 0), (1, 1)]
    assert max(row["row"] for row in figure.rows) == 2


def test_neurons_are_sorted_with_the_undefined_last() -> None:
    text, bars, bins, table = layer_blocks(measure(conv1=[1.0, NAN, 3.0, 2.0]), "conv1")
    assert isinstance(text, Text)
    assert isinstance(bars, Figure)
    assert isinstance(bins, Figure)
    assert isinstance(table, Table)
    assert "4 neurons" in text.text
    assert [row["neuron"] for row in bars.rows] == [2, 3, 0, 1]
    assert [row["marked"] for row in bars.rows] == ["no", "no", "yes", "no"]
    assert sum(row["count"] for row in bins.rows) == 3
    assert sum(row["share"] for row in bins.rows) == pytest.approx(1)
    assert table.rows[-1]["value"] is None
    assert all(draw(figure).to_dict() for figure in (bars, bins))


def test_one_neuron_under_every_measure_that_knows_it() -> None:
    first, second = measure(conv1=[1.0, 3.0, 2.0]), measure(linear=[1.0])
    (blocks,) = neuron_blocks([first, second], "conv1", 2)
    (item,) = typed(blocks, Measures).items
    assert item.value == 2.0
    assert "Rank 2 of 3" in item.explanation
    with pytest.raises(NotFoundError, match="no neuron 9"):
        neuron_blocks([first], "conv1", 9)
    with pytest.raises(NotFoundError, match="has no layer"):
        layer_blocks(first, "conv9")


def test_only_layers_of_a_kind() -> None:
    kept = of_kind(measure(**RESNET), "activation")
    assert [layer.name for layer in kept.layers] == ["layer1.0.relu", "linear"]
    assert len(of_kind(measure(**RESNET), "").layers) == 5


def test_values_and_figures_are_exported() -> None:
    rows = list(csv.DictReader(measure_csv(measure(conv1=[0.1, NAN])).splitlines()))
    assert rows == [
        {"layer": "conv1", "kind": "conv", "neuron": "0", "value": "0.1", "marked": "1"},
        {"layer": "conv1", "kind": "conv", "neuron": "1", "value": "", "marked": "0"},
    ]
    figure = network_map(measure(**RESNET), collapse=False)
    assert [row["layer"] for row in csv.DictReader(figure_csv(figure).splitlines())][1] == "layer1.0.conv1"
    assert as_svg(figure).startswith("<svg")
