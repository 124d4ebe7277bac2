"""Mean: the mean of one number per sample, with its interval."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from auditor.metrics import CONFIDENCE


class Mean(NamedTuple):
    """Mean over ``n`` samples, with Student's t interval at 95 %; what cannot be known from so few samples is None."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Mean:
        """``values``: one number per sample, (N,); samples where it is undefined (NaN) do not count."""
        values = np.asarray(values, np.float64)
        values = values[~np.isnan(values)]
        n = len(values)
        if n < 2:
            return cls(float(values[0]) if n else None, None, None, n)
        mean = float(values.mean())
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
        return cls(mean, mean - half, mean + half, n)

    def as_data(self) -> dict[str, Any]:
        """In JSON form."""
        return self._asdict()
