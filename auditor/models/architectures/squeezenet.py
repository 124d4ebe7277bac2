"""SqueezeNet for small images."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from auditor.kit.errors import SpecError
from auditor.models.architecture import Architecture

Bypass = Literal["none", "3+5+7", "3+5+7+9"]
Head = Literal["conv", "conv-relu", "linear"]

STEM = 96
FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}
"""Number of a fire module -> channels after its squeeze, and of each of its two expansions (Iandola et al. 2016, table 1)."""

POOL_AFTER = (4, 8)
SMALLEST = 8


def _convolution(channels_in: int, channels_out: int, kernel: int, batch_norm: bool) -> nn.Sequential:
    layers = nn.Sequential(nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2))
    if batch_norm:
        layers.append(nn.BatchNorm2d(channels_out))
    return layers.append(nn.ReLU())


class Fire(nn.Module):
    """A 1x1 convolution that narrows; 1x1 and 3x3 convolutions of that, side by side (the paper's figure 1)."""

    def __init__(self, channels_in: int, squeezed: int, expanded: int, batch_norm: bool) -> None:
        super().__init__()
        self.squeeze = _convolution(channels_in, squeezed, 1, batch_norm)
        self.expand_1x1 = _convolution(squeezed, expanded, 1, batch_norm)
        self.expand_3x3 = _convolution(squeezed, expanded, 3, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.squeeze(x)
        return torch.cat([self.expand_1x1(squeezed), self.expand_3x3(squeezed)], dim=1)


class SqueezeNetNetwork(nn.Module):
    """A stem, eight fire modules with pools between, the head. ``bypassed``: the fires with a connection around them."""

    def __init__(self, channels: int, num_classes: int, batch_norm: bool, bypassed: set[int], head: Head) -> None:
        super().__init__()
        self.bypassed = bypassed
        self.stem = _convolution(channels, STEM, 3, batch_norm).append(nn.MaxPool2d(2))
        width = STEM
        for number, (squeezed, expanded) in FIRES.items():
            self.add_module(f"fire{number}", Fire(width, squeezed, expanded, batch_norm))
            width = 2 * expanded
            if number in POOL_AFTER:
                self.add_module(f"pool{number}", nn.MaxPool2d(2))
        average: dict[str, nn.Module] = {"avg": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        ending: dict[str, nn.Module]
        if head == "linear":
            ending = {**average, "linear": nn.Linear(width, num_classes)}
        else:
            rectifier: dict[str, nn.Module] = {"relu10": nn.ReLU()} if head == "conv-relu" else {}
            ending = {"conv10": nn.Conv2d(width, num_classes, 1), **rectifier, **average}
        self.ending = list(ending)
        for name, module in ending.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number in FIRES:
            out = self.get_submodule(f"fire{number}")(x)
            x = out + x if number in self.bypassed else out
            if number in POOL_AFTER:
                x = self.get_submodule(f"pool{number}")(x)
        for name in self.ending:
            x = self.get_submodule(name)(x)
        return x


class SqueezeNet(Architecture):
    """SqueezeNet (Iandola et al. 2016, arXiv 1602.07360, table 1) with a 3x3 stem of stride 1, for small images.

    Tensor names and the defaults are those of weiaicunzai/pytorch-cifar100 (``stem.0.weight``,
    ``fire2.squeeze.0.weight``, ``conv10.weight``): batch normalization, three connections around fire modules, and no
    activation after the last convolution. The paper: no batch normalization, no connections or the four of its
    figure 2, and head "conv-relu". Images are halved three times, by 2x2 pools.
    """

    kind: Literal["squeezenet"] = "squeezenet"
    title: ClassVar[str] = "SqueezeNet (small images)"
    batch_norm: bool = Field(True, description="Batch normalization after every convolution but the last.")
    bypass: Bypass = Field(
        "3+5+7", description="Fire modules that add their input to their output (the paper: none, or 3, 5, 7 and 9)."
    )
    head: Head = Field(
        "conv",
        description="The end: a 1x1 convolution to one map per class and the average of each; the same with a ReLU "
        "between, as in the paper; or the average and a linear layer, which computes the same as conv and gives a "
        "vector of features.",
    )

    def build(self) -> nn.Module:
        """See Architecture.build. Raises SpecError if the pools would leave no pixel."""
        if min(self.height, self.width) < SMALLEST:
            raise SpecError(
                f"squeezenet: expected images of at least {SMALLEST}x{SMALLEST} pixels (three pools halve them), "
                f"got {self.height}x{self.width}.",
                "Give larger images, or describe a smaller network as sequential.",
            )
        bypassed = set() if self.bypass == "none" else {int(number) for number in self.bypass.split("+")}
        return SqueezeNetNetwork(self.channels, self.num_classes, self.batch_norm, bypassed, self.head)
