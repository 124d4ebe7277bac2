"""What charts make of models of numbers."""

from __future__ import annotations

from auditor.kit.statistics.estimate import Estimate
from auditor.neural.figures import along_layers, by_value, line_rows, neuron_values, profile, value_rows
from auditor.neural.found import LayerRow, shown


class Row(LayerRow):
    size: Estimate = shown("Size", ".2f")

    @property
    def half(self) -> float:
        return self.neurons / 2


def row(name: str, value: float, neurons: int = 4) -> Row:
    return Row(name=name, kind="conv", neurons=neurons, size=Estimate(value=value, low=0, high=9, n=5))


ROWS = (row("a", 2.0), row("c", 1.0, neurons=5), row("d", 2.0))


def test_rows_of_charts_along_the_layers() -> None:
    assert profile(ROWS[1:], size="size.value", half="half") == (
        {"layer": "c", "depth": 1, "kind": "conv", "neurons": 5, "size": 1.0, "half": 2.5},
        {"layer": "d", "depth": 2, "kind": "conv", "neurons": 4, "size": 2.0, "half": 2.0},
    )
    assert along_layers(ROWS[:1], {"size": "sizes"}) == (
        {"depth": 1, "layer": "a", "series": "sizes", "value": 2.0, "low": 0, "high": 9, "n": 5},
    )


def test_rows_of_lines_come_line_by_line() -> None:
    assert line_rows(ROWS[1:], "neurons", {"half": "halves", "name": "names"}) == (
        {"x": 5, "series": "halves", "value": 2.5},
        {"x": 4, "series": "halves", "value": 2.0},
        {"x": 5, "series": "names", "value": "c"},
        {"x": 4, "series": "names", "value": "d"},
    )


def test_neurons_by_value_leave_out_the_unknown_and_mark_the_first() -> None:
    ranked = by_value(enumerate([3.0, None, 1.0, 3.0]))
    assert ranked == [(2, 1.0), (0, 3.0), (3, 3.0)]  # of equals the lower index first
    figure = neuron_values("title", value_rows(ranked, 2), "y", "lowest", reading="How.", log=True)
    assert figure.rows == tuple(
        {"neuron": neuron, "value": value, "marked": marked}
        for neuron, value, marked in ((2, 1.0, "yes"), (0, 3.0, "yes"), (3, 3.0, "no"))
    )
    assert figure.options == {"y": "y", "marked": "lowest", "log": True}
