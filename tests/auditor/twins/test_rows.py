"""Some of the pairs, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.twins.rows import picked, spread
from tests.auditor.analyses.given import Given


@pytest.mark.parametrize(("total", "count"), [(10, 3), (10, 10), (10, 99), (7, 1), (1, 1)])
def test_places_are_spread_evenly(total: int, count: int) -> None:
    places = np.flatnonzero(spread(total, count))
    assert len(places) == min(total, count)
    gaps = np.diff(places)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_the_same_rows_whatever_the_batches(batch_size: int) -> None:
    x = torch.rand(8, 1, 2, 2)
    pairs = Given(x, x + 1, batch_size, fooled=np.arange(8) % 2 == 0, labels=torch.arange(8))
    chosen = np.array([0, 1, 1, 0, 0, 0, 1, 1], bool)
    parts = list(picked(pairs, chosen))
    assert np.concatenate([part.sample for part in parts]).tolist() == [1, 2, 6, 7]
    assert torch.cat([part.labels for part in parts]).tolist() == [1, 2, 6, 7]
    assert torch.equal(torch.cat([part.x for part in parts]), x[[1, 2, 6, 7]])
    assert torch.equal(torch.cat([part.x_adv for part in parts]), x[[1, 2, 6, 7]] + 1)
    assert np.concatenate([part.fooled for part in parts]).tolist() == [False, True, True, False]
