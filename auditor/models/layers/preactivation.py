"""Residual networks that normalize and activate before each convolution: the blocks of Wide ResNets and PreAct ResNets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, cast

from torch import Tensor, nn

Activation = Literal["relu", "silu"]
"""SiLU is what the networks of Gowal et al. 2020 (arXiv 2010.03593) call Swish."""

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}

WIDTHS = (64, 128, 256, 512)
"""Channels of the stages of PreAct ResNets."""


def strides_of(blocks: int, first: int) -> Iterator[int]:
    """The stride of each block of a stage: only the first halves the image."""
    yield first
    yield from (1 for _ in range(blocks - 1))


class SameConv2d(nn.Conv2d):
    """A 3x3 convolution padded as TensorFlow's ``SAME``: with stride 2 and an even side, at the lower and right edge alone.

    Equals ``Conv2d(..., padding=1)`` elsewhere. Networks that were ported from JAX or TensorFlow need it: with symmetric
    padding, the same weights look one pixel further to the upper left.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(channels_in, channels_out, 3, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (down, across), (height, width) = self.stride, x.shape[-2:]
        top, left = int(down == 1 or height % 2), int(across == 1 or width % 2)
        return super().forward(nn.functional.pad(x, (left, 1, top, 1)))


def stage_of(
    block: Callable[[int, int, int], nn.Module], channels_in: int, channels_out: int, blocks: int, stride: int
) -> nn.Sequential:
    """The blocks of one width, each made of its channels in, its channels out and its stride."""
    stage = nn.Sequential()
    for step in strides_of(blocks, stride):
        stage.append(block(channels_in, channels_out, step))
        channels_in = channels_out
    return stage


class PreActivated(nn.Module):
    """What WideBlock and PreActBlock have in common: two 3x3 convolutions, each after a normalization and a ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)

    def activated(self, x: Tensor) -> Tensor:
        """The input, normalized and activated."""
        return cast(Tensor, self.relu1(self.bn1(x)))

    def residual(self, active: Tensor) -> Tensor:
        """What both convolutions make of it."""
        return cast(Tensor, self.conv2(self.relu2(self.bn2(self.conv1(active)))))


class WideBlock(PreActivated):
    """Two pre-activated 3x3 convolutions (Zagoruyko and Komodakis 2016, arXiv 1605.07146, figure 1(b)).

    Where the number of channels changes, the activated input also goes through a 1x1 convolution that replaces it in the sum.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(channels_in, channels_out, stride)
        self.convShortcut = (
            None if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        active = self.activated(x)
        residual = self.residual(active)
        return residual + (x if self.convShortcut is None else self.convShortcut(active))


class WideStage(nn.Module):
    """The blocks of one width; ``layer`` is their name in the files of this network."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.layer = stage_of(WideBlock, channels_in, channels_out, blocks, stride)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layer(x))


class WideNetwork(nn.Module):
    """A 3x3 stem of 16 channels, three stages of WideBlock, normalization, global average, one linear layer.

    Takes (B, channels, H, W), returns logits (B, num_classes).
    """

    def __init__(self, channels: int, blocks: int, factor: int, num_classes: int) -> None:
        super().__init__()
        widths = (16 * factor, 32 * factor, 64 * factor)
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = WideStage(16, widths[0], blocks, stride=1)
        self.block2 = WideStage(widths[0], widths[1], blocks, stride=2)
        self.block3 = WideStage(widths[1], widths[2], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[2], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return cast(Tensor, self.fc(self.flatten(self.pool(self.relu(self.bn1(x))))))


class PortedWideBlock(nn.Module):
    """WideBlock as DeepMind ported it to PyTorch: other names, ``SAME`` padding, an activation of choice."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(channels_in)
        self.relu_0 = ACTIVATIONS[activation]()
        self.conv_0 = SameConv2d(channels_in, channels_out, stride)
        self.batchnorm_1 = nn.BatchNorm2d(channels_out)
        self.relu_1 = ACTIVATIONS[activation]()
        self.conv_1 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut = (
            None if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu_0(self.batchnorm_0(x))
        residual = self.conv_1(self.relu_1(self.batchnorm_1(self.conv_0(active))))
        return cast(Tensor, residual + (x if self.shortcut is None else self.shortcut(active)))


class PortedWideStage(nn.Module):
    """The blocks of one width; ``block`` is their name in the files of this network."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, stride: int, activation: Activation) -> None:
        super().__init__()
        made = partial(PortedWideBlock, activation=activation)
        self.block = stage_of(made, channels_in, channels_out, blocks, stride)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.block(x))


class PortedWideNetwork(nn.Module):
    """WideNetwork as DeepMind ported it to PyTorch. Takes (B, channels, H, W), returns logits (B, num_classes)."""

    def __init__(self, channels: int, blocks: int, factor: int, num_classes: int, activation: Activation) -> None:
        super().__init__()
        widths = (16, 16 * factor, 32 * factor, 64 * factor)
        self.init_conv = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.layer = nn.Sequential(
            *(
                PortedWideStage(before, after, blocks, stride, activation)
                for before, after, stride in zip(widths, widths[1:], (1, 2, 2), strict=False)
            )
        )
        self.batchnorm = nn.BatchNorm2d(widths[-1])
        self.relu = ACTIVATIONS[activation]()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.logits = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.batchnorm(self.layer(self.init_conv(x))))
        return cast(Tensor, self.logits(self.flatten(self.pool(x))))


class PreActBlock(PreActivated):
    """Two pre-activated 3x3 convolutions (He et al. 2016, arXiv 1603.05027, figure 4(e)).

    ``shortcut_of``: where the shape changes, whether the 1x1 convolution takes the activated input or the input itself.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, shortcut_of: Literal["activated", "input"]
    ) -> None:
        super().__init__(channels_in, channels_out, stride)
        same = stride == 1 and channels_in == channels_out
        self.shortcut = (
            None if same else nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False))
        )
        self.shortcut_of = shortcut_of

    def forward(self, x: Tensor) -> Tensor:
        active = self.activated(x)
        residual = self.residual(active)
        if self.shortcut is None:
            return residual + x
        return cast(Tensor, residual + self.shortcut(active if self.shortcut_of == "activated" else x))


