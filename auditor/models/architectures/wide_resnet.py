"""Wide ResNets, the networks of most published robust models, under the two sets of names that their files have."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator
from torch import nn

from auditor.models.architecture import Architecture
from auditor.models.layers.preactivation import Activation, PortedWideNetwork, WideNetwork


class _Wide(Architecture):
    """What both forms have in common: depth 6n + 4 with n blocks in each of three stages."""

    depth: int = Field(28, ge=10, le=106, description="Number of weighted layers: 6n + 4, such as 28, 34 or 70.")
    widen_factor: int = Field(10, ge=1, le=32, description="Width: multiplies 16, 32 and 64 channels.")

    @field_validator("depth")
    @classmethod
    def _is_whole_blocks(cls, value: int) -> int:
        if (value - 4) % 6:
            raise ValueError(
                f"expected 6n + 4, such as {value - (value - 4) % 6} or {value - (value - 4) % 6 + 6}, got {value}"
            )
        return value

    @property
    def _blocks(self) -> int:
        return (self.depth - 4) // 6


class WideResNet(_Wide):
    """Wide ResNet (Zagoruyko and Komodakis 2016, arXiv 1605.07146), such as WRN-28-10, for small images.

    Tensor names are those of TRADES and of most files of RobustBench (``block1.layer.0.conv1.weight``).
    """

    kind: Literal["wide-resnet"] = "wide-resnet"
    title: ClassVar[str] = "Wide ResNet"

    def build(self) -> nn.Module:
        """See Architecture.build."""
        return WideNetwork(self.channels, self._blocks, self.widen_factor, self.num_classes)


class WideResNetPorted(_Wide):
    """Wide ResNet as DeepMind published it for PyTorch (Gowal et al. 2020, arXiv 2010.03593), for small images.

    It pads strided convolutions on one side only. Tensor names are ``layer.0.block.0.conv_0.weight``; in RobustBench these are
    the files of Gowal2020, Gowal2021, Rebuffi2021, Pang2022 and Wang2023.
    """

    kind: Literal["wide-resnet-dm"] = "wide-resnet-dm"
    title: ClassVar[str] = "Wide ResNet (DeepMind)"
    activation: Activation = Field(
        "silu", description="Activation: silu (called Swish there) in most published files, or relu."
    )

    def build(self) -> nn.Module:
        """See Architecture.build."""
        return PortedWideNetwork(self.channels, self._blocks, self.widen_factor, self.num_classes, self.activation)
