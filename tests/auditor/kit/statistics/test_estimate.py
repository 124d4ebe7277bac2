"""Estimates and their intervals against scipy, published values and plain formulas; how often they hold."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from auditor.kit.statistics.estimate import Estimate, Rate
from tests.narrow import known


def test_students_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).normal(3, 2, 12)
    mean = Estimate.of_mean(np.append(values, np.nan))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean.value, mean.low, mean.high) == pytest.approx((values.mean(), expected.low, expected.high))
    assert mean.n == 12
    assert str(Estimate.of_mean(np.array([1.0, 2.0, 3.0]))) == "2 [-0.484, 4.48]"


def test_too_few_numbers_have_no_interval() -> None:
    assert Estimate.of_mean(np.array([])).value is None
    assert Estimate.of_mean(np.array([np.nan])).n == 0
    one = Estimate.of_mean(np.array([2.0]))
    assert (one.value, one.low, one.high, one.n) == (2.0, None, None, 1)
    assert Estimate.of_rate(np.array([])).low is None
    assert str(Estimate.of_mean(np.array([]))) == "– (n = 0)"
    assert str(one) == "2"


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
    assert (rate.low, rate.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert Rate.count(0, 20).high == pytest.approx(0.1611, abs=5e-5)


def test_a_rate_of_nothing_is_no_number() -> None:
    rate = Rate.of(np.zeros(0, bool))
    assert (rate.value, rate.low, rate.high) == (None, None, None)
    assert str(rate) == "– (n = 0)"


def test_the_wilson_interval_is_scipys_to_the_bit() -> None:
    for n in (1, 2, 7, 20, 199, 500, 2000):
        for hits in sorted({0, 1, n // 3, n // 2, n - 1, n}):
            expected = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
            answers = np.append(np.arange(n) < hits, np.nan)
            for made in (Rate.count(hits, n), Estimate.of_rate(answers)):
                assert (made.low, made.high, made.n) == (expected.low, expected.high, n), (hits, n)


def test_averages_of_several_tries_are_on_the_safe_side() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        chances = generator.beta(2, 3, 30)  # mean 0.4
        mean = Estimate.of_rate(generator.binomial(3, chances) / 3)
        inside += known(mean.low) <= 0.4 <= known(mean.high)
    assert inside / 400 >= 0.95


def test_differences_have_the_interval_of_agresti_and_min() -> None:
    generator = np.random.default_rng(2)
    for _ in range(5):
        a, b = generator.random((2, 30)) < 0.6
        # In the plainest form: two more samples, half of one at each of 1 and -1; Wald's interval of those 32 numbers.
        values, weights = np.append(b.astype(float) - a, [1, -1, 0]), np.append(np.ones(30), [0.5, 0.5, 1])
        centre = np.average(values, weights=weights)
        reach = 1.959963984540054 * math.sqrt(np.average((values - centre) ** 2, weights=weights) / 32)
        found = Estimate.of_differences(np.append(b.astype(float) - a, np.nan))
        assert (found.low, found.high) == pytest.approx((centre - reach, centre + reach))
        assert found.value == pytest.approx((b.astype(float) - a).mean())
        assert found.n == 30
    same = Estimate.of_differences(np.zeros(50))
    assert (same.value, same.n) == (0, 50)
    assert -0.05 < known(same.low) < 0 < known(same.high) < 0.05


def test_the_median_has_its_exact_interval() -> None:
    values = np.random.default_rng(3).permutation(np.arange(1.0, 21.0))
    # Of 20 numbers the 6th and the 15th bound the median: P(X <= 5) = 0.0207 for Binomial(20, 1/2).
    assert Estimate.of_median(np.append(values, np.nan)) == Estimate(value=10.5, low=6.0, high=15.0, n=20)
    assert Estimate.of_median([3.0, 5.0]) == Estimate(value=4.0, low=None, high=None, n=2)


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = np.random.default_rng(4).normal(size=9)
    without = (values.sum() - values) / 8
    found, expected = Estimate.of_jackknife(values.mean(), without), Estimate.of_mean(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_every_way_to_make_one_is_alike_on_missing_numbers_and_on_none() -> None:
    makers = (
        Estimate.of_rate, Estimate.of_mean, Estimate.of_differences, Estimate.of_median,
        lambda values: Estimate.of_bootstrap(values, 0), lambda values: Rate.mean(np.array(values)),
    )  # fmt: skip
    for make in makers:
        for nothing in ([], [math.nan, math.nan]):
            made = make(nothing)
            assert (made.value, made.low, made.high, made.n) == (None, None, None, 0)
            assert str(made) == "– (n = 0)"
        assert make([0.2, math.nan, 0.4, 0.9]) == make([0.2, 0.4, 0.9])
    assert Rate.of(np.zeros(0, bool)) == Rate.count(0, 0)


def test_unit_and_direction_travel_and_are_stored_where_they_are_known() -> None:
    plain = Estimate.of_mean([1.0, 2.0])
    assert set(json.loads(plain.model_dump_json())) == {"value", "low", "high", "n"}
    share = Estimate.of_rate([0, 1, 1, 1]).model_copy(update={"unit": "%", "higher_is_better": True})
    assert Estimate.model_validate_json(share.model_dump_json()) == share
    assert str(share) == "75.0 % [30.1, 95.4]"
    assert f"{Estimate.of_mean([1.0, 2.0, 3.0]):.1f}" == "2.0 [-0.5, 4.5]"
    measure = share.measure("Kept")
    assert (measure.unit, measure.higher_is_better, measure.n) == ("%", True, 4)
    rate = Rate.count(3, 4)
    assert json.loads(rate.model_dump_json()).keys() == {"hits", "n", "value", "low", "high"}
    assert Rate.model_validate_json(rate.model_dump_json()) == rate


def test_bounds_are_cut_to_what_is_possible() -> None:
    assert Estimate.of_mean([0.0, 1.0]).within(0, 1) == Estimate(value=0.5, low=0, high=1, n=2)
    assert Estimate.of_mean([0.5]).within(0, 1).low is None


def test_a_measure_has_the_unit_of_the_estimate_or_the_one_given() -> None:
    shares, rate = Estimate.of_mean([0.25, 0.75]), Rate.count(1, 4)
    assert (shares.measure("Share").unit, shares.measure("Share", unit="%").unit) == ("", "%")
    assert rate.measure("Share").unit == "%"
    withheld = rate.withheld_for("A doubt.").measure("Share", unit="%", explanation="Of all.")
    assert (withheld.title, withheld.value, withheld.unit) == ("Share: not established", None, "%")
    assert withheld.explanation == "A doubt. Of all."
