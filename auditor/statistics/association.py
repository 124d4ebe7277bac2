"""How far one number goes with another: rank correlations, also with a third held fixed, and how well a score tells two apart."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from auditor.metrics import CONFIDENCE

RESAMPLES = 2000
Z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))


class Estimate(NamedTuple):
    """A number with its interval at 95 %, from ``n`` samples; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.value is None:
            return f"– (n = {self.n})"
        bounds = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f}{bounds}"


class Discrimination(NamedTuple):
    """Area under the ROC curve of each score, and of the first minus each score (the first of these is 0), all Estimates."""

    areas: tuple[Estimate, ...]
    first_minus: tuple[Estimate, ...]


def spearman(a: ArrayLike, b: ArrayLike) -> Estimate:
    """Spearman's rank correlation, ties at their mean rank; Fisher's interval with the variance of Bonett and Wright 2000."""
    return _fisher(_correlation(_ranks(a), _ranks(b)), len(_ranks(a)), held=0)


def partial_spearman(a: ArrayLike, b: ArrayLike, held: ArrayLike) -> Estimate:
    """Rank correlation of a and b among samples with the same ``held``: the partial correlation of the ranks."""
    x, y, z = (_ranks(item) for item in (a, b, held))
    xy, xz, yz = _correlation(x, y), _correlation(x, z), _correlation(y, z)
    if xy is None or xz is None or yz is None:
        return Estimate(None, None, None, len(x))
    left = (1 - xz**2) * (1 - yz**2)
    if left < 1e-12:  # one of them is the held number, in another scale
        return Estimate(None, None, None, len(x))
    return _fisher((xy - xz * yz) / math.sqrt(left), len(x), held=1)


def discrimination(scores: list[NDArray[np.float64]], positive: NDArray[np.bool_]) -> Discrimination:
    """How well each score tells the positive samples (higher scores) from the others; ties count half.

    Variances and covariances of DeLong et al. 1988, so that the differences are paired; None with fewer than two of either.
    """
    n, ones, zeros = len(positive), int(positive.sum()), int((~positive).sum())
    if ones < 2 or zeros < 2:
        undefined = tuple(Estimate(None, None, None, n) for _ in scores)
        return Discrimination(undefined, undefined)
    above, below = np.empty((len(scores), ones)), np.empty((len(scores), zeros))
    for row, score in enumerate(scores):
        rank = stats.rankdata(score)
        # Placement: share of the other samples that each one beats.
        above[row] = (rank[positive] - stats.rankdata(score[positive])) / zeros
        below[row] = 1 - (rank[~positive] - stats.rankdata(score[~positive])) / ones
    area = above.mean(1)
    covariance = np.atleast_2d(np.cov(above)) / ones + np.atleast_2d(np.cov(below)) / zeros
    areas = tuple(
        _normal(float(value), float(variance), n, 0.0)
        for value, variance in zip(area, np.diag(covariance), strict=True)
    )
    variances = covariance[0, 0] + np.diag(covariance) - 2 * covariance[0]
    differences = tuple(
        _normal(float(area[0] - value), float(variance), n, -1.0)
        for value, variance in zip(area, variances, strict=True)
    )
    return Discrimination(areas, differences)


def mean_estimate(values: NDArray[np.float64]) -> Estimate:
    """Mean with the interval of Student's t."""
    n = len(values)
    if n == 0:
        return Estimate(None, None, None, 0)
    mean = float(values.mean())
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def bootstrap_mean(values: NDArray[np.float64], seed: int) -> Estimate:
    """Mean with the percentile interval of the bootstrap: for numbers with a long tail, whose mean is not nearly normal."""
    n = len(values)
    if n < 2:
        return mean_estimate(values)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    low, high = np.quantile(weights @ values / n, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(values.mean()), float(low), float(high), n)


def _ranks(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(stats.rankdata(np.asarray(values, np.float64)))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Pearson's; None where one of them does not vary."""
    if not len(a):
        return None
    a, b = a - a.mean(), b - b.mean()
    length = math.sqrt(float(a @ a) * float(b @ b))
    return float(np.clip(a @ b / length, -1, 1)) if length > 0 else None


def _fisher(value: float | None, n: int, *, held: int) -> Estimate:
    if value is None or n - held < 4:
        return Estimate(value, None, None, n)
    if abs(value) == 1:
        return Estimate(value, value, value, n)
    half = Z * math.sqrt((1 + value**2 / 2) / (n - 3 - held))
    centre = math.atanh(value)
    return Estimate(value, math.tanh(centre - half), math.tanh(centre + half), n)


def _normal(value: float, variance: float, n: int, least: float) -> Estimate:
    half = Z * math.sqrt(max(variance, 0.0))
    return Estimate(value, max(least, value - half), min(1.0, value + half), n)
