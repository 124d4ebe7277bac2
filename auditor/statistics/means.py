"""Means with their intervals: of numbers, one per independent sample."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats

from auditor.metrics import CONFIDENCE


class Mean(BaseModel):
    """The mean of ``n`` numbers and its interval at 95 %; None where there are too few numbers for it."""

    model_config = ConfigDict(frozen=True)

    value: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Mean:
        """With Student's interval; NaN counts as missing."""
        seen = values[~np.isnan(values)]
        n = len(seen)
        if n == 0:
            return cls(value=None, low=None, high=None, n=0)
        value = float(seen.mean())
        if n == 1:
            return cls(value=value, low=None, high=None, n=1)
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * float(seen.std(ddof=1)) / math.sqrt(n)
        return cls(value=value, low=value - reach, high=value + reach, n=n)

    @classmethod
    def of_shares(cls, values: NDArray[np.float64]) -> Mean:
        """Of numbers in [0, 1], with Wilson's interval: for yes and no it is that of a rate, for averages of several tries it
        is on the safe side, since no distribution on [0, 1] with this mean varies more than yes and no do. NaN: missing."""
        values = values[~np.isnan(values)]
        n = len(values)
        if n == 0:
            return cls(value=None, low=None, high=None, n=0)
        share, z = float(values.mean()), float(stats.norm.ppf((1 + CONFIDENCE) / 2))
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return cls(value=share, low=max(0.0, centre - reach), high=min(1.0, centre + reach), n=n)

    @classmethod
    def of_differences(cls, values: NDArray[np.float64]) -> Mean:
        """Of numbers in [-1, 1] such as differences of two yes/no answers on the same samples, with the interval of Agresti and
        Min 2005: as if two more samples had been seen, half of one at each of 1 and -1, so that it is never empty."""
        n = len(values)
        if n == 0:
            return cls(value=None, low=None, high=None, n=0)
        total, z = n + 2, float(stats.norm.ppf((1 + CONFIDENCE) / 2))
        centre = float(values.sum()) / total
        reach = z * math.sqrt((float((values**2).sum()) + 1) / total - centre**2) / math.sqrt(total)
        return cls(value=float(values.mean()), low=max(-1.0, centre - reach), high=min(1.0, centre + reach), n=n)

    def __str__(self) -> str:
        if self.value is None:
            return "– (n = 0)"
        if self.low is None or self.high is None:
            return f"{self.value:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"
