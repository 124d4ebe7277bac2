"""Paired differences, against plain restatements."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from auditor.kit.errors import MismatchError
from auditor.kit.statistics.paired import in_points, paired_difference, paired_means


def test_the_paired_difference_by_hand() -> None:
    # 12 samples only a, 2 only b, 50 in all. Difference (2 - 12) / 50 = -0.2.
    # Agresti and Min: x = 12.5, y = 2.5, N = 52: centre -10/52, se = sqrt(15 - 100/52) / 52 = 0.06956.
    a = np.array([1] * 12 + [0] * 38, bool)
    b = np.array([0] * 12 + [1] * 2 + [0] * 36, bool)
    found = paired_difference(a, b)
    assert (found.value, found.n, found.only_a, found.only_b) == (-0.2, 50, 12, 2)
    assert found.low == pytest.approx(-10 / 52 - 1.96 * 0.069558, abs=2e-4)
    assert found.high == pytest.approx(-10 / 52 + 1.96 * 0.069558, abs=2e-4)
    # Exact McNemar: twice the tail P(X <= 2) of Binomial(14, 1/2) = 2 * (1 + 14 + 91) / 2^14.
    assert found.p == pytest.approx(2 * 106 / 2**14)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    cells = np.array([0.5, 0.2, 0.1, 0.2])  # both, only a, only b, none: true difference -0.1
    covered = 0
    for _ in range(1500):
        draw = rng.choice(4, size=120, p=cells)
        found = paired_difference(np.isin(draw, (0, 1)), np.isin(draw, (0, 2)))
        covered += found.low <= -0.1 <= found.high
    # 1500 draws at 95 %: three standard errors are 1.7 points.
    assert 0.93 <= covered / 1500 <= 0.975


def test_no_difference_and_nothing_to_compare() -> None:
    same = np.array([1, 0, 1], bool)
    found = paired_difference(same, same)
    assert (found.value, found.p) == (0.0, 1.0)
    assert found.low < 0 < found.high
    with pytest.raises(MismatchError, match="same samples"):
        paired_difference(same, same[:2])


def test_mcnemar_equals_scipy_on_random_tables() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        a, b = rng.random(60) < 0.6, rng.random(60) < 0.5
        k, n = int((a & ~b).sum()), int((a ^ b).sum())
        tail = min(1.0, 2 * min(stats.binom.cdf(k, n, 0.5), stats.binom.sf(k - 1, n, 0.5)))
        assert paired_difference(a, b).p == pytest.approx(tail)


def test_paired_means_are_the_paired_t_test_of_scipy() -> None:
    a, b = np.random.default_rng(0).random((2, 30))
    change, test = paired_means(a, b), stats.ttest_rel(b, a)
    assert change.p == pytest.approx(test.pvalue)
    assert (change.low, change.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert change.n == 30


def test_one_pair_of_numbers_proves_nothing() -> None:
    one = paired_means(np.array([0.2]), np.array([0.9]))
    assert one.value == pytest.approx(0.7)
    assert (one.low, one.high, one.p) == (None, None, 1.0)
    assert in_points(one) == "+70.0"
    alike = paired_means(np.array([0.25, 0.5]), np.array([0.5, 0.75]))
    assert (alike.low, alike.high, alike.p) == (0.25, 0.25, 0.0)
    assert paired_means(np.ones(3), np.ones(3)).p == 1.0


def test_points_are_signed_and_have_their_interval() -> None:
    a, b = np.array([1] * 12 + [0] * 38, bool), np.array([0] * 12 + [1] * 2 + [0] * 36, bool)
    assert in_points(paired_difference(a, b)) == "-20.0 [-32.9, -5.6]"  # -10/52 -+ 1.96 * 0.069558
    assert in_points(None) == "–"
