"""MobileNetV1: the parameters of the paper, kuangliu's names, a restatement."""

from __future__ import annotations

import pytest
import torch

from auditor.models.architectures.mobilenet_v1 import MobileNetV1
from tests.auditor.models.architectures.oracle import convolved, normalized, parameters, unlike_fresh, with_norms

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
PAIRS = [
    *((32, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)),
    *[(512, 512)] * 5,
    *((512, 1024), (1024, 1024)),
]
"""Channels in and out of each separable convolution in the paper's table 1."""


@pytest.mark.parametrize(("width_factor", "millions"), [(1.0, 4.2), (0.75, 2.6), (0.5, 1.3), (0.25, 0.5)])
def test_parameters_are_those_of_the_papers_table_6(width_factor: float, millions: float) -> None:
    with torch.device("meta"):
        network = MobileNetV1(num_classes=1000, width_factor=width_factor).build()
    assert round(parameters(network) / 1e6, 1) == millions


def test_parameters_layer_by_layer() -> None:
    # Stem 27 x 32; 3x3 windows of each channel, 1x1 windows; weight and bias of each norm; the head.
    separable = sum(9 * a + 2 * a + a * b + 2 * b for a, b in PAIRS)
    with torch.device("meta"):
        count = parameters(MobileNetV1(num_classes=1000).build())
    assert count == 27 * 32 + 2 * 32 + separable + 1001 * 1000 + 24 * 1000
    # Trainable parameters of the network in Keras.
    assert count == 4_231_976


def test_names_are_those_of_kuangliu() -> None:
    with torch.device("meta"):
        names = set(MobileNetV1().build().state_dict())
    inside = [f"layers.{index}.{part}" for index in range(13) for part in ("conv1", "bn1", "conv2", "bn2")]
    assert names == with_norms(["conv1", "bn1", "linear", *inside]) | {"linear.bias"}


def test_the_forward_pass_restated() -> None:
    network = unlike_fresh(MobileNetV1(width_factor=0.1).build()).double()
    weights = network.state_dict()
    images = torch.rand(2, 3, 30, 32, dtype=torch.float64)
    x = normalized(weights, "bn1", convolved(weights, "conv1", images)).clamp(min=0)
    for index, stride in enumerate(STRIDES):
        name = f"layers.{index}"
        x = convolved(weights, f"{name}.conv1", x, stride=stride, groups=x.shape[1])
        x = normalized(weights, f"{name}.bn1", x).clamp(min=0)
        x = normalized(weights, f"{name}.bn2", convolved(weights, f"{name}.conv2", x)).clamp(min=0)
    # 102.4 and 51.2 channels are rounded; 32 pixels are halved four times.
    assert x.shape == (2, 102, 2, 2)
    expected = x.mean((2, 3)) @ weights["linear.weight"].T + weights["linear.bias"]
    with torch.no_grad():
        torch.testing.assert_close(network(images), expected, rtol=1e-9, atol=1e-9)
