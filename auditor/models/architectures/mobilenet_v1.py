"""MobileNetV1 for small images."""

from __future__ import annotations

from typing import ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from auditor.models.architecture import Architecture

STEM = 32
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)) + ((512, 1),) * 5 + ((1024, 2), (1024, 1))
"""Channels and stride of each block (Howard et al. 2017, table 1, whose last stride is 1: the image is 7x7 there)."""


class SeparableBlock(nn.Module):
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution (Howard et al. 2017, figure 3, right)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, stride=stride, padding=1, groups=channels_in, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        return cast(Tensor, self.relu2(self.bn2(self.conv2(x))))


class MobileNetV1Network(nn.Module):
    """A 3x3 stem, separable blocks, global average, one linear layer. ``widths``: channels of the stem and each block."""

    def __init__(self, channels: int, widths: list[int], strides: list[int], num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu1 = nn.ReLU()
        self.layers = nn.Sequential(
            *(SeparableBlock(*shape) for shape in zip(widths[:-1], widths[1:], strides, strict=True))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.relu1(self.bn1(self.conv1(x))))
        return cast(Tensor, self.linear(self.flatten(self.pool(x))))


class MobileNetV1(Architecture):
    """MobileNetV1 (Howard et al. 2017, arXiv 1704.04861, table 1) with a stem of stride 1, for small images.

    Tensor names are those of kuangliu/pytorch-cifar (``layers.0.conv1.weight``, ``linear.weight``).
    """

    kind: Literal["mobilenet-v1"] = "mobilenet-v1"
    title: ClassVar[str] = "MobileNetV1 (small images)"
    width_factor: float = Field(
        1.0, gt=0, le=4, description="Multiplies the channels of every layer: the paper's width multiplier."
    )

    def build(self) -> nn.Module:
        """See Architecture.build."""
        widths = [max(1, round(width * self.width_factor)) for width in (STEM, *(width for width, _ in BLOCKS))]
        return MobileNetV1Network(self.channels, widths, [stride for _, stride in BLOCKS], self.num_classes)
