"""Some of the pairs, whatever the batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from auditor.neural.twins.rows import Picked, drawn_samples, evenly_spaced
from tests.auditor.neural.analyses.given import Given, subject_of
from tests.nets import SHAPE, small_classifier


@pytest.mark.parametrize(("total", "count"), [(10, 3), (10, 10), (10, 99), (7, 1), (1, 1)])
def test_places_are_spread_evenly(total: int, count: int) -> None:
    places = np.flatnonzero(evenly_spaced(total, count))
    assert len(places) == min(total, count)
    gaps = np.diff(places)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


def test_samples_are_drawn_by_the_seed_and_the_purpose() -> None:
    subject = subject_of(small_classifier(), Given(torch.rand(30, *SHAPE), torch.rand(30, *SHAPE), 7))
    some = drawn_samples(subject, 12, "one").tolist()
    assert len(set(some)) == 12
    assert some == sorted(some)
    assert set(some) <= set(subject.ids.tolist())
    assert drawn_samples(subject, 12, "one").tolist() == some
    assert drawn_samples(subject, 12, "other").tolist() != some
    assert drawn_samples(replace(subject, seed=1), 12, "one").tolist() != some
    assert set(drawn_samples(subject, 5, "one").tolist()) < set(some), "fewer are some of the same"
    assert drawn_samples(subject, 99, "one").tolist() == subject.ids.tolist()


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_the_same_rows_whatever_the_batches(batch_size: int) -> None:
    x = torch.rand(8, 1, 2, 2)
    pairs = Given(x, x + 1, batch_size, fooled=np.arange(8) % 2 == 0, labels=torch.arange(8))
    chosen = np.array([0, 1, 1, 0, 0, 0, 1, 1], bool)
    some = Picked(pairs, chosen)
    assert len(some) == 4
    parts = list(some)
    assert len(list(some)) == len(parts), "read as often as needed"
    assert np.concatenate([part.sample for part in parts]).tolist() == [1, 2, 6, 7]
    assert torch.cat([part.labels for part in parts]).tolist() == [1, 2, 6, 7]
    assert torch.equal(torch.cat([part.x for part in parts]), x[[1, 2, 6, 7]])
    assert torch.equal(torch.cat([part.x_adv for part in parts]), x[[1, 2, 6, 7]] + 1)
    assert np.concatenate([part.fooled for part in parts]).tolist() == [False, True, True, False]
