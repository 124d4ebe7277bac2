"""Small networks and data for tests, with answers known in closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import ImageDataset

SHAPE = (3, 6, 6)


class Linear(nn.Module):
    """Two classes, split by the plane w.x + b = 0: logits (0, w.x + b)."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.flatten())
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        side = x.flatten(1) @ self.weight + self.bias
        return torch.stack([torch.zeros_like(side), side], 1)


class StraightThrough(torch.autograd.Function):
    """Rounds to eighths, and passes the gradient on: a trace has a derivative of zero instead."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x * 8) / 8

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def small_cnn(seed: int = 0, classes: int = 5, shape: tuple[int, int, int] = SHAPE) -> nn.Module:
    """conv, norm with running statistics of its own, ReLU, pool, linear; random weights."""
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(8)
    norm.running_mean = torch.randn(8) * 0.2
    norm.running_var = torch.rand(8) + 0.5
    positions = (shape[1] // 2) * (shape[2] // 2)
    return nn.Sequential(
        nn.Conv2d(shape[0], 8, 3, padding=1),
        norm,
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * positions, classes),
    )


def small_classifier(seed: int = 0, classes: int = 5) -> Classifier:
    network, half = small_cnn(seed, classes), NORMALIZATIONS["half"]
    return Classifier(network, input_shape=SHAPE, num_classes=classes, normalization=half, name=f"cnn-{seed}")


def deeper_classifier(seed: int = 0, classes: int = 5) -> Classifier:
    """Two convolutions with norm and ReLU, a pool, two linear layers; random weights, running statistics of a forward pass."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU(), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(90, 12), nn.ReLU(), nn.Linear(12, classes))
    with torch.no_grad():
        network.train()(torch.randn(64, *SHAPE))
    half = NORMALIZATIONS["half"]
    return Classifier(network.eval(), input_shape=SHAPE, num_classes=classes, normalization=half, name=f"deeper-{seed}")


def mnist_plain(shared: Path) -> Classifier:
    """The plain convolutional network for MNIST of the shared folder."""
    layers = [nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))
    state = torch.load(shared / "weights" / "mnist-cnn-plain.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    return Classifier(network, input_shape=(1, 28, 28), num_classes=10, name="mnist-cnn-plain")


def random_images(n: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    channels, height, width = shape
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def labelled(classifier: Classifier, n: int = 40, wrong: int = 5, seed: int = 0) -> ImageDataset:
    """Random images with the model's own answers as labels, the first ``wrong`` of them made wrong."""
    images = random_images(n, classifier.input_shape, seed)
    data = ImageDataset(images, np.zeros(n, np.int64))
    labels = classifier.logits(data.images(np.arange(n)).to(classifier.dtype)).argmax(1).numpy()
    labels[:wrong] = (labels[:wrong] + 1) % classifier.num_classes
    names = [f"kind {index}" for index in range(classifier.num_classes)]
    return ImageDataset(images, labels, names, sha256="d" * 64, name="random")
