"""A chain of convolutions with a critical attacking route, and pairs of images that it was attacked on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.neural.analysis import Subject
from tests.auditor.neural.analyses.given import Given, subject_of
from tests.narrow import sequence
from tests.nets import SHAPE, random_images

CONVOLUTIONS = ("0", "3", "7")
CLASSES = 4
SCALE = 400


def chain(seed: int = 0) -> nn.Sequential:
    """conv, norm, ReLU (in place), conv, norm, ReLU, pool, conv, ReLU, linear; random weights, in float64."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU(inplace=True),
        nn.Conv2d(10, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 10, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(90, CLASSES),
    )  # fmt: skip
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.randn(32, *SHAPE) + 0.5)
        network.eval()
        head = sequence(network)[10]
        head.bias.sub_(network(torch.rand(256, *SHAPE)).mean(0))  # so that every class is predicted
        head.weight.mul_(SCALE)
        head.bias.mul_(SCALE)
    return network.double().requires_grad_(False)


def classifier_of(network: nn.Module) -> Classifier:
    return Classifier(network, input_shape=SHAPE, num_classes=CLASSES).double()


def images(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images and noisy twins that are far enough away to change many predictions, in float64."""
    x = torch.from_numpy(random_images(n, SHAPE, seed)).permute(0, 3, 1, 2).double() / 255
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype) - 0.5
    return x, (x + 0.8 * noise).clamp(0, 1)


def subject(classifier: Classifier, n: int = 24, batch_size: int = 24, wrong: int = 3) -> Subject:
    """The classifier's own answers are the labels, the first ``wrong`` of them made wrong."""
    x, x_adv = images(n)
    labels = classifier.logits(x).argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % CLASSES
    fooled = (classifier.logits(x_adv).argmax(1) != labels).numpy()
    data = ImageDataset(x.permute(0, 2, 3, 1).float().numpy(), labels.numpy())
    return subject_of(classifier, Given(x, x_adv, batch_size, fooled, labels), data)


def one_by_one(network: nn.Sequential, x: Tensor, edits: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """A plain forward pass through a chain, with a function applied to the output of some of its modules."""
    for name, module in network.named_children():
        x = module(x.clone())
        x = edits[name](x) if name in edits else x
    return x


def same(found: Any, expected: Any) -> None:
    """Two results as plain data, equal but for rounding of their floats."""
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        assert found.keys() == expected.keys()
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, list):
        assert isinstance(found, list)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, float):
        assert np.isclose(found, expected, rtol=1e-9, atol=1e-12)
    else:
        assert found == expected
