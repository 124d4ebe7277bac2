"""Fewer pairs, evenly spaced."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.neural.twins.thinned import Thinned
from tests.auditor.neural.analyses.given import Given


def given(n: int, batch_size: int) -> Given:
    x = torch.arange(n).float().view(n, 1, 1, 1)
    return Given(x, x + 0.5, batch_size, fooled=np.arange(n) % 2 == 0, labels=torch.arange(n) * 10)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize(
    ("n", "count", "expected"),
    [(10, 4, [0, 3, 6, 9]), (10, 1, [0]), (3, 9, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (11, 3, [0, 5, 10])],
)
def test_which_pairs_are_left(n: int, count: int, expected: list[int], batch_size: int) -> None:
    pairs = Thinned(given(n, batch_size), count)
    assert len(pairs) == len(expected)
    assert pairs.positions.tolist() == expected
    for _ in range(2):  # it can be read again
        parts = list(pairs)
        assert np.concatenate([part.sample for part in parts]).tolist() == expected
        assert torch.cat([part.x for part in parts]).flatten().tolist() == expected
        assert torch.cat([part.x_adv for part in parts]).flatten().tolist() == [each + 0.5 for each in expected]
        assert torch.cat([part.labels for part in parts]).tolist() == [10 * each for each in expected]
        assert np.concatenate([part.fooled for part in parts]).tolist() == [each % 2 == 0 for each in expected]
