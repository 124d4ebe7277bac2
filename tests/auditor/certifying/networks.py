"""Small random networks with every operation that bounds pass through."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from auditor.models.classifier import Classifier, Normalization

SHAPE = (3, 8, 8)
CLASSES = 4


class Residual(nn.Module):
    """Two convolutions with normalization around a shortcut that halves the map; activations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.one = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.two = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.short = nn.Conv2d(6, 8, 1, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.enter(x)))
        y = self.two(self.relu(self.one(x)))
        y += self.short(x)
        return self.last(functional.adaptive_avg_pool2d(self.relu(y), 1).flatten(1))


class Dense(nn.Module):
    """Concatenated channels, a leaky activation, pools with overlapping windows, padding and ceiling."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=2, dilation=2)
        self.two = nn.Conv2d(4, 3, 3, padding="same")
        self.pool = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
        self.average = nn.AvgPool2d(2, 1)
        self.last = nn.Linear(7 * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.one(x * 2.0 - 1.0), 0.1)
        x = self.pool(torch.cat([x, torch.relu(self.two(x))], 1))
        return self.last(torch.flatten(self.average(x), 1)) / 3.0


class PreActivation(nn.Module):
    """Activations before convolutions: the shortcut leads past the last activation, into the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 4, 4, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.inner(torch.relu(self.norm(x)))
        return self.last(x.mean((2, 3)))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 5, 4, 2, 1), nn.ReLU(), nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(24, 10), nn.LeakyReLU(0.2), nn.Dropout(), nn.Linear(10, CLASSES), nn.LogSoftmax(1),
    )  # fmt: skip


KINDS = {"plain": plain, "residual": Residual, "dense": Dense, "pre-activation": PreActivation}


def random_classifier(kind: str, seed: int = 0) -> Classifier:
    """A network of that kind with random weights and statistics, and a normalization of its own."""
    torch.manual_seed(seed)
    network = KINDS[kind]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.3, 2.0)
            nn.init.normal_(module.weight, 1.0, 0.5)
            nn.init.normal_(module.bias, std=0.3)
    normalization = Normalization(
        mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), channel_order="BGR" if seed % 2 else "RGB"
    )
    return Classifier(network, input_shape=SHAPE, num_classes=CLASSES, normalization=normalization)
