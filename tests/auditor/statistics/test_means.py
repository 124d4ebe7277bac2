"""Means and their intervals against scipy, and how often they hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from auditor.metrics import Rate, paired_difference
from auditor.statistics.means import Mean


def test_students_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).normal(3, 2, 12)
    mean = Mean.of(np.append(values, np.nan))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean.value, mean.low, mean.high) == pytest.approx((values.mean(), expected.low, expected.high))
    assert mean.n == 12
    assert str(Mean.of(np.array([1.0, 2.0, 3.0]))) == "2 [-0.484, 4.48]"


def test_too_few_numbers_have_no_interval() -> None:
    assert Mean.of(np.array([])).value is None
    assert Mean.of(np.array([np.nan])).n == 0
    one = Mean.of(np.array([2.0]))
    assert (one.value, one.low, one.high, one.n) == (2.0, None, None, 1)
    assert Mean.of_shares(np.array([])).low is None
    assert str(Mean.of(np.array([]))) == "– (n = 0)"
    assert str(one) == "2"


def test_shares_of_yes_and_no_have_the_interval_of_a_rate() -> None:
    for hits in (0, 3, 10):
        answers = np.arange(10) < hits
        rate, mean = Rate.of(answers), Mean.of_shares(np.append(answers, np.nan))
        assert (mean.value, mean.low, mean.high) == pytest.approx((rate.value, rate.low, rate.high), abs=1e-12)


def test_averages_of_several_tries_are_on_the_safe_side() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        chances = generator.beta(2, 3, 30)  # mean 0.4
        mean = Mean.of_shares(generator.binomial(3, chances) / 3)
        inside += mean.low <= 0.4 <= mean.high
    assert inside / 400 >= 0.95


def test_differences_of_yes_and_no_have_the_interval_of_agresti_and_min() -> None:
    generator = np.random.default_rng(2)
    for _ in range(5):
        a, b = generator.random((2, 30)) < 0.6
        expected, mean = paired_difference(a, b), Mean.of_differences(b.astype(float) - a)
        assert (mean.value, mean.low, mean.high) == pytest.approx((expected.value, expected.low, expected.high))
    same = Mean.of_differences(np.zeros(50))
    assert (same.value, same.n) == (0, 50)
    assert -0.05 < same.low < 0 < same.high < 0.05
    assert Mean.of_differences(np.array([])).value is None
