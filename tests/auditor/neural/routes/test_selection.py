"""The model-level route of the pairs and the choice of as many channels, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.neural.routes.routes import count_of, routes
from auditor.neural.routes.selection import (
    Choice,
    Selector,
    clean_energy,
    largest_filters,
    route_frequency,
    silent_filters,
)
from tests.auditor.neural.analyses.given import Given
from tests.auditor.routed import CONVOLUTIONS, chain, classifier_of, subject
from tests.narrow import sequence, typed

CPU = torch.device("cpu")
ORDERS = {"route": [np.array([3, 1, 0, 2, 5, 4, 9, 8, 7, 6]), np.arange(4)], "norm": [np.arange(10), np.arange(4)]}
SAMPLES = np.array([7, 2, 11, 5])


@pytest.mark.parametrize("batch_size", [1, 7, 24])
def test_frequency_is_the_share_of_images_whose_route_has_the_channel(batch_size: int) -> None:
    looked_at = subject(classifier_of(chain()), batch_size=batch_size)
    found = route_frequency(looked_at, width=0.2, mode="serial")
    assert found.layers == CONVOLUTIONS
    assert found.sizes == (10, 12, 10)
    assert found.images == 24
    count = [np.zeros(size) for size in found.sizes]
    for pair in looked_at.pairs:
        for row in range(len(pair.sample)):
            one = routes(looked_at.classifier, pair.x[row : row + 1], pair.labels[row : row + 1], width=0.2)
            for layer, members in enumerate(one.members):
                count[layer] += members[0].numpy()
    for layer in range(3):
        assert np.array_equal(found.share[layer], count[layer] / 24)
        assert sorted(found.order[layer].tolist()) == list(range(found.sizes[layer]))
        assert np.all(np.diff(found.share[layer][found.order[layer]]) <= 0)


def test_energy_and_filters() -> None:
    network = sequence(chain())
    looked_at = subject(classifier_of(network), batch_size=7)
    first = network[0](typed(looked_at.pairs, Given).x).numpy()
    (energy,) = clean_energy(looked_at, ["0"])
    for channel in range(10):
        assert energy[channel] == pytest.approx((first[:, channel] ** 2).sum() / 24, rel=1e-12)
    (order,) = largest_filters(looked_at.classifier, ["0"])
    norms = [float(network[0].weight[channel].abs().sum()) for channel in order]
    assert norms == sorted(norms, reverse=True)


def test_a_share_is_rounded_down_but_never_to_nothing() -> None:
    assert [count_of(width, size) for width, size in [(0.3, 10), (0.29, 100), (0.05, 10), (1.0, 7), (0.35, 10)]] == [
        3, 29, 1, 7, 3,
    ]  # fmt: skip


@pytest.mark.parametrize("choice", ["outside", "random"])
def test_random_channels_belong_to_the_image_and_grow_with_the_width(choice: Choice) -> None:
    selector = Selector(ORDERS, 0.3, seed=0)
    (small,) = selector.masks(choice, (0,), 0.2, SAMPLES, CPU)
    (large,) = selector.masks(choice, (0,), 0.5, SAMPLES, CPU)
    assert small.sum(1).tolist() == [2] * 4
    assert large.sum(1).tolist() == [5] * 4
    if choice == "outside":
        assert not small[:, [3, 1, 0]].any()  # the model-level route, wider than what is taken
        assert not large[:, [3, 1, 0, 2, 5]].any()  # as wide as what is taken
    else:
        assert (small <= large).all()
    assert len({tuple(row) for row in small.tolist()}) > 1
    for row, sample in enumerate(SAMPLES):
        (alone,) = selector.masks(choice, (0,), 0.2, np.array([sample]), CPU)
        assert torch.equal(alone[0], small[row])
    again = {name: [order[0], order[0]] for name, order in ORDERS.items()}
    first, second = Selector(again, 0.3, seed=0).masks(choice, (0, 1), 0.2, SAMPLES, CPU)
    assert torch.equal(first, small)
    assert not torch.equal(second, small), "every layer has draws of its own"
    (other,) = Selector(ORDERS, 0.3, seed=1).masks(choice, (0,), 0.2, SAMPLES, CPU)
    assert not torch.equal(other, small)


def test_every_channel_is_drawn_equally_often() -> None:
    (many,) = Selector(ORDERS, 0.3, seed=0).masks("random", (0,), 0.3, np.arange(4000), CPU)
    # 4000 draws at probability 0.3: standard deviation 29, so 5 of them are 145.
    assert (many.sum(0) - 1200).abs().max() < 145


def test_ranked_channels_are_the_same_for_every_image() -> None:
    route, norm = (Selector(ORDERS, 0.3, 0).masks(choice, (0, 1), 0.5, SAMPLES, CPU) for choice in ("route", "norm"))
    assert [mask.nonzero()[:, 1].tolist() for mask in route] == [[0, 1, 2, 3, 5], [0, 1]]
    assert [mask.nonzero()[:, 1].tolist() for mask in norm] == [[0, 1, 2, 3, 4], [0, 1]]
    assert route[0].shape == (1, 10)


def test_where_too_few_channels_lie_outside_there_is_no_choice() -> None:
    selector = Selector(ORDERS, 0.3, 0)
    assert selector.masks("outside", (0,), 0.6, SAMPLES, CPU) == []
    assert len(selector.masks("outside", (0, 1), 0.5, SAMPLES, CPU)) == 2
    assert selector.masks("outside", (0, 1), 0.75, SAMPLES, CPU) == []


@pytest.mark.parametrize(("choice", "able"), [("random", {0, 1, 2, 3, 4, 5, 6}), ("outside", {0, 2, 4, 5, 6})])
def test_channels_that_put_out_nothing_are_drawn_last(choice: Choice, able: set[int]) -> None:
    """A control that touches filters which are all zero touches nothing: 7 to 9 are, 1 and 3 are the route's."""
    silent = np.arange(10) > 6
    order = np.array([3, 1, 0, 2, 5, 4, 9, 8, 7, 6])
    selector = Selector({"route": [order]}, 0.2, 0, [silent])
    samples = np.arange(200)
    (few,) = selector.masks(choice, (0,), 0.2, samples, CPU)
    assert set(few.any(0).nonzero().flatten().tolist()) == able
    (more,) = selector.masks(choice, (0,), 0.5, samples, CPU)
    assert more.sum(1).tolist() == [5] * 200
    if choice == "random":
        (every,) = selector.masks(choice, (0,), 1.0, samples, CPU)
        assert every.all()


def test_which_filters_are_silent() -> None:
    network = sequence(chain())
    with torch.no_grad():
        network[3].weight[[2, 5]] = 0
    found = silent_filters(classifier_of(network), CONVOLUTIONS)
    assert [np.flatnonzero(layer).tolist() for layer in found] == [[], [2, 5], []]
