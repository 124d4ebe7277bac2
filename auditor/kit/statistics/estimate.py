"""Estimate: a number with its interval; a Rate is one of hits among samples.

Every interval of the product is made here: Wilson's for shares, Student's for means, Agresti and Min's for differences of paired
answers, order statistics for medians, the bootstrap's for means of long-tailed numbers. All are at 95 %. NaN counts as missing,
``n`` as what is left; of no samples, value and bounds are None.
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from auditor.show.blocks import Measure, Unit

CONFIDENCE = 0.95
Z = float(scipy.special.ndtri((1 + CONFIDENCE) / 2))
"""Half the width of a normal interval, in standard errors."""

RESAMPLES = 2000
"""Samples of the bootstrap."""


class Estimate(BaseModel):
    """A number from ``n`` samples, with its interval at 95 %; None where there are too few samples for it.

    ``unit``: "%" for a share in [0, 1] that readers see as a percentage, else as it is. ``higher_is_better``: the direction,
    where there is one.
    """

    model_config = ConfigDict(frozen=True)

    value: float | None
    low: float | None
    high: float | None
    n: int
    unit: str = Field("", exclude_if=lambda unit: not unit)
    higher_is_better: bool | None = Field(None, exclude_if=lambda direction: direction is None)

    @classmethod
    def unknown(cls, n: int = 0) -> Self:
        """Of ``n`` samples that leave it undefined."""
        return cls(value=None, low=None, high=None, n=n)

    @classmethod
    def of_rate(cls, shares: ArrayLike) -> Self:
        """The mean of numbers in [0, 1], yes and no among them, with the score interval of Wilson 1927.

        For numbers between yes and no (each an average over draws, say) the interval is on the safe side: no distribution on
        [0, 1] with this mean varies more.
        """
        seen = _seen(shares)
        return cls._wilson(float(seen.mean()), len(seen)) if len(seen) else cls.unknown()

    @classmethod
    def _wilson(cls, share: float, n: int) -> Self:
        """In the form and the order of Newcombe 1998, as scipy has it for whole counts."""
        scale = 2 * (n + Z**2)
        centre, reach = (2 * n * share + Z**2) / scale, Z / scale * math.sqrt(4 * n * share * (1 - share) + Z**2)
        low, high = max(0.0, centre - reach), min(1.0, centre + reach)
        return cls(value=share, low=low if share > 0 else 0.0, high=high if share < 1 else 1.0, n=n)

    @classmethod
    def of_mean(cls, values: ArrayLike) -> Self:
        """The mean of numbers, one of each independent sample, with Student's interval; a single number has none."""
        seen = _seen(values)
        n = len(seen)
        if n == 0:
            return cls.unknown()
        value = float(seen.mean())
        if n == 1:
            return cls(value=value, low=None, high=None, n=1)
        return cls(value=value, n=n, **_around(value, float(seen.std(ddof=1)) / math.sqrt(n), n - 1))

    @classmethod
    def of_jackknife(cls, value: float, without: NDArray[np.float64]) -> Self:
        """A number of which ``without`` are its values with one of the samples left out each, (n,): Student's interval around
        it with the jackknife's standard error (Efron and Stein 1981); at least two samples."""
        n = len(without)
        error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
        return cls(value=value, n=n, **_around(value, error, n - 1))

    @classmethod
    def of_differences(cls, values: ArrayLike) -> Self:
        """The mean of numbers in [-1, 1], such as differences of two yes/no answers on the same samples, with the interval of
        Agresti and Min 2005: as if two more samples had been seen, half of one at each of 1 and -1. It is never empty."""
        seen = _seen(values)
        n = len(seen)
        if n == 0:
            return cls.unknown()
        total, summed = n + 2, float(seen.sum())
        reach = Z * math.sqrt(float((seen**2).sum()) + 1 - summed**2 / total) / total
        centre = summed / total
        return cls(value=float(seen.mean()), low=max(-1.0, centre - reach), high=min(1.0, centre + reach), n=n)

    @classmethod
    def of_median(cls, values: ArrayLike) -> Self:
        """The median with its exact interval from order statistics (Conover 1999, section 3.2); too few samples have none."""
        seen = _seen(values)
        if not len(seen):
            return cls.unknown()
        interval = scipy.stats.quantile_test(seen, p=0.5).confidence_interval(CONFIDENCE)
        low, high = (None if math.isnan(bound) else float(bound) for bound in interval)
        return cls(value=float(np.median(seen)), low=low, high=high, n=len(seen))

    @classmethod
    def of_bootstrap(cls, values: ArrayLike, seed: int) -> Self:
        """The mean of numbers with a long tail, whose mean is not nearly normal: with the bootstrap's percentile interval."""
        seen = _seen(values)
        n = len(seen)
        if n < 2:
            return cls.of_mean(seen)
        weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        low, high = np.quantile(weights @ seen / n, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return cls(value=float(seen.mean()), low=float(low), high=float(high), n=n)

    @classmethod
    def of_normal(cls, value: float, variance: float, n: int, *, least: float, most: float) -> Self:
        """A number whose error is nearly normal, its interval cut to what is possible."""
        reach = Z * math.sqrt(max(variance, 0.0))
        return cls(value=value, low=max(least, value - reach), high=min(most, value + reach), n=n)

    def within(self, least: float, most: float) -> Self:
        """The same, its bounds cut to what is possible."""
        if self.low is None or self.high is None:
            return self
        return self.model_copy(update={"low": max(least, self.low), "high": min(most, self.high)})

    def measure(
        self, title: str, *, unit: Unit = "", higher_is_better: bool | None = None, explanation: str = ""
    ) -> Measure:
        """As a number that a page or report shows. ``unit``, ``higher_is_better``: where it does not know its own."""
        direction = self.higher_is_better if higher_is_better is None else higher_is_better
        return Measure(
            title=title, value=self.value, low=self.low, high=self.high, n=self.n, unit=unit or self.unit,
            higher_is_better=direction, explanation=explanation,
        )  # fmt: skip

    def __format__(self, form: str) -> str:
        """``0.12 [0.05, 0.19]`` in any format of a number; a percentage, ``12.0 % [5.0, 19.0]``, where that is the unit."""
        scale, unit, form = (100, " %", form or ".1f") if self.unit == "%" else (1, "", form or ".3g")
        if self.value is None:
            return f"– (n = {self.n})"
        interval = (
            "" if self.low is None or self.high is None else f" [{scale * self.low:{form}}, {scale * self.high:{form}}]"
        )
        return f"{scale * self.value:{form}}{unit}{interval}"

    def __str__(self) -> str:
        return format(self)


class Rate(Estimate):
    """``hits`` of ``n`` samples."""

    hits: int
    unit: str = Field("%", exclude=True)

    @model_serializer(mode="wrap")
    def _in_order(self, serialize: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Counts first, as rates have always been stored."""
        made: dict[str, object] = serialize(self)
        return {key: made[key] for key in ("hits", "n") if key in made} | made

    @classmethod
    def of(cls, hits: NDArray[np.bool_]) -> Rate:
        """The share of true entries."""
        return cls.count(int(np.count_nonzero(hits)), int(np.size(hits)))

    @classmethod
    def count(cls, hits: int, n: int) -> Rate:
        return cls(hits=hits, **dict(Estimate._wilson(hits / n, n) if n else Estimate.unknown()) | {"unit": "%"})

    @classmethod
    def mean(cls, shares: NDArray[np.float64]) -> Rate:
        """The mean of shares in [0, 1], one of each sample (each over several draws); ``hits`` is their sum, rounded."""
        made = Estimate.of_rate(shares)
        return cls(hits=round((made.value or 0.0) * made.n), **dict(made) | {"unit": "%"})

    def measured(self) -> Rate:
        """The rate as it was measured, whether or not it may be quoted."""
        return self

    def withheld_for(self, why: str) -> Rate:
        """The same, withheld for a severe doubt; itself where ``why`` is empty."""
        return WithheldRate(hits=0, n=0, value=None, low=None, high=None, why=why, rate=self) if why else self


class WithheldRate(Rate):
    """A rate that a severe doubt withholds: its own numbers are those of no samples, so nobody computes with them.

    ``why``: the doubts, as text. ``rate``: what was measured, but is not established.
    """

    why: str
    rate: Rate

    def measured(self) -> Rate:
        return self.rate

    def measure(
        self, title: str, *, unit: Unit = "", higher_is_better: bool | None = None, explanation: str = ""
    ) -> Measure:
        made = super().measure(
            f"{title}: not established", unit=unit, higher_is_better=higher_is_better, explanation=explanation
        )
        return made.model_copy(update={"explanation": f"{self.why} {explanation}".strip()})

    def __format__(self, form: str) -> str:
        return f"not established (measured: {self.rate:{form}})"


def _seen(values: ArrayLike) -> NDArray[np.float64]:
    given = np.asarray(values, np.float64).reshape(-1)
    return given[~np.isnan(given)]


def _around(value: float, error: float, freedom: int) -> dict[str, float]:
    reach = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return {"low": value - reach, "high": value + reach}
