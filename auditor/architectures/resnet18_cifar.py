"""ResNet-18 with a stem for small images."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from auditor.architecture import Architecture
from auditor.residual import ResidualNetwork


class ResNet18Cifar(Architecture):
    """ResNet-18 (He et al. 2016, arXiv 1512.03385, table 1) with a 3x3 stem and no first pool, for small images.

    Tensor names are those of kuangliu/pytorch-cifar (``layer1.0.conv1.weight``, ``layer2.0.shortcut.0.weight``).
    """

    kind: Literal["resnet18-cifar"] = "resnet18-cifar"
    title: ClassVar[str] = "ResNet-18 (small images)"
    width_factor: float = Field(1.0, gt=0, le=4, description="Multiplies the channels of every stage.")

    def build(self) -> nn.Module:
        """See Architecture.build."""
        widths = [max(1, round(width * self.width_factor)) for width in (64, 128, 256, 512)]
        return ResidualNetwork(self.channels, widths, (2, 2, 2, 2), self.num_classes, shortcut="B")
