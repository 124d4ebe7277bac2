"""The mean with its interval, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from auditor.mean import Mean


def test_the_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).normal(3, 2, 17)
    mean = Mean.of(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean.value == pytest.approx(values.mean(), rel=1e-12)
    assert (mean.low, mean.high) == (pytest.approx(low, rel=1e-9), pytest.approx(high, rel=1e-9))
    assert mean.n == 17


def test_undefined_samples_do_not_count_and_few_have_no_interval() -> None:
    assert Mean.of(np.array([1.0, np.nan, 3.0])).value == 2
    assert Mean.of(np.array([1.0, np.nan, 3.0])).n == 2
    assert Mean.of(np.array([5.0])) == (5.0, None, None, 1)
    assert Mean.of(np.array([])) == (None, None, None, 0)
