"""What routes have in common, against plain counting, enumeration of all sets, and simulation."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from auditor.neural.found import SIDES
from auditor.neural.routes.contrasts import RouteContrast
from auditor.neural.routes.route_tally import (
    RouteTally,
    chance_jaccard,
    chance_occurrence,
    jaccard,
    occurrence,
    route_agreement,
)


def test_jaccard_by_hand() -> None:
    a, b = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).bool(), torch.tensor([[0, 1, 1, 0], [1, 0, 1, 0]]).bool()
    assert jaccard(a, b).tolist() == [1 / 3, 1.0]


@pytest.mark.parametrize(("neurons", "count"), [(5, 2), (6, 3), (4, 4), (7, 1)])
def test_chance_jaccard_is_the_mean_over_all_pairs_of_sets(neurons: int, count: int) -> None:
    sets = [set(item) for item in combinations(range(neurons), count)]
    expected = np.mean([len(a & b) / len(a | b) for a in sets for b in sets])
    assert chance_jaccard(neurons, count) == pytest.approx(expected, rel=1e-12)


def test_occurrence_is_the_mean_of_the_most_frequent_and_bounded() -> None:
    # 10 neurons, 20 %: the two largest, (1 + 0.5) / 2; 30 %: (1 + 0.5 + 0.5) / 3.
    frequency = np.array([0, 0.5, 0, 1, 0, 0.5, 0, 0, 0, 0])
    assert occurrence(frequency, 0.2) == 0.75
    assert occurrence(frequency, 0.3) == pytest.approx(2 / 3)


def test_chance_occurrence_of_one_image_is_one_and_of_many_the_width() -> None:
    generator = np.random.default_rng(0)
    assert chance_occurrence(10, 100_000, 0.2, generator) == pytest.approx(0.2, abs=0.01)
    assert chance_occurrence(10, 20, 0.2, generator) > 0.25


def tally_of(
    clean: torch.Tensor, adversarial: torch.Tensor, labels: np.ndarray, groups: np.ndarray, batch: int
) -> RouteTally:
    tally = RouteTally(clean.shape[1], groups, 3, keep=5)
    for start in range(0, len(clean), batch):
        part = slice(start, start + batch)
        tally.add(clean[part], adversarial[part], labels[part])
    return tally


def random_routes(images: int, neurons: int, count: int, seed: int) -> torch.Tensor:
    order = torch.rand(images, neurons, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return torch.zeros(images, neurons, dtype=torch.bool).scatter_(1, order[:, :count], True)


@pytest.mark.parametrize("batch", [1, 3, 11])
def test_counts_whatever_the_batches(batch: int) -> None:
    clean, adversarial = random_routes(11, 8, 3, 0), random_routes(11, 8, 3, 1)
    labels, groups = np.arange(11) % 2, np.arange(11) % 4
    tally = tally_of(clean, adversarial, labels, groups, batch)
    assert np.allclose(tally.clean_frequency, clean.double().mean(0))
    assert np.allclose(tally.adversarial_frequency, adversarial.double().mean(0))
    sets = [set(row.nonzero().flatten().tolist()) for row in clean]
    twins = [set(row.nonzero().flatten().tolist()) for row in adversarial]
    assert np.allclose(tally.overlaps, [len(a & b) / len(a | b) for a, b in zip(sets, twins, strict=True)])
    assert np.allclose(tally.neighbours, [len(a & b) / len(a | b) for a, b in pairwise(sets)])
    assert tally.kept["clean"] == [tuple(sorted(each)) for each in sets[:5]]
    assert tally.kept["adversarial"] == [tuple(sorted(each)) for each in twins[:5]]
    found = tally.by_class(5, 2, 0.5)
    assert [(item.label, item.images) for item in found] == [(0, 6), (1, 5)], "the class without images is not there"
    share = clean[labels == 1].double().mean(0).numpy()
    best = np.argsort(-share, kind="stable")[:2]
    assert found[1].neurons == tuple(best.tolist())
    assert found[1].frequency == tuple(share[best].tolist())
    for label, item in enumerate(found):
        for side, members in zip(SIDES, (clean, adversarial), strict=True):
            counts = [int(members[labels == label, neuron].sum()) for neuron in range(8)]
            most = sorted(range(8), key=lambda neuron: (-counts[neuron], neuron))[:4]
            assert item.route is not None
            assert item.route[side] == tuple(most)


def test_agreement_of_a_part_with_the_whole() -> None:
    # Neurons 0 and 1 in three of four images; 2 and 3 in the last. The whole's route: 0 and 1.
    clean = torch.tensor([[1, 1, 0, 0]] * 3 + [[0, 0, 1, 1]]).bool()
    tally = tally_of(clean, clean, np.zeros(4, np.int64), np.array([0, 0, 1, 2]), 4)
    assert route_agreement([tally], 0.5).tolist() == [1.0, 1.0, 0.0]


def test_a_contrast_with_random_neurons() -> None:
    mean = np.arange(100.0)
    contrast = RouteContrast.of(np.array([98.0, 99.0]), np.array([48.0, 49.0]), mean, 10, np.random.default_rng(0))
    # Means of 10 of 100: about 49.5 with deviation 28.9 / sqrt(10) * sqrt(90 / 99) = 8.7, so 95 % in 49.5 -+ 17.
    assert contrast.random_low == pytest.approx(32.4, abs=2)
    assert contrast.random_high == pytest.approx(66.6, abs=2)
    assert contrast.on.value == 98.5
    # Ninety dead neurons beside ten change nothing of what random sets of five of the ten give.
    few = RouteContrast.of(np.ones(2), np.ones(2), np.arange(1.0, 11.0), 5, np.random.default_rng(0))
    dead = RouteContrast.of(
        np.ones(2), np.ones(2), np.r_[np.zeros(90), np.arange(1.0, 11.0)], 5, np.random.default_rng(0)
    )
    assert (dead.random_low, dead.random_high) == (few.random_low, few.random_high)
    whole = RouteContrast.of(np.array([1.0, 2.0]), np.array([np.nan, np.nan]), mean, 100, np.random.default_rng(0))
    assert whole.off is None
    assert whole.random_low == whole.random_high == 49.5
