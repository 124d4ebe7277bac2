"""ResNet-20, -32, -44 and -56 for CIFAR images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from auditor.models.architecture import NUMBER_CHOICE, Architecture
from auditor.models.layers.residual import ResidualNetwork


class ResNetCifar(Architecture):
    """The thin residual networks for CIFAR (He et al. 2016, arXiv 1512.03385, section 4.2): 16, 32, 64 channels.

    Tensor names are those of akamaster/pytorch_resnet_cifar10 (``layer1.0.conv1.weight``, ``linear.weight``).
    """

    kind: Literal["resnet-cifar"] = "resnet-cifar"
    title: ClassVar[str] = "ResNet (CIFAR form)"
    depth: Annotated[Literal[20, 32, 44, 56], NUMBER_CHOICE] = Field(20, description="Number of weighted layers.")
    shortcut: Literal["A", "B"] = Field(
        "A", description="Shortcut where the shape changes: A pads with zeros, B is a 1x1 convolution."
    )

    def build(self) -> nn.Module:
        """See Architecture.build; depth is 6n + 2, with n blocks in each of the three stages."""
        per_stage = (self.depth - 2) // 6
        return ResidualNetwork(self.channels, (16, 32, 64), (per_stage,) * 3, self.num_classes, self.shortcut)
