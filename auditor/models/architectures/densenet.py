"""DenseNets for small images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from auditor.kit.errors import SpecError
from auditor.models.architecture import NUMBER_CHOICE, Architecture


class DenseLayout(NamedTuple):
    """Layers of each dense block, and whether these are of the BC form (Huang et al. 2017, section 3)."""

    blocks: tuple[int, ...]
    compressed: bool


PLANS = {
    40: DenseLayout((12, 12, 12), compressed=False),
    100: DenseLayout((16, 16, 16), compressed=True),
    121: DenseLayout((6, 12, 24, 16), compressed=True),
    161: DenseLayout((6, 12, 36, 24), compressed=True),
    169: DenseLayout((6, 12, 32, 32), compressed=True),
    201: DenseLayout((6, 12, 48, 32), compressed=True),
}
"""Depth -> plan: the CIFAR networks of the paper's table 2, the ImageNet networks of its table 1 and of its code."""

PLAIN_STEM = 16
BOTTLENECK = 4
"""Outputs of a 1x1 convolution of the BC form, as a multiple of the growth rate."""


class PlainLayer(nn.Module):
    """Normalize, rectify, 3x3 convolution; its output goes before its input."""

    def __init__(self, channels_in: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels_in, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv1(self.relu1(self.bn1(x))), x], dim=1)


class BottleneckLayer(nn.Module):
    """The same twice, first with a 1x1 convolution that narrows the input; the output goes before the input."""

    def __init__(self, channels_in: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels_in, BOTTLENECK * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.conv1(self.relu1(self.bn1(x)))
        return torch.cat([self.conv2(self.relu2(self.bn2(narrow))), x], dim=1)


class Transition(nn.Module):
    """Between two dense blocks: normalize, rectify, 1x1 convolution, average over 2x2 pixels."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels_in)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.pool(self.conv(self.relu(self.bn(x)))))


class DenseNetwork(nn.Module):
    """A 3x3 stem, dense blocks with transitions between them, global average, one linear layer."""

    def __init__(self, channels: int, plan: DenseLayout, growth: int, num_classes: int) -> None:
        super().__init__()
        layer = BottleneckLayer if plan.compressed else PlainLayer
        width = 2 * growth if plan.compressed else PLAIN_STEM
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.parts: list[str] = []
        for number, count in enumerate(plan.blocks, start=1):
            block = nn.Sequential(*(layer(width + index * growth, growth) for index in range(count)))
            width += count * growth
            self._append(f"dense{number}", block)
            if number < len(plan.blocks):
                narrower = width // 2 if plan.compressed else width
                self._append(f"trans{number}", Transition(width, narrower))
                width = narrower
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(width, num_classes)

    def _append(self, name: str, part: nn.Module) -> None:
        self.parts.append(name)
        self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for name in self.parts:
            x = self.get_submodule(name)(x)
        return cast(Tensor, self.linear(self.flatten(self.pool(self.relu(self.bn(x))))))


class DenseNet(Architecture):
    """DenseNet (Huang et al. 2017, arXiv 1608.06993) with a 3x3 stem and no first pool, for small images.

    Depth 40 is the paper's plain network for CIFAR, 100 its DenseNet-BC for CIFAR (growth 12 in both); the others are
    its ImageNet networks (growth 32, and 48 in depth 161). Tensor names, and the order of the channels that are put
    together (new ones first), are those of kuangliu/pytorch-cifar (``dense1.0.conv1.weight``, ``trans1.conv.weight``,
    ``linear.weight``), whose densenet_cifar is depth 121 with growth 12.
    """

    kind: Literal["densenet"] = "densenet"
    title: ClassVar[str] = "DenseNet (small images)"
    depth: Annotated[Literal[40, 100, 121, 161, 169, 201], NUMBER_CHOICE] = Field(
        121, description="Number of weighted layers."
    )
    growth: int = Field(32, ge=1, le=64, description="Growth rate: channels that each layer adds.")

    def build(self) -> nn.Module:
        """See Architecture.build. Raises SpecError if the transitions' pools would leave no pixel."""
        plan = PLANS[self.depth]
        least = 2 ** (len(plan.blocks) - 1)
        if min(self.height, self.width) < least:
            raise SpecError(
                f"densenet: expected images of at least {least}x{least} pixels (each of its {len(plan.blocks) - 1} "
                f"transitions halves them), got {self.height}x{self.width}.",
                "Give larger images, or describe a smaller network as sequential.",
            )
        return DenseNetwork(self.channels, plan, self.growth, self.num_classes)
