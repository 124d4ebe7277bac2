"""Measures of rankings against scipy, the recursion of the paper, hand counts and simulations."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from auditor.ranking.agreement import (
    average_pair_similarity,
    descending,
    levenshtein,
    levenshtein_similarity,
    random_jaccard,
    random_similarity,
    random_spearman,
    ranks,
    share_of,
    spearman,
    total_jaccard,
    weighted_votes,
)


def sequences(count: int, k: int, neurons: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(neurons)[:k] for _ in range(count)])


def recursion(a: tuple[int, ...], b: tuple[int, ...], substitution: int) -> int:
    """Eq. 7 as it stands: the distance of the first i elements of a and the first j of b."""

    @cache
    def distance(i: int, j: int) -> int:
        if min(i, j) == 0:
            return max(i, j)
        replaced = distance(i - 1, j - 1) + (substitution if a[i - 1] != b[j - 1] else 0)
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, replaced)

    return distance(len(a), len(b))


def longest_common_subsequence(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """By trying every subsequence of a, longest first."""
    for size in range(len(a), 0, -1):
        for chosen in itertools.combinations(a, size):
            rest = iter(b)
            if all(item in rest for item in chosen):
                return size
    return 0


@pytest.mark.parametrize("n", [2, 3, 17, 512])
def test_spearman_equals_scipy_where_no_values_are_tied(n: int) -> None:
    generator = np.random.default_rng(n)
    for _ in range(5):
        a, b = generator.normal(size=(2, n))
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_ties_are_ranked_by_the_lower_index() -> None:
    assert descending(np.array([1.0, 3.0, 3.0, 2.0])).tolist() == [1, 2, 3, 0]
    assert ranks(np.array([1.0, 3.0, 3.0, 2.0])).tolist() == [4, 1, 2, 3]
    # Ranks (1, 2, 3) against (3, 2, 1): 1 - 6 (4 + 0 + 4) / (27 - 3) = -1.
    assert spearman(np.zeros(3), np.array([0.0, 1.0, 2.0])) == -1
    assert math.isnan(spearman(np.ones(1), np.ones(1)))


def test_random_rankings_have_the_spread_that_is_said() -> None:
    generator = np.random.default_rng(0)
    values = [spearman(*generator.normal(size=(2, 40))) for _ in range(3000)]
    chance = random_spearman(40)
    assert np.mean(values) == pytest.approx(chance.mean, abs=0.01)
    assert np.quantile(values, [0.025, 0.975]) == pytest.approx([chance.low, chance.high], abs=0.02)
    assert random_spearman(2) == (0.0, -1.0, 1.0)


@pytest.mark.parametrize("substitution", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(0, 3), (1, 1), (5, 5), (7, 3), (12, 12)])
def test_the_distance_equals_the_recursion_of_the_paper(n: int, m: int, substitution: int) -> None:
    generator = np.random.default_rng(n + 10 * m)
    a, b = generator.integers(0, 6, (40, n)), generator.integers(0, 6, (40, m))
    expected = [recursion(tuple(x), tuple(y), substitution) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert levenshtein(a, b, substitution).tolist() == expected
    assert int(levenshtein(a[0], b[0], substitution)) == expected[0]


def test_with_substitution_2_the_similarity_is_that_of_the_longest_common_subsequence() -> None:
    a, b = sequences(30, 7, 10), sequences(30, 7, 10, seed=1)
    expected = [2 * longest_common_subsequence(tuple(x), tuple(y)) / 14 for x, y in zip(a, b, strict=True)]
    assert levenshtein_similarity(a, b).tolist() == pytest.approx(expected, abs=1e-12)


def test_the_ranges_of_the_two_readings() -> None:
    a, b = np.arange(20), np.arange(20, 40)
    assert levenshtein_similarity(a, b, 1) == 0.5  # literal: at most k substitutions of 2k elements
    assert levenshtein_similarity(a, b, 2) == 0
    assert levenshtein_similarity(a, a, 1) == levenshtein_similarity(a, a, 2) == 1


def test_two_random_sequences_of_20_of_512() -> None:
    assert random_similarity(512, 20, 2, seed=0).mean == pytest.approx(0.035, abs=0.004)
    literal = random_similarity(512, 20, 1, seed=0)
    assert literal.mean == pytest.approx(0.5, abs=0.01)
    assert literal.low == 0.5
    # Two neurons, one chosen: the same one (similarity 1) or not (0), half of the time each.
    assert random_similarity(2, 1, 2, seed=0, draws=4000).mean == pytest.approx(0.5, abs=0.03)
    assert random_similarity(5, 3, 2, seed=1) == random_similarity(5, 3, 2, seed=1)


@pytest.mark.parametrize("substitution", [1, 2])
def test_the_average_over_all_ordered_pairs(substitution: int) -> None:
    found = sequences(5, 4, 8)
    pairs = [
        1 - recursion(tuple(found[i]), tuple(found[j]), substitution) / 8 for i in range(5) for j in range(5) if i != j
    ]
    mean = average_pair_similarity(found, substitution)
    assert mean.value == pytest.approx(np.mean(pairs), abs=1e-12)
    without = [average_pair_similarity(np.delete(found, i, 0), substitution).value for i in range(5)]
    error = math.sqrt(4 / 5 * sum((value - np.mean(without)) ** 2 for value in without))
    assert mean.high - mean.value == pytest.approx(error * stats.t.ppf(0.975, 4), abs=1e-12)
    assert average_pair_similarity(found[:1]).value is None
    assert average_pair_similarity(found[:2]).low is None


def test_the_interval_of_the_average_pair_similarity_covers_its_expectation() -> None:
    """Random sequences, again and again: the true mean is inside about 95 % of the time."""
    expected = random_similarity(30, 6, 2, seed=5, draws=20_000).mean
    inside = 0
    for seed in range(300):
        mean = average_pair_similarity(sequences(8, 6, 30, seed))
        inside += mean.low <= expected <= mean.high
    assert 0.9 <= inside / 300 <= 0.99


def test_total_jaccard_by_hand_and_by_chance() -> None:
    # In all three: {1, 2}; in any: {1, 2, 3, 4, 5}.
    assert total_jaccard(np.array([[1, 2, 3], [2, 1, 4], [5, 1, 2]])) == 2 / 5
    assert total_jaccard(np.array([[3, 1]])) == 1
    # The ratio of expected sizes, as simulated: 3 sequences of 20 of 50.
    sets = [[set(row.tolist()) for row in sequences(3, 20, 50, seed)] for seed in range(4000)]
    common = np.mean([len(set.intersection(*item)) for item in sets])
    union = np.mean([len(set.union(*item)) for item in sets])
    assert random_jaccard(50, 20, 3) == pytest.approx(common / union, rel=0.02)
    assert random_jaccard(10, 10, 4) == 1


def test_votes_by_hand() -> None:
    values = np.array([[0.1, 0.9, 0.5, -1.0], [0.7, 0.2, 0.7, 0.1]])
    # Image 1: neuron 1 gets 2 votes, neuron 2 one. Image 2: neurons 0 and 2 are tied, the lower index gets 2, the other 1.
    assert weighted_votes(values, 2).tolist() == [2, 2, 2, 0]
    # Borda: (1, 2, 0, 3) get 4..1, then (0, 2, 1, 3).
    assert weighted_votes(values, 4).tolist() == [2 + 4, 4 + 2, 3 + 3, 1 + 1]


def test_a_share_is_rounded_down_and_at_least_one() -> None:
    assert [share_of(n, 0.1) for n in (1, 9, 10, 19, 64, 512)] == [1, 1, 1, 1, 6, 51]
    assert share_of(100, 0.29) == 29
    assert share_of(7, 1.0) == 7