class PreActNetwork(nn.Module):
    """A 3x3 stem of 64 channels, four stages of PreActBlock, global average, one linear layer; for small images.

    Takes (B, channels, H, W), returns logits (B, num_classes).
    """

    def __init__(
        self,
        channels: int,
        blocks: Sequence[int],
        num_classes: int,
        shortcut_of: Literal["activated", "input"],
        last_norm: bool,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        before, made = 64, partial(PreActBlock, shortcut_of=shortcut_of)
        for number, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True), start=1):
            self.add_module(f"layer{number}", stage_of(made, before, width, count, 1 if number == 1 else 2))
            before = width
        if last_norm:
            self.bn = nn.BatchNorm2d(before)
            self.relu = nn.ReLU()
        self.last_norm = last_norm
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        if self.last_norm:
            x = self.relu(self.bn(x))
        return cast(Tensor, self.linear(self.flatten(self.pool(x))))


class PortedPreActBlock(nn.Module):
    """PreActBlock of DeepMind's PyTorch networks: its shortcut is a 3x3 convolution of the input itself, padded as ``SAME``."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(channels_in)
        self.relu_0 = ACTIVATIONS[activation]()
        self.conv_2d_1 = SameConv2d(channels_in, channels_out, stride)
        self.batchnorm_1 = nn.BatchNorm2d(channels_out)
        self.relu_1 = ACTIVATIONS[activation]()
        self.conv_2d_2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        same = stride == 1 and channels_in == channels_out
        self.shortcut = None if same else SameConv2d(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu_0(self.batchnorm_0(x))
        residual = self.conv_2d_2(self.relu_1(self.batchnorm_1(self.conv_2d_1(active))))
        return cast(Tensor, residual + (x if self.shortcut is None else self.shortcut(x)))


class PortedPreActNetwork(nn.Module):
    """PreActNetwork of DeepMind's PyTorch networks. Takes (B, channels, H, W), returns logits (B, num_classes)."""

    def __init__(self, channels: int, blocks: Sequence[int], num_classes: int, activation: Activation) -> None:
        super().__init__()
        self.conv_2d = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        before, made = 64, partial(PortedPreActBlock, activation=activation)
        for number, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True)):
            self.add_module(f"layer_{number}", stage_of(made, before, width, count, 1 if number == 0 else 2))
            before = width
        self.batchnorm = nn.BatchNorm2d(before)
        self.relu = ACTIVATIONS[activation]()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.logits = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_2d(x)
        for number in range(4):
            x = self.get_submodule(f"layer_{number}")(x)
        return cast(Tensor, self.logits(self.flatten(self.pool(self.relu(self.batchnorm(x))))))
