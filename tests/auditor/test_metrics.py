"""Rates and paired differences, against published values and plain restatements."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from auditor.errors import MismatchError
from auditor.metrics import Rate, paired_difference


def test_the_wilson_interval_equals_its_formula() -> None:
    for hits, n in ((0, 10), (3, 10), (10, 10), (81, 263), (499, 500)):
        z = 1.959963984540054  # the 97.5 % point of the standard normal
        p = hits / n
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        rate = Rate.count(hits, n)
        assert rate.value == p
        assert rate.low == pytest.approx(max(0.0, centre - half), abs=1e-12)
        assert rate.high == pytest.approx(min(1.0, centre + half), abs=1e-12)


def test_the_wilson_interval_equals_published_values() -> None:
    # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3: 81/263 -> 0.2553 to 0.3662; 0/20 -> 0 to 0.1611.
    rate = Rate.count(81, 263)
    assert (rate.low, rate.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert Rate.count(0, 20).high == pytest.approx(0.1611, abs=5e-5)


def test_a_rate_of_nothing_is_no_number() -> None:
    rate = Rate.of(np.zeros(0, bool))
    assert (rate.value, rate.low, rate.high) == (None, None, None)
    assert str(rate) == "– (n = 0)"


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
