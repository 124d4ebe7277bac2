"""Rankings of neurons: how alike two or more of them are (Zhang et al. 2020, arXiv 1909.06978), and what chance would give.

A ranking is an order: indices of neurons, the first one foremost. Where a measure only looks at the front of a ranking, it
takes the sequence of its first k neurons.

Neurons with equal values, mostly those that never move, have no order. Ranked by index, they would stand in the same order in
every ranking and count as agreement. So what compares rankings breaks ties at random, in each ranking by itself, and averages.
Only lists that are shown go by the lower index.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray
from pydantic import Field

from auditor.kit.randomness import derive_seed
from auditor.kit.statistics.estimate import CONFIDENCE, Estimate, Z

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

DRAWS = 1000
"""Random rankings behind a simulated expectation."""

TIE_DRAWS = 100
"""How often ties in the front of a ranking are broken at random; measures are averaged over the draws."""


Substitution = Annotated[
    int,
    Field(
        ge=1,
        le=2,
        description="Cost of a substitution. 1: eq. 7 to the letter, similarity at least 0.5. 2: similarity from 0 to 1.",
    ),
]
"""The parameter of the analyses that compare sequences by their Levenshtein distance."""


class Chance(NamedTuple):
    """What random rankings give: the mean, and the range of the middle 95 % of them."""

    mean: float
    low: float
    high: float


def share_of(neurons: int, share: float) -> int:
    """How many neurons a share of a layer is: rounded down, at least one. 0.29 of 100 are 29, whatever binary makes of 0.29."""
    return max(1, math.floor(Fraction(repr(float(share))) * neurons))


def descending(values: Floats) -> Ints:
    """Indices from the largest value to the smallest; NaN last."""
    return np.argsort(-np.asarray(values), axis=-1, kind="stable")


def fronts(values: Floats, count: int, seed: int, draws: int = TIE_DRAWS) -> Ints:
    """The first ``count`` neurons in descending order, (draws, count), ties broken at random in each draw.

    Without a tie that touches the front all draws are the same one: (1, count). Rankings that are compared need seeds of
    their own.
    """
    values = np.asarray(values, np.float64)
    order = descending(values)
    near = values[order[: count + 1]]
    if len(np.unique(near)) == len(near):
        return order[None, :count]
    keys = np.random.default_rng(seed).random((draws, len(values)))
    return np.lexsort((keys, np.broadcast_to(-values, keys.shape)))[:, :count]


def front_odds(values: Floats, count: int) -> Floats:
    """For each neuron the chance, (M,), to be among the first ``count`` when ties are broken at random: 1 or 0 without ties."""
    values = np.asarray(values, np.float64)
    last = values[descending(values)[count - 1]]
    above, tied = values > last, values == last
    return above + tied * (count - above.sum()) / tied.sum()


def shared_front(a: Floats, b: Floats, count: int) -> float:
    """Share of the first ``count`` neurons that two rankings have in common; expected, where ties are broken at random."""
    return float(front_odds(a, count) @ front_odds(b, count)) / count


def random_spearman(neurons: int) -> Chance:
    """Spearman's rank correlation of two random rankings: mean 0, variance 1 / (n - 1); NaN for fewer than two neurons."""
    if neurons < 2:
        return Chance(math.nan, math.nan, math.nan)
    reach = min(1.0, Z / math.sqrt(neurons - 1))
    return Chance(0.0, -reach, reach)


def levenshtein(a: Ints, b: Ints, substitution: int = 1) -> Ints:
    """The least cost of turning ``a`` into ``b`` (eq. 7), where inserting and deleting cost 1.

    ``a``: (..., n), ``b``: (..., m); answers have the leading dimensions, broadcast together.
    """
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    places = np.arange(b.shape[-1] + 1)
    row = np.broadcast_to(places, (*np.broadcast_shapes(a.shape[:-1], b.shape[:-1]), len(places)))
    for i in range(a.shape[-1]):
        replaced = row[..., :-1] + substitution * (a[..., i : i + 1] != b)
        without_insertions = np.concatenate([row[..., :1] + 1, np.minimum(replaced, row[..., 1:] + 1)], axis=-1)
        # Inserting up to place j from any place before it costs one each: a running minimum of (cost - place), plus place.
        row = np.minimum.accumulate(without_insertions - places, axis=-1) + places
    return np.asarray(row[..., -1])


