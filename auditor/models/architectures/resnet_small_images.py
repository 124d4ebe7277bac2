"""ResNet-18, -34 and -50 with a stem for small images."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from auditor.models.architecture import Architecture
from auditor.models.layers.residual import BasicBlock, BottleneckBlock, ResidualNetwork


class SmallImageResNet(Architecture):
    """What the three have in common; one differs from another by its blocks and how many there are in each stage."""

    blocks: ClassVar[tuple[int, int, int, int]]
    block: ClassVar[type[BasicBlock] | type[BottleneckBlock]] = BasicBlock
    width_factor: float = Field(1.0, gt=0, le=4, description="Multiplies the channels of every stage.")

    def build(self) -> nn.Module:
        """See Architecture.build."""
        widths = [max(1, round(width * self.width_factor)) for width in (64, 128, 256, 512)]
        return ResidualNetwork(self.channels, widths, self.blocks, self.num_classes, shortcut="B", block=self.block)


class ResNet18Cifar(SmallImageResNet):
    """ResNet-18 (He et al. 2016, arXiv 1512.03385, table 1) with a 3x3 stem and no first pool, for small images.

    Tensor names are those of kuangliu/pytorch-cifar (``layer1.0.conv1.weight``, ``layer2.0.shortcut.0.weight``).
    """

    kind: Literal["resnet18-cifar"] = "resnet18-cifar"
    title: ClassVar[str] = "ResNet-18 (small images)"
    blocks: ClassVar[tuple[int, int, int, int]] = (2, 2, 2, 2)


class ResNet34Cifar(SmallImageResNet):
    """ResNet-34 (He et al. 2016, arXiv 1512.03385, table 1) with a 3x3 stem and no first pool, for small images.

    Tensor names are those of kuangliu/pytorch-cifar (``layer1.0.conv1.weight``, ``layer2.0.shortcut.0.weight``).
    """

    kind: Literal["resnet34-cifar"] = "resnet34-cifar"
    title: ClassVar[str] = "ResNet-34 (small images)"
    blocks: ClassVar[tuple[int, int, int, int]] = (3, 4, 6, 3)


class ResNet50Cifar(SmallImageResNet):
    """ResNet-50 (He et al. 2016, arXiv 1512.03385, table 1) with a 3x3 stem and no first pool, for small images.

    Blocks of three convolutions; the 3x3 one takes the stride. Tensor names are those of kuangliu/pytorch-cifar
    (``layer1.0.conv3.weight``, ``layer1.0.shortcut.0.weight``).
    """

    kind: Literal["resnet50-cifar"] = "resnet50-cifar"
    title: ClassVar[str] = "ResNet-50 (small images)"
    blocks: ClassVar[tuple[int, int, int, int]] = (3, 4, 6, 3)
    block: ClassVar[type[BasicBlock] | type[BottleneckBlock]] = BottleneckBlock
