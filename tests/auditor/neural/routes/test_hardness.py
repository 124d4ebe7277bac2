"""Hardness V by hand and against brute-force autograd in float64; the rival scores and the attacks beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.neural.routes.hardness import SCORES, attack, hardness, hardness_scores
from auditor.neural.routes.routes import count_of
from auditor.neural.routes.selection import RouteFrequency, route_frequency
from tests.auditor.neural.analyses.given import Given
from tests.auditor.routed import CONVOLUTIONS, chain, classifier_of, subject
from tests.narrow import sequence, typed


def test_by_hand() -> None:
    # Layer 1: gradients 5, 1, 3: ranks 1, 3, 2. Layer 2: 0.1, 0.3, 0.2: ranks 3, 1, 2. Layer 3: 7, 7, 0: ranks 1.5, 1.5, 3.
    gradient = np.array([[5, 0.1, 7], [1, 0.3, 7], [3, 0.2, 0]])
    assert hardness(gradient).tolist() == [1 + 3 + 1.5, 3 + 1 + 1.5, 2 + 2 + 3]


def test_ranks_add_up_and_a_small_gradient_is_hard() -> None:
    gradient = np.abs(np.random.default_rng(0).normal(size=(30, 4))).round(1)  # ties
    assert hardness(gradient).sum() == pytest.approx(4 * 30 * 31 / 2)  # four layers of 1 + 2 + ... + 30
    one = gradient[:, :1]
    assert np.argmax(hardness(one)) == np.argmin(one[:, 0])
    assert np.array_equal(hardness(one), hardness(one**3 * 5)), "only the order counts"
    assert hardness(np.ones((1, 3))).tolist() == [3]


@pytest.mark.parametrize("batch_size", [1, 7, 24])
def test_gradients_margins_and_losses_are_those_of_each_image_alone(batch_size: int) -> None:
    network = chain()
    looked_at = subject(classifier_of(network), batch_size=batch_size)
    route = route_frequency(looked_at, width=0.2, mode="serial")
    found = hardness_scores(looked_at, route, 0.3)
    pairs = typed(looked_at.pairs, Given)
    for image in range(24):
        x, label = pairs.x[image : image + 1], pairs.labels[image : image + 1]
        logits = network(x)[0].tolist()
        own = logits.pop(int(label))
        assert found.scores["margin"][image] == pytest.approx(own - max(logits), rel=1e-9)
        loss = math.log1p(sum(math.exp(other - own) for other in logits))
        assert -found.scores["loss"][image] == pytest.approx(loss, rel=1e-9)
        assert found.correct[image] == (own > max(logits))
        for place, layer in enumerate(CONVOLUTIONS):
            output = network[: int(layer) + 1](x).requires_grad_()
            cross_entropy(network[int(layer) + 1 :](output.clone()), label).backward()
            members = route.order[place][: count_of(0.3, route.sizes[place])]
            expected = sum(float(output.grad[0, channel].abs().sum()) for channel in members)
            assert found.gradient[image, place] == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert np.array_equal(found.scores["hardness"], hardness(found.gradient))
    assert set(found.scores) == set(SCORES)
    assert found.ids.tolist() == list(range(24))


def test_all_channels_and_random_ones() -> None:
    """With a model-level route of all channels the three kinds of V are one; else the random one is another."""
    looked_at = subject(classifier_of(chain()))
    route = route_frequency(looked_at, width=0.2, mode="serial")
    whole = hardness_scores(looked_at, route, 1.0).scores
    assert np.array_equal(whole["hardness"], whole["all"])
    assert np.array_equal(whole["random"], whole["all"])
    part = hardness_scores(looked_at, route, 0.3).scores
    assert np.array_equal(part["all"], whole["all"])
    assert not np.array_equal(part["random"], part["hardness"])


def test_the_channels_of_the_route_are_the_ones_that_count() -> None:
    looked_at = subject(classifier_of(chain()))
    shares = [np.zeros(10), np.zeros(12), np.zeros(10)]
    shares[0][7] = shares[1][2] = shares[2][9] = 1.0
    found = hardness_scores(looked_at, RouteFrequency(CONVOLUTIONS, tuple(shares), 24), 0.1)
    network, image = sequence(looked_at.classifier), 5
    pairs = typed(looked_at.pairs, Given)
    output = network[:1](pairs.x[image : image + 1]).requires_grad_()
    cross_entropy(network[1:](output.clone()), pairs.labels[image : image + 1]).backward()
    assert found.gradient[image, 0] == pytest.approx(float(output.grad[0, 7].abs().sum()), rel=1e-9)


def test_attacks_on_the_images_given() -> None:
    looked_at = subject(classifier_of(chain()))
    ids = np.arange(3, 24)
    labels = looked_at.dataset.labels[ids]
    found = attack(looked_at, ids, labels, 0.01, 30)
    images = looked_at.dataset.images(ids).double().requires_grad_()
    logits = looked_at.classifier(images)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, torch.from_numpy(labels), reduction="sum"), images)
    moved = (images + 0.01 * gradient.sign()).clamp(0, 1)
    expected = (looked_at.classifier(moved).argmax(1) != torch.from_numpy(labels)).numpy()
    assert np.array_equal(found.fooled, expected)
    assert 0 < expected.sum() < 21
    assert (found.smallest[found.fooled] <= 0.01 * 1.2).all(), "what one step reaches, a search for the smallest does"
    assert (found.smallest > 0).all()
    without = attack(looked_at, ids, labels, 0.01, 0)
    assert np.isnan(without.smallest).all()
    nobody = attack(looked_at, ids[:0], labels[:0], 0.01, 5)
    assert len(nobody.fooled) == len(nobody.smallest) == 0