def levenshtein_similarity(a: Ints, b: Ints, substitution: int = 2) -> Floats:
    """1 - distance / (|a| + |b|) (eq. 8); shapes as in ``levenshtein``.

    With substitution at 1, eq. 7 to the letter, two sequences of equal length are never less similar than 0.5. At 2, a deletion
    and an insertion, the similarity is 2 LCS / (|a| + |b|) and spans [0, 1]: only this one fits the numbers of the paper.
    """
    return 1 - levenshtein(a, b, substitution) / (np.shape(a)[-1] + np.shape(b)[-1])


def random_similarity(neurons: int, count: int, substitution: int, seed: int, draws: int = DRAWS) -> Chance:
    """Levenshtein similarity of the first ``count`` neurons of two random rankings, simulated.

    The mean is also that of the average pair similarity of any number of random rankings.
    """
    generator = np.random.default_rng(seed)
    random = np.stack([generator.choice(neurons, count, replace=False) for _ in range(draws)])
    # Only which neurons are equal counts, so one of the two sequences may be fixed.
    similarity = levenshtein_similarity(np.broadcast_to(np.arange(count), random.shape), random, substitution)
    low, high = np.quantile(similarity, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Chance(float(similarity.mean()), float(low), float(high))


def average_pair_similarity(sequences: Ints, substitution: int = 2) -> Estimate:
    """Mean Levenshtein similarity of all pairs of Y sequences, (Y, k) (eq. 9); the interval is the jackknife's over sequences.

    Pairs share sequences, so they cannot count as independent: the jackknife leaves out one sequence at a time. Several draws of
    the sequences, (D, Y, k), are averaged pair by pair.
    """
    count = sequences.shape[-2]
    if count < 2:
        return Estimate.unknown(count)
    first, second = np.triu_indices(count, 1)
    similarity = np.zeros((count, count))
    each = levenshtein_similarity(sequences[..., first, :], sequences[..., second, :], substitution)
    similarity[first, second] = each.reshape(-1, len(first)).mean(0)
    similarity += similarity.T
    value = float(similarity.sum() / (count * (count - 1)))
    if count < 3:
        return Estimate(value=value, low=None, high=None, n=count)
    without = (similarity.sum() - 2 * similarity.sum(0)) / ((count - 1) * (count - 2))
    return Estimate.of_jackknife(value, without).within(0, 1)


def total_jaccard(sequences: Ints) -> float:
    """Neurons that are in all of Y sequences, (Y, k), over neurons that are in any (eq. 10); mean over draws, (D, Y, k)."""
    if sequences.ndim > 2:
        return float(np.mean([total_jaccard(draw) for draw in sequences]))
    sets = [set(sequence.tolist()) for sequence in sequences]
    return len(set.intersection(*sets)) / len(set.union(*sets))


def jaccard_of_fronts(a: Floats, b: Floats, count: int, seed: int) -> float:
    """Neurons that are among the first ``count`` of two rankings, over those that are in either; mean over draws of the ties."""
    drawn = [fronts(values, count, derive_seed(seed, which)) for which, values in enumerate((a, b))]
    return total_jaccard(np.stack(np.broadcast_arrays(*drawn), axis=1))


def random_jaccard(neurons: int, count: int, sequences: int) -> float:
    """The total Jaccard index that random sequences would have: expected size of the intersection over that of the union.

    The index falls with the number of sequences, whatever they are, so it says nothing without this.
    """
    share = count / neurons
    return share**sequences / (1 - (1 - share) ** sequences)


def weighted_votes(values: Floats, count: int) -> Floats:
    """Votes for each neuron (eq. 5): on each image the ``count`` largest values get count, count - 1, ..., 1; ties share theirs.

    ``values``: (B, M); answers (M,). With ``count`` = M it is the Borda count.
    """
    # Votes of the first so many places in all: equal values stand at the places from ``least`` to ``most``.
    upto = np.concatenate([[0], np.cumsum(np.maximum(count - np.arange(values.shape[1]), 0))])
    least, most = (scipy.stats.rankdata(-values, method=method, axis=1).astype(np.int64) for method in ("min", "max"))
    return np.asarray(((upto[most] - upto[least - 1]) / (most - least + 1)).sum(0))
