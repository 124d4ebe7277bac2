"""Rates and paired differences by condition."""

from __future__ import annotations

import numpy as np
import torch

from auditor.kit.statistics.estimate import Rate
from auditor.kit.statistics.paired import paired_difference
from auditor.kit.statistics.tally import Tally


def test_outcomes_are_joined_in_order_and_compared_image_by_image() -> None:
    tally = Tally()
    for part in ([True, False], [False, True]):
        tally.add("a", torch.tensor(part))
        tally.add(("b", 1), torch.tensor([True, True]))
    assert tally["a"].tolist() == [True, False, False, True]
    assert "a" in tally
    assert "c" not in tally
    assert tally.rate("a") == Rate.count(2, 4)
    assert tally.rate("a", np.array([True, True, False, False])) == Rate.count(1, 2)
    found = tally.difference(("b", 1), "a")
    assert found.value == 0.5  # b is right on all four, a on two
    assert found == paired_difference(tally["a"], tally[("b", 1)])
