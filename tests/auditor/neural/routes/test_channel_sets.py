"""Sets of channels: all of them, a fair sample, and ranks with ties by hand."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from auditor.kit.statistics.estimate import Rate
from auditor.neural.routes.channel_sets import ChannelSets, sets_of, standing


def test_all_sets_where_they_are_few() -> None:
    found = sets_of([2, 1], [4, 3], 18, seed=0)
    assert found.whole
    assert found.possible == 18
    assert set(found.sets) == {(pair, (one,)) for pair in combinations(range(4), 2) for one in range(3)}
    assert sets_of([4], [16], 1820, seed=0).whole
    assert not sets_of([4], [16], 1819, seed=0).whole


def test_a_sample_repeats_nothing_and_favours_nothing() -> None:
    seen: Counter[object] = Counter()
    for seed in range(400):
        found = sets_of([2], [5], 4, seed)
        assert len(set(found.sets)) == 4
        assert not found.whole
        assert found.possible == 10
        seen.update(found.sets)
    assert len(seen) == 10
    assert all(abs(times - 160) < 50 for times in seen.values()), "five standard deviations"
    assert sets_of([19, 19], [64, 64], 3, 7).sets == sets_of([19, 19], [64, 64], 3, 7).sets


def test_ranks_with_ties_by_hand() -> None:
    sets: tuple[tuple[tuple[int, ...], ...], ...] = tuple(((channel,),) for channel in range(6))
    hits = dict(zip(sets, (5, 9, 5, 5, 0, 1), strict=True))
    found = standing(sets[0], ChannelSets(sets, 6), hits)
    assert (found.hits, found.first, found.last, found.others) == (5, 2, 4, 5)
    assert found.p == 4 / 6
    assert found.as_many == Rate.count(3, 5)
    # One that is not in the sample stands beside all of it.
    other = standing(((9,),), ChannelSets(sets, 100), hits | {((9,),): 10})
    assert (other.first, other.last, other.others, other.p) == (1, 1, 6, 1 / 7)
