"""How far one number goes with another: rank correlations, also with a third held fixed, and how well a score tells two apart."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from auditor.kit.statistics.estimate import Estimate, Z


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
        return Estimate.unknown(len(x))
    left = (1 - xz**2) * (1 - yz**2)
    if left < 1e-12:  # one of them is the held number, in another scale
        return Estimate.unknown(len(x))
    return _fisher((xy - xz * yz) / math.sqrt(left), len(x), held=1)


def discrimination(scores: list[NDArray[np.float64]], positive: NDArray[np.bool_]) -> Discrimination:
    """How well each score tells the positive samples (higher scores) from the others; ties count half.

    Variances and covariances of DeLong et al. 1988, so the differences are paired; None with fewer than two of either.
    """
    n, ones, zeros = len(positive), int(positive.sum()), int((~positive).sum())
    if ones < 2 or zeros < 2:
        undefined = tuple(Estimate.unknown(n) for _ in scores)
        return Discrimination(undefined, undefined)
    above, below = np.empty((len(scores), ones)), np.empty((len(scores), zeros))
    for row, score in enumerate(scores):
        rank = scipy.stats.rankdata(score)
        # Placement: share of the other samples that each one beats.
        above[row] = (rank[positive] - scipy.stats.rankdata(score[positive])) / zeros
        below[row] = 1 - (rank[~positive] - scipy.stats.rankdata(score[~positive])) / ones
    area = above.mean(1)
    covariance = np.atleast_2d(np.cov(above)) / ones + np.atleast_2d(np.cov(below)) / zeros
    areas = tuple(
        Estimate.of_normal(float(value), float(variance), n, least=0, most=1)
        for value, variance in zip(area, np.diag(covariance), strict=True)
    )
    variances = covariance[0, 0] + np.diag(covariance) - 2 * covariance[0]
    differences = tuple(
        Estimate.of_normal(float(area[0] - value), float(variance), n, least=-1, most=1)
        for value, variance in zip(area, variances, strict=True)
    )
    return Discrimination(areas, differences)


def _ranks(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(scipy.stats.rankdata(np.asarray(values, np.float64)))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Pearson's; None where one of them does not vary."""
    if not len(a):
        return None
    a, b = a - a.mean(), b - b.mean()
    length = math.sqrt(float(a @ a) * float(b @ b))
    return float(np.clip(a @ b / length, -1, 1)) if length > 0 else None


def _fisher(value: float | None, n: int, *, held: int) -> Estimate:
    if value is None or n - held < 4:
        return Estimate(value=value, low=None, high=None, n=n)
    if abs(value) == 1:
        return Estimate(value=value, low=value, high=value, n=n)
    half = Z * math.sqrt((1 + value**2 / 2) / (n - 3 - held))
    centre = math.atanh(value)
    return Estimate(value=value, low=math.tanh(centre - half), high=math.tanh(centre + half), n=n)
