"""Inception-V3 for small images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from auditor.kit.errors import SpecError
from auditor.models.architecture import NUMBER_CHOICE, Architecture

SMALLEST = 7
"""Two 3x3 windows of stride 2, without padding: 7 pixels become 3, and these become 1."""


class Conv(NamedTuple):
    """A convolution, its batch norm and ReLU: the end of its name, channels out, height and width of its window.

    With stride 2 it is not padded; else it keeps the size.
    """

    name: str
    channels: int
    height: int
    width: int
    stride: int = 1


class Fork(NamedTuple):
    """Two convolutions of the same input, side by side."""

    left: Conv
    right: Conv


class Pool(NamedTuple):
    """A 3x3 pool: the average at stride 1, padded; or the maximum at stride 2, not padded."""

    stride: int


Path = tuple[Conv | Fork | Pool, ...]
"""What happens to the input of a block on one way through it; the ends of all paths are put together."""


def _small_windows(pooled: int) -> tuple[Path, ...]:
    """Szegedy et al. 2016, figure 5, but for the second path: one 5x5 convolution, as in the published network."""
    return (
        (Conv("1x1", 64, 1, 1),),
        (Conv("5x5_1", 48, 1, 1), Conv("5x5_2", 64, 5, 5)),
        (Conv("3x3dbl_1", 64, 1, 1), Conv("3x3dbl_2", 96, 3, 3), Conv("3x3dbl_3", 96, 3, 3)),
        (Pool(1), Conv("_pool", pooled, 1, 1)),
    )


def _long_windows(inside: int) -> tuple[Path, ...]:
    """Figure 6 with n = 7."""
    return (
        (Conv("1x1", 192, 1, 1),),
        (Conv("7x7_1", inside, 1, 1), Conv("7x7_2", inside, 1, 7), Conv("7x7_3", 192, 7, 1)),
        (
            Conv("7x7dbl_1", inside, 1, 1),
            Conv("7x7dbl_2", inside, 7, 1),
            Conv("7x7dbl_3", inside, 1, 7),
            Conv("7x7dbl_4", inside, 7, 1),
            Conv("7x7dbl_5", 192, 1, 7),
        ),
        (Pool(1), Conv("_pool", 192, 1, 1)),
    )


FIRST_REDUCTION: tuple[Path, ...] = (
    (Conv("3x3", 384, 3, 3, stride=2),),
    (Conv("3x3dbl_1", 64, 1, 1), Conv("3x3dbl_2", 96, 3, 3), Conv("3x3dbl_3", 96, 3, 3, stride=2)),
    (Pool(2),),
)
"""Figure 10."""

SECOND_REDUCTION: tuple[Path, ...] = (
    (Conv("3x3_1", 192, 1, 1), Conv("3x3_2", 320, 3, 3, stride=2)),
    (
        Conv("7x7x3_1", 192, 1, 1),
        Conv("7x7x3_2", 192, 1, 7),
        Conv("7x7x3_3", 192, 7, 1),
        Conv("7x7x3_4", 192, 3, 3, stride=2),
    ),
    (Pool(2),),
)
"""Figure 10 again, with the long windows on its second path."""

WIDE: tuple[Path, ...] = (
    (Conv("1x1", 320, 1, 1),),
    (Conv("3x3_1", 384, 1, 1), Fork(Conv("3x3_2a", 384, 1, 3), Conv("3x3_2b", 384, 3, 1))),
    (
        Conv("3x3dbl_1", 448, 1, 1),
        Conv("3x3dbl_2", 384, 3, 3),
        Fork(Conv("3x3dbl_3a", 384, 1, 3), Conv("3x3dbl_3b", 384, 3, 1)),
    ),
    (Pool(1), Conv("_pool", 192, 1, 1)),
)
"""Figure 7."""

BLOCKS: dict[str, tuple[Path, ...]] = {
    "Mixed_5b": _small_windows(32),
    "Mixed_5c": _small_windows(64),
    "Mixed_5d": _small_windows(64),
    "Mixed_6a": FIRST_REDUCTION,
    "Mixed_6b": _long_windows(128),
    "Mixed_6c": _long_windows(160),
    "Mixed_6d": _long_windows(160),
    "Mixed_6e": _long_windows(192),
    "Mixed_7a": SECOND_REDUCTION,
    "Mixed_7b": WIDE,
    "Mixed_7c": WIDE,
}
"""The blocks in their order (the paper's table 1), with the channels of the published network."""

STEMS: dict[int, tuple[Conv, ...]] = {
    5: (
        Conv("Conv2d_1a_3x3", 32, 3, 3),
        Conv("Conv2d_2a_3x3", 32, 3, 3),
        Conv("Conv2d_2b_3x3", 64, 3, 3),
        Conv("Conv2d_3b_1x1", 80, 1, 1),
        Conv("Conv2d_4a_3x3", 192, 3, 3),
    ),
    1: (Conv("Conv2d_1a_3x3", 192, 3, 3),),
}


class ConvUnit(nn.Module):
    """Convolution, batch normalization, ReLU."""

    def __init__(self, channels_in: int, spec: Conv) -> None:
        super().__init__()
        padding = (spec.height // 2, spec.width // 2) if spec.stride == 1 else (0, 0)
        self.conv = nn.Conv2d(
            channels_in, spec.channels, (spec.height, spec.width), stride=spec.stride, padding=padding, bias=False
        )
        self.bn = nn.BatchNorm2d(spec.channels, eps=0.001)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.relu(self.bn(self.conv(x))))


class InceptionBlock(nn.Module):
    """Paths side by side; their ends are put together. ``channels_out`` counts these."""

    def __init__(self, channels_in: int, paths: tuple[Path, ...]) -> None:
        super().__init__()
        self.steps: list[list[tuple[str, ...]]] = []
        self.channels_out = 0
        for path in paths:
            width, names = channels_in, []
            for step in path:
                convs = (step,) if isinstance(step, Conv) else step if isinstance(step, Fork) else ()
                for spec in convs:
                    self.add_module(f"branch{spec.name}", ConvUnit(width, spec))
                if isinstance(step, Pool):
                    self.add_module("pool", nn.AvgPool2d(3, 1, 1) if step.stride == 1 else nn.MaxPool2d(3, 2))
                names.append(tuple(f"branch{spec.name}" for spec in convs) or ("pool",))
                width = sum(spec.channels for spec in convs) or width
            self.steps.append(names)
            self.channels_out += width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._follow(path, x) for path in self.steps], dim=1)

    def _follow(self, path: list[tuple[str, ...]], x: Tensor) -> Tensor:
        for names in path:
            ends = [self.get_submodule(name)(x) for name in names]
            x = ends[0] if len(ends) == 1 else torch.cat(ends, dim=1)
        return x


