"""Pre-activation ResNets for small images, under the two sets of names that their files have."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from auditor.models.architecture import NUMBER_CHOICE, Architecture
from auditor.models.layers.preactivation import Activation, PortedPreActNetwork, PreActNetwork

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class PreActResNet(Architecture):
    """Pre-activation ResNet-18 or -34 (He et al. 2016, arXiv 1603.05027) with a 3x3 stem and no first pool, for small images.

    Tensor names are those of kuangliu/pytorch-cifar (``layer1.0.bn1.weight``, ``linear.weight``). Published files differ in two
    points that their names do not show or show only in part: what the shortcut takes, and whether a normalization comes last.
    """

    kind: Literal["preact-resnet"] = "preact-resnet"
    title: ClassVar[str] = "PreAct ResNet"
    depth: Annotated[Literal[18, 34], NUMBER_CHOICE] = Field(18, description="Number of weighted layers.")
    shortcut_of: Literal["activated", "input"] = Field(
        "activated",
        description="What the 1x1 convolution of a shortcut takes: the activated input, as in the paper, or the input itself "
        "(in RobustBench: Andriushchenko2020, Wong2020).",
    )
    last_norm: bool = Field(
        False,
        description="Normalization and ReLU before the last layer, as in the paper (in RobustBench: Rice2020, Kireev2021); "
        "the file then has tensors named bn.",
    )

    def build(self) -> nn.Module:
        """See Architecture.build."""
        return PreActNetwork(self.channels, _BLOCKS[self.depth], self.num_classes, self.shortcut_of, self.last_norm)


class PreActResNetPorted(Architecture):
    """Pre-activation ResNet-18 or -34 as DeepMind published it for PyTorch (Gowal et al. 2020, arXiv 2010.03593).

    It pads strided convolutions on one side only, and its shortcuts are 3x3 convolutions. Tensor names are
    ``layer_0.0.conv_2d_1.weight``.
    """

    kind: Literal["preact-resnet-dm"] = "preact-resnet-dm"
    title: ClassVar[str] = "PreAct ResNet (DeepMind)"
    depth: Annotated[Literal[18, 34], NUMBER_CHOICE] = Field(18, description="Number of weighted layers.")
    activation: Activation = Field(
        "silu", description="Activation: silu (called Swish there) in most published files, or relu."
    )

    def build(self) -> nn.Module:
        """See Architecture.build."""
        return PortedPreActNetwork(self.channels, _BLOCKS[self.depth], self.num_classes, self.activation)
