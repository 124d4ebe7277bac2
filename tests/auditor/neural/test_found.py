"""Models of numbers, and what tables make of them."""

from __future__ import annotations

import numpy as np

from auditor.kit.statistics.estimate import Estimate
from auditor.neural.found import Found, LayerRow, Values, highest, lowest, neuron_in, shown, some_of, table


class Row(LayerRow):
    size: Estimate = shown("Size", ".2f")


class Neurons(Found):
    values: Values


def row(name: str, value: float | None, neurons: int = 4) -> Row:
    return Row(name=name, kind="conv", neurons=neurons, size=Estimate(value=value, low=0, high=9, n=5))


ROWS = (row("a", 2.0), row("b", None), row("c", 1.0, neurons=5), row("d", 2.0))


def test_values_are_arrays_here_and_lists_in_json() -> None:
    found = Neurons(values=np.array([1.5, np.nan, -2.0]))
    assert found.model_dump_json() == '{"values":[1.5,null,-2.0]}'
    read = Neurons.model_validate_json(found.model_dump_json())
    assert read.values.dtype == np.float64
    assert np.isnan(read.values).tolist() == [False, True, False]
    assert read == found
    assert read != Neurons(values=[1.5, None, 2.0])
    table = Neurons(values=[[1.0, None], [3.0, 4.0]])
    assert table.model_dump_json() == '{"values":[[1.0,null],[3.0,4.0]]}'
    assert np.isnan(table.values).tolist() == [[False, True], [False, False]]


def test_models_of_two_classes_are_not_equal() -> None:
    class Others(Found):
        values: Values

    assert Neurons(values=[1.0]) != Others(values=[1.0])


def test_rows_in_the_order_of_a_field_those_without_a_value_left_out() -> None:
    assert [one.name for one in lowest(ROWS, "size.value")] == ["c", "a", "d"]
    assert [one.name for one in highest(ROWS, "size.value")] == ["a", "d", "c"]
    assert [one.name for one in highest(ROWS, "size.value", 1)] == ["a"]


def test_a_table_has_the_titles_and_formats_of_the_fields() -> None:
    made = table(ROWS[:2], "name", "neurons", "size")
    assert [(column.key, column.title) for column in made.columns] == [
        ("name", "Layer"), ("neurons", "Neurons"), ("size", "Size"),
    ]  # fmt: skip
    assert made.cells() == [["a", "4", "2.00 [0.00, 9.00]"], ["b", "4", "– (n = 5)"]]


def test_the_evidence_of_a_flag_counts_and_names_the_first() -> None:
    assert some_of(ROWS[1:3], ROWS) == "2 of 4 layers, the first: b"


def test_a_mark_names_a_neuron_or_none() -> None:
    assert [neuron_in(mark, 12) for mark in ("0", "11", "12", "-1", "conv1", "")] == [0, 11, None, None, None, None]
