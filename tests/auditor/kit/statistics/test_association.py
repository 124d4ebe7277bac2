"""Rank correlations, areas under the ROC curve and means, against scipy and plain restatements."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from auditor.kit.statistics.association import discrimination, partial_spearman, spearman
from auditor.kit.statistics.estimate import Estimate
from tests.narrow import known

RANDOM = np.random.default_rng(0)
Z = 1.959963984540054


def three(n: int, decimals: int) -> np.ndarray:
    a = RANDOM.normal(size=n)
    return np.round([a, a + RANDOM.normal(size=n), a - RANDOM.normal(size=n)], decimals)


@pytest.mark.parametrize("decimals", [0, 8])
def test_spearman_is_scipys_ties_and_all(decimals: int) -> None:
    a, b, _ = three(50, decimals)
    found = spearman(a, b)
    assert found.value == pytest.approx(stats.spearmanr(a, b).statistic, rel=1e-12)
    value = known(found.value)
    half = Z * math.sqrt((1 + value**2 / 2) / (50 - 3))  # Bonett and Wright 2000
    assert found.low == pytest.approx(math.tanh(math.atanh(value) - half))
    assert found.high == pytest.approx(math.tanh(math.atanh(value) + half))
    assert found.n == 50


def test_spearman_where_there_is_nothing_to_tell() -> None:
    assert spearman([1, 2, 3, 4, 5], [2, 4, 6, 8, 9]) == Estimate(value=1, low=1, high=1, n=5)
    assert spearman([1, 2, 3, 4, 5], [7, 7, 7, 7, 7]) == Estimate.unknown(5)
    assert spearman([1.0, 2.0, 4.0], [1, 3, 2]).low is None  # three samples have no interval
    assert spearman([], []).value is None
    assert spearman([1, 2, np.inf, np.inf], [1, 2, 3, 3]).value == pytest.approx(1)  # "at no epsilon" ranks last


@pytest.mark.parametrize("decimals", [0, 8])
def test_partial_correlation_is_that_of_the_residuals_of_the_ranks(decimals: int) -> None:
    a, b, held = three(60, decimals)
    ranks = [stats.rankdata(item) for item in (a, b, held)]
    design = np.stack([np.ones(60), ranks[2]], 1)
    left = [rank - design @ np.linalg.lstsq(design, rank, rcond=None)[0] for rank in ranks[:2]]
    found = partial_spearman(a, b, held)
    assert found.value == pytest.approx(np.corrcoef(*left)[0, 1], rel=1e-9)
    value = known(found.value)
    half = Z * math.sqrt((1 + value**2 / 2) / (60 - 4))
    assert found.low == pytest.approx(math.tanh(math.atanh(value) - half))


def test_nothing_is_left_of_a_number_that_is_held_itself() -> None:
    a, b, _ = three(30, 8)
    assert partial_spearman(np.exp(a), b, a).value is None


def restated(scores: list[np.ndarray], positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas and their covariance matrix by DeLong et al. 1988, pair by pair."""
    kernel = lambda x, y: 1.0 if x > y else 0.5 if x == y else 0.0  # noqa: E731
    above = np.array([[np.mean([kernel(x, y) for y in s[~positive]]) for x in s[positive]] for s in scores])
    below = np.array([[np.mean([kernel(x, y) for x in s[positive]]) for y in s[~positive]] for s in scores])
    area, k = above.mean(1), len(scores)
    covariance = np.zeros((k, k))
    for i in range(k):
        for j in range(k):
            for part in (above, below):
                m = part.shape[1]
                covariance[i, j] += ((part[i] - area[i]) * (part[j] - area[j])).sum() / (m - 1) / m
    return area, covariance


@pytest.mark.parametrize("decimals", [0, 8])
def test_areas_and_their_differences_are_delongs(decimals: int) -> None:
    scores = list(three(40, decimals))
    positive = scores[0] + RANDOM.normal(size=40) > 0.3
    area, covariance = restated(scores, positive)
    found = discrimination(scores, positive)
    for i, score in enumerate(scores):
        u = stats.mannwhitneyu(score[positive], score[~positive]).statistic
        assert found.areas[i].value == pytest.approx(area[i], rel=1e-12)
        assert found.areas[i].value == pytest.approx(u / positive.sum() / (~positive).sum(), rel=1e-12)
        assert found.areas[i].low == pytest.approx(max(0, area[i] - Z * covariance[i, i] ** 0.5), rel=1e-9)
        variance = covariance[0, 0] + covariance[i, i] - 2 * covariance[0, i]
        assert found.first_minus[i].value == pytest.approx(area[0] - area[i], abs=1e-12)
        assert found.first_minus[i].high == pytest.approx(area[0] - area[i] + Z * max(variance, 0) ** 0.5, abs=1e-9)


def test_areas_need_both_outcomes() -> None:
    found = discrimination([np.arange(5.0)] * 2, np.array([True, False, False, False, False]))
    assert [item.value for item in (*found.areas, *found.first_minus)] == [None] * 4


def test_the_bootstrap_is_scipys_but_for_chance() -> None:
    values = RANDOM.lognormal(0, 1.5, size=60)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    found = Estimate.of_bootstrap(values, 0)
    assert found.value == values.mean()
    width = theirs.high - theirs.low
    low, high = known(found.low), known(found.high)
    assert abs(low - theirs.low) < 0.06 * width
    assert abs(high - theirs.high) < 0.06 * width
    assert low > 0
    assert Estimate.of_bootstrap(values, 0) == found