class InceptionV3Network(nn.Module):
    """Convolutions, inception blocks, global average, one linear layer."""

    def __init__(self, channels: int, stem: tuple[Conv, ...], num_classes: int) -> None:
        super().__init__()
        for spec in stem:
            self.add_module(spec.name, ConvUnit(channels, spec))
            channels = spec.channels
        for name, paths in BLOCKS.items():
            block = InceptionBlock(channels, paths)
            self.add_module(name, block)
            channels = block.channels_out
        self.parts = [spec.name for spec in stem] + list(BLOCKS)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.parts:
            x = self.get_submodule(name)(x)
        return cast(Tensor, self.fc(self.flatten(self.pool(x))))


class InceptionV3(Architecture):
    """Inception-V3 (Szegedy et al. 2016, arXiv 1512.00567, table 1) whose stem keeps the size, for small images.

    The inception blocks are those of the paper, and tensor names those of torchvision
    (``Mixed_5b.branch1x1.conv.weight``, ``fc.weight``), without the auxiliary head and the dropout, which are for
    training. The stem's convolutions are padded, without strides and pools, so the blocks see a 32x32 image as
    32x32 (the paper: 299x299 as 35x35). The stem of one convolution is that of huyvnphan/PyTorch_CIFAR10.
    """

    kind: Literal["inception-v3"] = "inception-v3"
    title: ClassVar[str] = "Inception-V3 (small images)"
    stem: Annotated[Literal[1, 5], NUMBER_CHOICE] = Field(
        5, description="Convolutions before the inception blocks (the paper: 5)."
    )

    def build(self) -> nn.Module:
        """See Architecture.build. Raises SpecError if the blocks of stride 2 would leave no pixel."""
        if min(self.height, self.width) < SMALLEST:
            raise SpecError(
                f"inception-v3: expected images of at least {SMALLEST}x{SMALLEST} pixels (two of its blocks have 3x3 "
                f"windows of stride 2 without padding), got {self.height}x{self.width}.",
                "Give larger images, or describe a smaller network as sequential.",
            )
        return InceptionV3Network(self.channels, STEMS[self.stem], self.num_classes)
