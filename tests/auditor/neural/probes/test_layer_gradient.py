"""Gradients by the outputs of layers, against autograd on the rest of a chain and against finite differences."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from auditor.neural.probes.layer_gradient import fine_cross_entropy, layer_gradients, slopes
from tests.auditor.routed import CLASSES, CONVOLUTIONS, chain, classifier_of, images
from tests.narrow import sequence

X, _ = images(5)
LABELS = torch.tensor([0, 1, 2, 3, 0])


@pytest.mark.parametrize("layer", CONVOLUTIONS)
def test_gradients_are_those_of_each_image_alone(layer: str) -> None:
    network = chain()
    found = layer_gradients(classifier_of(network), X, LABELS, CONVOLUTIONS)
    first = network[: int(layer) + 1]
    rest = network[int(layer) + 1 :]
    for row in range(5):
        output = first(X[row : row + 1]).detach().requires_grad_()
        cross_entropy(rest(output.clone()), LABELS[row : row + 1]).backward()
        assert torch.allclose(found.of(layer).output[row], output[0], rtol=1e-12)
        assert torch.allclose(found.of(layer).gradient[row], output.grad[0], rtol=1e-10, atol=1e-14)
    assert torch.allclose(found.logits, network(X), rtol=1e-12)
    assert not found.logits.requires_grad


def test_a_finite_difference() -> None:
    network = chain()
    slope = slopes(classifier_of(network), X, lambda logits: logits[:, 1].sum(), ("3",)).of("3")
    step = torch.zeros_like(slope.output)
    step[2, 4, 1, 3] = 1e-6
    change = network[4:](slope.output + step)[:, 1].sum() - network[4:](slope.output - step)[:, 1].sum()
    assert float(change) / 2e-6 == pytest.approx(float(slope.gradient[2, 4, 1, 3]), rel=1e-6)


def test_the_loss_is_the_cross_entropy_and_does_not_round_to_zero() -> None:
    logits = torch.tensor(
        [[1.0, -2.0, 0.5], [60.0, 0.0, -3.0], [0.0, 50.0, 90.0], [3.0, 3.0, 3.0]], dtype=torch.float64
    )
    labels = torch.tensor([0, 0, 1, 2])
    for row, label in enumerate(labels.tolist()):
        others = sum(math.exp(float(z - logits[row, label])) for k, z in enumerate(logits[row]) if k != label)
        assert float(fine_cross_entropy(logits, labels)[row]) == pytest.approx(math.log1p(others), rel=1e-12)
    usual = cross_entropy(logits, labels, reduction="none")
    assert torch.allclose(fine_cross_entropy(logits, labels), usual, atol=1e-14)
    assert float(usual[1]) == 0


@pytest.mark.parametrize("scale", [30, 200])
def test_the_gradient_of_a_confident_image_is_right_in_float32_too(scale: int) -> None:
    """Where p - 1 is below 6e-8, float32 rounds the label's part of the gradient away; below 1e-38, all of it."""
    network = sequence(chain())
    with torch.no_grad():
        network[10].weight.mul_(scale)
        network[10].bias.mul_(scale)
    labels = network(X).argmax(1)
    assert (fine_cross_entropy(network(X), labels) < 1e-10).all()
    exact = layer_gradients(classifier_of(copy.deepcopy(network)), X, labels, ("7",)).of("7").gradient
    rounded = classifier_of(network).float()
    plain = slopes(rounded, X, lambda logits: cross_entropy(logits, labels, reduction="sum"), ("7",)).of("7").gradient
    ours = layer_gradients(rounded, X, labels, ("7",)).of("7").gradient
    size = exact.flatten(1).norm(dim=1)
    # The logits themselves are rounded: to 1e-7 of some hundreds, which is what exp(-margin) is off by.
    assert float(((ours - exact).flatten(1).norm(dim=1) / size).max()) < 1e-2
    assert float(((plain - exact).flatten(1).norm(dim=1) / size).min()) > 0.3


class Blocked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.round().detach() if x.requires_grad else x.round()


def test_a_network_that_lets_no_gradient_through_has_gradients_of_zero() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Blocked(), nn.Flatten(), nn.Linear(64, CLASSES)).double()
    found = layer_gradients(classifier_of(network), X, LABELS, ("0",))
    assert not found.of("0").gradient.any()
    assert found.of("0").output.any()
