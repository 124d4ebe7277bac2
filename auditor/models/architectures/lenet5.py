"""LeNet-5 for 28x28 and 32x32 images."""

from __future__ import annotations

from typing import ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from auditor.kit.errors import SpecError
from auditor.models.architecture import Architecture

Activation = Literal["relu", "tanh"]
Pooling = Literal["max", "avg"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
POOLINGS: dict[Pooling, type[nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
PAPER_SIDE = 32


class LeNet5Network(nn.Module):
    """Two convolutions with pools, three linear layers; ``flat`` values enter the first of these."""

    def __init__(
        self, channels: int, padding: int, flat: int, num_classes: int, activation: Activation, pooling: Pooling
    ) -> None:
        super().__init__()
        act, pool = ACTIVATIONS[activation], POOLINGS[pooling]
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=padding)
        self.act1 = act()
        self.pool1 = pool(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.act2 = act()
        self.pool2 = pool(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(flat, 120)
        self.act3 = act()
        self.fc2 = nn.Linear(120, 84)
        self.act4 = act()
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.act1(self.conv1(x)))
        x = self.pool2(self.act2(self.conv2(x)))
        x = self.act3(self.fc1(self.flatten(x)))
        return cast(Tensor, self.fc3(self.act4(self.fc2(x))))


class LeNet5(Architecture):
    """LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition", section II.B).

    As it is written today: all of the first convolution's channels feed the second, the pools have no weights, and a
    linear layer takes the place of the radial basis functions. Tensors are named conv1, conv2, fc1, fc2, fc3.
    """

    kind: Literal["lenet5"] = "lenet5"
    title: ClassVar[str] = "LeNet-5"
    channels: int = Field(1, ge=1, le=16, description="Channels of an image (1 for grey, 3 for colour).")
    height: int = Field(28, ge=4, le=1024, description="Height of an image in pixels.")
    width: int = Field(28, ge=4, le=1024, description="Width of an image in pixels.")
    activation: Activation = Field("relu", description="Activation after each layer but the last (the paper: tanh).")
    pooling: Pooling = Field("max", description="Pool after each convolution (the paper: average).")
    pad: bool = Field(
        True, description="Pad images below 32 pixels by 2 on every side, as the paper pads 28x28 digits to 32x32."
    )

    def build(self) -> nn.Module:
        """See Architecture.build."""
        padding = 2 if self.pad and min(self.height, self.width) < PAPER_SIDE else 0
        rows, columns = (_after_pools(side + 2 * padding) for side in (self.height, self.width))
        if min(rows, columns) < 1:
            raise SpecError(
                f"lenet5: expected images of at least {16 - 2 * padding}x{16 - 2 * padding} pixels (its two 5x5 "
                f"convolutions and pools need that), got {self.height}x{self.width}.",
                "Give larger images, or describe a smaller network as sequential.",
            )
        return LeNet5Network(
            self.channels, padding, 16 * rows * columns, self.num_classes, self.activation, self.pooling
        )


def _after_pools(side: int) -> int:
    """Pixels left of ``side`` after two rounds of a 5x5 convolution and a pool by 2."""
    return ((side - 4) // 2 - 4) // 2
