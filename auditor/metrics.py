"""Numbers with their intervals: rates (Wilson), and paired differences of two rates on the same samples."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats

from auditor.errors import MismatchError
from auditor.report.blocks import Measure

CONFIDENCE = 0.95


class Rate(BaseModel):
    """``hits`` of ``n``, with the Wilson score interval at 95 % (Wilson 1927); all None when n is 0."""

    model_config = ConfigDict(frozen=True)

    hits: int
    n: int
    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, hits: NDArray[np.bool_]) -> Rate:
        """The share of true entries."""
        return cls.count(int(np.count_nonzero(hits)), int(np.size(hits)))

    @classmethod
    def count(cls, hits: int, n: int) -> Rate:
        if n == 0:
            return cls(hits=0, n=0, value=None, low=None, high=None)
        interval = stats.binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
        return cls(hits=hits, n=n, value=hits / n, low=max(0.0, interval.low), high=min(1.0, interval.high))

    @classmethod
    def mean(cls, shares: NDArray[np.float64]) -> Rate:
        """The mean of shares in [0, 1], one per sample (each over several draws); ``hits`` is their sum, rounded.

        The interval is Wilson's for that mean. It is about the samples, and on the safe side: values between 0 and 1 vary no
        more than hits and misses of the same mean.
        """
        n = len(shares)
        if n == 0:
            return cls.count(0, 0)
        value, z = float(np.mean(shares)), float(stats.norm.ppf((1 + CONFIDENCE) / 2))
        centre = (value + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
        return cls(hits=round(value * n), n=n, value=value, low=max(0.0, centre - half), high=min(1.0, centre + half))

    def measure(self, title: str, *, higher_is_better: bool | None = None, explanation: str = "") -> Measure:
        return Measure(
            title=title, value=self.value, low=self.low, high=self.high, n=self.n, unit="%",
            higher_is_better=higher_is_better, explanation=explanation,
        )  # fmt: skip

    def measured(self) -> Rate:
        """The rate as it was measured, whether or not it may be quoted."""
        return self

    def withheld_for(self, why: str) -> Rate:
        """The same, withheld for a severe doubt; itself where ``why`` is empty."""
        return WithheldRate(hits=0, n=0, value=None, low=None, high=None, why=why, rate=self) if why else self

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return "– (n = 0)"
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


class WithheldRate(Rate):
    """A rate that a severe doubt withholds: its own numbers are those of no samples, so that nobody computes with them.

    ``why``: the doubts, in words. ``rate``: what was measured, and is not established.
    """

    why: str
    rate: Rate

    def measured(self) -> Rate:
        return self.rate

    def measure(self, title: str, *, higher_is_better: bool | None = None, explanation: str = "") -> Measure:
        made = super().measure(f"{title}: not established", higher_is_better=higher_is_better, explanation=explanation)
        return made.model_copy(update={"explanation": f"{self.why} {explanation}".strip()})

    def __str__(self) -> str:
        return f"not established (measured: {self.rate})"


class PairedDifference(NamedTuple):
    """Rate of b minus rate of a on the same samples.

    ``low``, ``high``: the interval of Agresti and Min 2005 (Wald with half a count added to each cell), at 95 %.
    ``only_a``, ``only_b``: samples where just one of them is true. ``p``: exact two-sided McNemar test.
    """

    value: float
    low: float
    high: float
    n: int
    only_a: int
    only_b: int
    p: float


def paired_difference(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> PairedDifference:
    """Compare two yes/no outcomes, sample by sample. Raises MismatchError when there is nothing to compare."""
    if len(a) != len(b) or len(a) == 0:
        raise MismatchError(f"A paired comparison needs the same samples twice, got {len(a)} and {len(b)}.")
    n = len(a)
    only_a, only_b = int(np.count_nonzero(a & ~b)), int(np.count_nonzero(b & ~a))
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    x, y, total = only_a + 0.5, only_b + 0.5, n + 2
    centre = (y - x) / total
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * math.sqrt(x + y - (y - x) ** 2 / total) / total
    return PairedDifference(
        (only_b - only_a) / n, max(-1.0, centre - half), min(1.0, centre + half), n, only_a, only_b, float(p)
    )


class MeanDifference(NamedTuple):
    """Mean of b minus mean of a on the same samples, with the interval and the p of the paired t test, at 95 %."""

    value: float
    low: float
    high: float
    p: float


def paired_means(a: NDArray[np.float64], b: NDArray[np.float64]) -> MeanDifference:
    """Compare two numbers of each sample. Raises MismatchError when there is nothing to compare."""
    if len(a) != len(b) or len(a) == 0:
        raise MismatchError(f"A paired comparison needs the same samples twice, got {len(a)} and {len(b)}.")
    change = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    value = float(change.mean())
    if len(change) == 1 or not change.std():
        return MeanDifference(value, value, value, 1.0 if value == 0 else 0.0)
    test = stats.ttest_rel(b, a)
    interval = test.confidence_interval(CONFIDENCE)
    return MeanDifference(value, float(interval.low), float(interval.high), float(test.pvalue))
