"""Residual networks for small images: the blocks, and the frame that the CIFAR ResNets have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, cast

from torch import Tensor, nn
from torch.nn import functional

Shortcut = Literal["A", "B"]


class PadShortcut(nn.Module):
    """Option A of He et al. 2016, section 3.3: no parameters. Every second pixel, with channels of zeros around."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        before = (channels_out - channels_in) // 2
        self.padding = (before, channels_out - channels_in - before)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))


def shortcut_between(channels_in: int, channels_out: int, stride: int, shortcut: Shortcut) -> nn.Module | None:
    """What brings a block's input to the shape of its output; None where it has that shape already."""
    if stride == 1 and channels_in == channels_out:
        return None
    if shortcut == "A":
        return PadShortcut(channels_in, channels_out, stride)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm2d(channels_out)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them (He et al. 2016, figure 2).

    The shortcut is a module only where the shape changes; elsewhere the block adds its own input.
    """

    expansion: ClassVar[int] = 1
    """Channels of the output, as a multiple of ``width``."""

    def __init__(self, channels_in: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.shortcut = shortcut_between(channels_in, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return cast(Tensor, self.relu2(residual + (x if self.shortcut is None else self.shortcut(x))))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut around them (He et al. 2016, figure 5, right).

    The 3x3 convolution takes the stride, as in every public ResNet-50 of PyTorch (the paper: the first 1x1).
    """

    expansion: ClassVar[int] = 4
    """Channels of the output, as a multiple of ``width``."""

    def __init__(self, channels_in: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        channels_out = self.expansion * width
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.relu3 = nn.ReLU()
        self.shortcut = shortcut_between(channels_in, channels_out, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        residual = self.bn3(self.conv3(inside))
        return cast(Tensor, self.relu3(residual + (x if self.shortcut is None else self.shortcut(x))))


class ResidualNetwork(nn.Module):
    """A 3x3 stem, stages of blocks (each stage after the first halves the image), global average, one linear layer.

    ``widths`` and ``blocks`` have one entry per stage; the stem has the width of the first stage.
    Takes (B, channels, H, W), returns logits (B, num_classes).
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        num_classes: int,
        shortcut: Shortcut,
        block: type[BasicBlock] | type[BottleneckBlock] = BasicBlock,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu1 = nn.ReLU()
        self.stages: list[str] = []
        previous = widths[0]
        for number, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
            strides = [1 if number == 1 else 2] + [1] * (count - 1)
            stage = nn.Sequential()
            for stride in strides:
                stage.append(block(previous, width, stride, shortcut))
                previous = width * block.expansion
            self.stages.append(f"layer{number}")
            self.add_module(self.stages[-1], stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(previous, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return cast(Tensor, self.linear(self.flatten(self.pool(x))))
