"""Paired differences: two answers, or two numbers, of the same samples."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from auditor.kit.errors import MismatchError
from auditor.kit.statistics.estimate import Estimate


class Difference(Estimate):
    """Mean of b minus mean of a on the same samples, its interval, and ``p``, that of the two-sided test that they are equal."""

    p: float


class PairedDifference(Estimate):
    """Rate of b minus rate of a on the same samples: the interval of Agresti and Min 2005, the exact McNemar test.

    ``only_a``, ``only_b``: samples where just one of them is true.
    """

    value: float
    low: float
    high: float
    only_a: int
    only_b: int
    p: float


def paired_difference(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> PairedDifference:
    """Compare two yes/no outcomes, sample by sample. Raises MismatchError when there is nothing to compare."""
    _expect_pairs(a, b)
    only_a, only_b = int(np.count_nonzero(a & ~b)), int(np.count_nonzero(b & ~a))
    p = scipy.stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    found = Estimate.of_differences(b.astype(np.float64) - a)
    return PairedDifference(**found.model_dump(), only_a=only_a, only_b=only_b, p=float(p))


def paired_means(a: NDArray[np.float64], b: NDArray[np.float64]) -> Difference:
    """Compare two numbers of each sample, by the paired t test; one pair has no interval, and p = 1. Raises MismatchError when
    there is nothing to compare."""
    _expect_pairs(a, b)
    change = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    if len(change) == 1:
        p = 1.0
    elif not change.std():
        p = 1.0 if change[0] == 0 else 0.0
    else:
        p = float(scipy.stats.ttest_rel(b, a).pvalue)
    return Difference(**Estimate.of_mean(change).model_dump(), p=p)


def in_points(difference: Estimate | None) -> str:
    """A difference of rates, ``+12.0 [3.1, 20.4]``, in percentage points; a dash if there is none."""
    if difference is None or difference.value is None:
        return "–"
    value = f"{100 * difference.value:+.1f}"
    if difference.low is None or difference.high is None:
        return value
    return f"{value} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def _expect_pairs(a: NDArray[np.generic], b: NDArray[np.generic]) -> None:
    if len(a) != len(b) or len(a) == 0:
        raise MismatchError(f"A paired comparison needs the same samples twice, got {len(a)} and {len(b)}.")
