"""Measures of rankings against scipy, the recursion of the paper, hand counts and simulations."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest
from scipy import stats

from auditor.kit.randomness import derive_seed
from auditor.kit.statistics.association import spearman
from auditor.neural.ranking.agreement import (
    average_pair_similarity,
    descending,
    front_odds,
    fronts,
    levenshtein,
    levenshtein_similarity,
    random_jaccard,
    random_similarity,
    random_spearman,
    share_of,
    shared_front,
    total_jaccard,
    weighted_votes,
)
from tests.narrow import known


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


def silent(generator: np.random.Generator, neurons: int, zeros: int) -> np.ndarray:
    """Values of which some, the same ones for every ranking, are zero: neurons that never move."""
    values = np.zeros(neurons)
    values[zeros:] = generator.random(neurons - zeros)
    return values


def test_neurons_that_never_move_are_no_agreement() -> None:
    """Of 64 neurons 40 are zero, each time others: two such rankings have nothing to do with each other."""
    generator = np.random.default_rng(0)
    found, odds, fronted = [], [], []
    for draw in range(600):
        a, b = (generator.permutation(silent(generator, 64, 40)) for _ in range(2))
        found.append(known(spearman(a, b).value))
        odds.append(shared_front(a, b, 40))
        one, other = fronts(a, 40, derive_seed(draw, "a"), draws=4), fronts(b, 40, derive_seed(draw, "b"), draws=4)
        fronted.append(levenshtein_similarity(one, other).mean())
    assert np.mean(found) == pytest.approx(0, abs=0.015)
    assert np.mean(odds) == pytest.approx(40 / 64, abs=0.01)
    assert np.mean(fronted) == pytest.approx(random_similarity(64, 40, 2, seed=0).mean, abs=0.01)


def test_order_is_by_the_lower_index_where_only_one_list_is_shown() -> None:
    assert descending(np.array([1.0, 3.0, 3.0, 2.0])).tolist() == [1, 2, 3, 0]


def test_a_front_without_a_tie_is_one_sequence() -> None:
    values = np.array([0.0, 5.0, 1.0, 0.0, 0.0, 3.0])
    assert fronts(values, 3, seed=0).tolist() == [[1, 5, 2]]
    assert front_odds(values, 3).tolist() == [0, 1, 1, 0, 0, 1]


def test_a_tie_in_the_front_is_broken_at_random() -> None:
    values = np.array([0.0, 5.0, 0.0, 0.0])
    found = fronts(values, 2, seed=1, draws=3000)
    assert set(found[:, 0].tolist()) == {1}
    assert np.bincount(found[:, 1], minlength=4) / 3000 == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.03)
    # One place is left for three neurons.
    assert front_odds(values, 2) == pytest.approx([1 / 3, 1, 1 / 3, 1 / 3])
    # The sure one, and the same one of three by chance: (1 + 3 / 9) / 2.
    assert shared_front(values, values, 2) == pytest.approx((1 + 1 / 3) / 2)
    assert fronts(values, 2, seed=1).tolist() == fronts(values, 2, seed=1).tolist()


def test_random_rankings_have_the_spread_that_is_said() -> None:
    """With ties, too: the variance of a correlation over all orders does not depend on the values."""
    generator = np.random.default_rng(0)
    for zeros in (0, 25):
        values = [
            known(spearman(*(generator.permutation(silent(generator, 40, zeros)) for _ in range(2))).value)
            for _ in range(3000)
        ]
        chance = random_spearman(40)
        assert np.mean(values) == pytest.approx(chance.mean, abs=0.015)
        assert np.quantile(values, [0.025, 0.975]) == pytest.approx([chance.low, chance.high], abs=0.03)
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
    without = [known(average_pair_similarity(np.delete(found, i, 0), substitution).value) for i in range(5)]
    error = math.sqrt(4 / 5 * sum((value - float(np.mean(without))) ** 2 for value in without))
    assert known(mean.high) - known(mean.value) == pytest.approx(error * stats.t.ppf(0.975, 4), abs=1e-12)
    assert average_pair_similarity(found[:1]).value is None
    assert average_pair_similarity(found[:2]).low is None


def test_the_interval_of_the_average_pair_similarity_covers_its_expectation() -> None:
    """Random sequences, again and again: the true mean is inside about 95 % of the time."""
    expected = random_similarity(30, 6, 2, seed=5, draws=20_000).mean
    inside = 0
    for seed in range(300):
        mean = average_pair_similarity(sequences(8, 6, 30, seed))
        inside += known(mean.low) <= expected <= known(mean.high)
    assert 0.9 <= inside / 300 <= 0.99


def test_over_draws_of_ties_the_average_is_that_of_each() -> None:
    drawn = np.stack([sequences(4, 5, 9, seed) for seed in range(3)])
    each = [known(average_pair_similarity(one).value) for one in drawn]
    assert average_pair_similarity(drawn).value == pytest.approx(np.mean(each), abs=1e-12)
    assert total_jaccard(drawn) == pytest.approx(np.mean([total_jaccard(one) for one in drawn]), abs=1e-12)


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
    # Image 1: neuron 1 gets 2 votes, neuron 2 one. Image 2: neurons 0 and 2 are tied and share 2 + 1.
    assert weighted_votes(values, 2).tolist() == [1.5, 2, 1 + 1.5, 0]
    # Borda: (1, 2, 0, 3) get 4..1, then (0 and 2, 1, 3) get 3.5, 3.5, 2, 1.
    assert weighted_votes(values, 4).tolist() == [2 + 3.5, 4 + 2, 3 + 3.5, 1 + 1]
    # One vote for three that are alike: a third each.
    assert weighted_votes(np.array([[0.0, 0.0, -1.0, 0.0]]), 1).tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])


def test_a_share_is_rounded_down_and_at_least_one() -> None:
    assert [share_of(n, 0.1) for n in (1, 9, 10, 19, 64, 512)] == [1, 1, 1, 1, 6, 51]
    assert share_of(100, 0.29) == 29
    assert share_of(7, 1.0) == 7
