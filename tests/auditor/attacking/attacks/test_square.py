"""Square beside the paper's formulas in their plainest form, and beside torchattacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchattacks

from auditor.attacking.attack import ATTACKS, Rows
from auditor.attacking.attacks.square import HALVED_AFTER, L2Moves, LinfMoves, _odd, _sides, two_peaks
from auditor.attacking.criterion import Misclassification
from auditor.attacking.threat import Norm, ThreatModel
from tests.auditor.attacking.attacks.closest import correct
from tests.auditor.real import FEWER, Setting, ours


def rows(norm: Norm, epsilon: float, n: int = 6, size: int = 16) -> Rows:
    """Rows in float64, far enough from the edges of the box that only the ball matters."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 3, size, size, generator=generator, dtype=torch.float64) * 0.2 + 0.4
    zero, radius = np.zeros(n, np.int64), torch.full((n,), epsilon, dtype=torch.float64)
    return Rows(
        np.arange(n), np.arange(n), zero, zero, zero, x, x, x, x.new_zeros(n, 2), radius + torch.inf, radius, radius * 0,
        radius + torch.inf, Misclassification(torch.zeros(n, dtype=torch.int64)), norm, 0,
    )  # fmt: skip


def side_at(query: int, queries: int, size: int, *, odd: bool) -> int:
    """The schedule of the paper's code, case by case."""
    it, p = int(query / queries * 10_000), 0.8
    for last, halvings in ((10, 0), (50, 1), (200, 2), (500, 3), (1000, 4), (2000, 5), (4000, 6), (6000, 7), (8000, 8)):
        if it <= last:
            p /= 2**halvings
            break
    else:
        p /= 2**9
    side = max(round((p * size * size) ** 0.5), 3 if odd else 1)
    return side + 1 if odd and side % 2 == 0 else side


