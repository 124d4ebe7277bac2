"""The search for the first crossing, on lines whose crossings are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from auditor.neural.delta.crossings import Crossings, first_crossings

LINES: list[tuple[Callable[[Tensor], Tensor], float]] = [
    (lambda t: t > 0.37, 0.37),
    (lambda t: t < -2.5, -2.5),
    (lambda t: (t > 3) | (t < -0.2), -0.2),
    (lambda t: t.abs() > 1.5, 1.5),  # alike in both directions: the positive one
    (lambda t: (t > 0.5) & (t < 0.9), 0.5),  # crosses back: an island wider than the grid's ratio
    (lambda t: (t < -0.5) & (t > -0.9) | (t > 0.6), -0.5),
    (lambda t: t > 1e-7, 1e-7),  # before the first place of the grid, which is 0.1
    (lambda t: t > 11, math.inf),  # beyond the bound of 10
    (lambda t: t > 9.99, 9.99),
    (lambda t: torch.zeros_like(t, dtype=torch.bool), math.inf),
]


def as_margins(crossed: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Margins of one size on either side, from which a secant learns nothing."""
    return lambda lines, places: 1.0 - 2.0 * crossed(lines, places).double()


def search(lines: list[tuple[Callable[[Tensor], Tensor], float]], per_call: int = 64, points: int = 20) -> Crossings:
    def crossed(index: Tensor, places: Tensor) -> Tensor:
        assert (places.abs() <= 10 * (1 + 1e-4)).all(), "beyond the bound"
        answers = [lines[int(line)][0](place) for line, place in zip(index, places, strict=True)]
        return torch.stack(answers) if answers else torch.empty(0, dtype=torch.bool)

    bound = torch.full((len(lines),), 10.0, dtype=torch.float64)
    return first_crossings(as_margins(crossed), bound, points=points, per_call=per_call)


@pytest.mark.parametrize("per_call", [1, 7, 64, 10_000])
def test_the_first_crossing_of_each_line(per_call: int) -> None:
    found = search(LINES, per_call)
    for value, (_, expected) in zip(found.value.tolist(), LINES, strict=True):
        assert value == pytest.approx(expected, rel=1e-6)
    assert not found.fails_beyond.any()
    assert not found.fails_before.any()


def test_how_many_places_a_call_asks_about_changes_no_bit() -> None:
    assert torch.equal(search(LINES, 1).value, search(LINES, 1000).value)


def test_a_crossing_narrower_than_the_grid_goes_unseen_until_the_grid_is_finer() -> None:
    island = [(lambda t: (t > 0.50) & (t < 0.505) | (t > 5), 0.0)]
    assert search(island, points=10).value.item() == pytest.approx(5, rel=1e-6)
    assert search(island, points=2000).value.item() == pytest.approx(0.5, rel=1e-6)


def test_what_is_no_clean_crossing_is_said() -> None:
    """Hatched beyond 1: across in every second strip of 2e-5; both sides of some strip lie within 1e-4."""
    hatched = [(lambda t: (t > 1) & ((t * 5e4).floor() % 2 == 0) | (t > 1.2), 0.0)]
    found = search(hatched)
    assert found.fails_before.item() or found.fails_beyond.item()


def test_lines_have_bounds_of_their_own_and_no_reach_means_no_crossing() -> None:
    bound = torch.tensor([1.0, 4.0, 0.0], dtype=torch.float64)
    found = first_crossings(as_margins(lambda lines, places: places > 2), bound, points=20, per_call=8)
    assert found.value.tolist() == [math.inf, pytest.approx(2, rel=1e-6), math.inf]


def test_no_line_at_all() -> None:
    found = first_crossings(as_margins(lambda lines, places: places > 2), torch.empty(0).double(), points=5, per_call=8)
    assert found.value.shape == (0,)


CURVES: list[tuple[Callable[[Tensor], Tensor], float]] = [
    (lambda t: 3.7 - t, 3.7),
    (lambda t: 2 + t, -2),
    (lambda t: torch.minimum(1 - 0.1 * t, 3 - t), 3),  # a kink before the root
    (lambda t: 2 - t**3, 2 ** (1 / 3)),
    (lambda t: 1e-3 * (0.5 - t) * (1 + 1000 * (t > 0.5)), 0.5),  # a slope a thousand times as steep behind it
    (lambda t: torch.where(t < 5.01, 1e9, -1e-9).double(), 5.01),  # a jump between margins that mislead a secant
    (lambda t: torch.where(t < 4.0, 1e-9, -1e9).double(), 4.0),
    (lambda t: 2e-7 - t, 2e-7),
]


def test_with_margins_that_tell_more_it_takes_few_questions() -> None:
    """Against roots in closed form; without what the size of a margin says, a line would take some 20 halvings."""
    asked = []

    def margins(index: Tensor, places: Tensor) -> Tensor:
        asked.append(len(index))
        found = [CURVES[int(line)][0](place) for line, place in zip(index, places, strict=True)]
        return torch.stack(found) if found else torch.empty(0).double()

    bound = torch.full((len(CURVES),), 10.0, dtype=torch.float64)
    found = first_crossings(margins, bound, points=20, per_call=1)
    for value, (_, expected) in zip(found.value.tolist(), CURVES, strict=True):
        assert value == pytest.approx(expected, rel=1e-6)
    assert found.value[:2].tolist() == pytest.approx([3.7, -2], rel=1e-12)
    assert not found.fails_beyond.any()
    assert not found.fails_before.any()
    asked.clear()
    first_crossings(margins, bound[:1], points=20, per_call=1)
    on_grid = 2 * 16  # 10 * 10 ** (-2 + 2 * 15 / 19) = 3.79 is the first place beyond 3.7, the 16th
    assert sum(asked) <= on_grid + 5 + 2, "beside the grid: the steps, the verification"