@pytest.mark.parametrize("queries", [5000, 300, 10_000])
def test_the_schedule_is_that_of_the_papers_code(queries: int) -> None:
    sides = _sides(0.8, 32, 32)
    for query in range(queries):
        halvings = int(torch.bucketize(torch.tensor(query * 10_000 // queries), torch.tensor(HALVED_AFTER)))
        assert sides[halvings] == side_at(query, queries, 32, odd=False)
        assert _odd(sides, 32)[halvings] == side_at(query, queries, 32, odd=True)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 8, 29])
def test_the_two_peaks_are_those_of_the_paper(side: int) -> None:
    """Equation 2: squares of growing size around the centre, each adding 1 / (its number)^2; both halves of unit norm first."""

    def peak(height: int, width: int) -> np.ndarray:
        values = np.zeros((height, width))
        for number in range(max(height, width) // 2 + 1):
            for row in range(height):
                for column in range(width):
                    if max(abs(row - height // 2), abs(column - width // 2)) <= number:
                        values[row, column] += 1 / (number + 1) ** 2
        return values / np.linalg.norm(values) if height else values

    expected = np.r_[peak(side // 2, side), -peak(side - side // 2, side)]
    assert np.allclose(two_peaks(side), expected / np.linalg.norm(expected), atol=1e-6)


def test_a_linf_step_sets_one_square_to_one_sign_per_channel() -> None:
    part = rows(Norm.LINF, 0.1)
    start = LinfMoves.first(part)
    assert torch.allclose((start - part.x).abs(), torch.full_like(start, 0.1))
    assert torch.equal(start - part.x, (start - part.x)[:, :, :1].expand_as(start).sign() * (start - part.x).abs())
    draws = torch.rand(6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    halvings = torch.tensor([0, 1, 2, 4, 6, 9])
    moved = LinfMoves.next(part, start, 0.8, halvings, draws)
    for row, side in enumerate(torch.tensor(_sides(0.8, 16, 16))[halvings].tolist()):
        top, left = (int(draw * (16 - side + 1)) for draw in draws[row, :2])
        expected = start[row].clone()
        for channel in range(3):
            sign = -1 if draws[row, 2 + channel] < 0.5 else 1
            window = (channel, slice(top, top + side), slice(left, left + side))
            expected[window] = part.x[row][window] + sign * 0.1
        assert torch.allclose(moved[row], expected, atol=1e-12)


def test_an_l2_step_moves_the_mass_of_two_windows_into_one() -> None:
    """Algorithm 3, line by line, from a perturbation that does not use all of epsilon."""
    part, epsilon = rows(Norm.L2, 1.0), 1.0
    start = L2Moves.first(part)
    assert torch.allclose((start - part.x).flatten(1).norm(dim=1), torch.ones(6, dtype=torch.float64))
    kept = part.x + 0.8 * (start - part.x)
    draws = torch.rand(6, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    halvings = torch.tensor([0, 1, 2, 4, 6, 9])
    moved = L2Moves.next(part, kept, 0.8, halvings, draws)
    for row, side in enumerate(torch.tensor(_odd(_sides(0.8, 16, 16), 16))[halvings].tolist()):
        top, left, top_2, left_2 = (int(draw * (16 - side + 1)) for draw in draws[row, :4])
        delta = (kept - part.x)[row].numpy().copy()
        either = np.zeros((16, 16), bool)
        either[top : top + side, left : left + side] = either[top_2 : top_2 + side, left_2 : left_2 + side] = True
        unused = epsilon**2 - (delta**2).sum()
        peaks = two_peaks(side).double().numpy()
        peaks = peaks.T if draws[row, 4] < 0.5 else peaks
        expected = delta.copy()
        expected[:, top_2 : top_2 + side, left_2 : left_2 + side] = 0
        for channel in range(3):
            old = delta[channel, top : top + side, left : left + side]
            sign = -1 if draws[row, 5 + channel] < 0.5 else 1
            new = sign * peaks + (old / np.linalg.norm(old) if old.any() else 0)
            available = np.sqrt((delta[channel][either] ** 2).sum() + unused / 3)
            expected[channel, top : top + side, left : left + side] = new / np.linalg.norm(new) * available
        assert np.allclose((moved - part.x)[row], expected, atol=1e-6)
        assert np.linalg.norm(expected) == pytest.approx(epsilon), "no mass is lost"


@pytest.mark.parametrize(("norm", "epsilon"), [(Norm.LINF, 8 / 255), (Norm.L2, 0.5)])
def test_square_is_as_strong_as_torchattacks(setting: Setting, norm: Norm, epsilon: float) -> None:
    """Between seeds either varies by about 0.03 here."""
    check(setting, norm, epsilon, queries=100, samples=70, margin=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "epsilon"), [(Norm.LINF, 8 / 255), (Norm.L2, 0.5)])
def test_square_is_as_strong_as_torchattacks_with_5000_queries(setting: Setting, norm: Norm, epsilon: float) -> None:
    check(setting, norm, epsilon, queries=5000, samples=FEWER, margin=0.015)


def check(setting: Setting, norm: Norm, epsilon: float, *, queries: int, samples: int, margin: float) -> None:
    part = correct(setting, samples)
    mine = ours(part, f"square:queries={queries}", ThreatModel(norm=norm, epsilon=epsilon)).mean()
    symbol = {Norm.LINF: "Linf", Norm.L2: "L2"}[norm]
    attack = torchattacks.Square(setting.classifier, norm=symbol, eps=epsilon, n_queries=queries)
    # They share their squares within a batch, so small batches make their result less a matter of luck.
    parts = [
        setting.classifier.logits(attack(x, y)).argmax(1) != y
        for x, y in zip(part.x.split(20), part.y.split(20), strict=True)
    ]
    theirs = torch.cat(parts).double().mean()
    print(f"square {norm}, {queries} queries: fooled, of {len(part.ids)}: ours {mine:.3f}, torchattacks {theirs:.3f}")
    assert mine >= theirs - margin


def test_restarts_and_the_ensembles_parameters_are_known() -> None:
    assert ATTACKS.parse("square").cost == 5001
    assert ATTACKS.parse("square:queries=10,restarts=3").runs == 3
