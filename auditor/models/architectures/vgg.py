"""VGG networks for small images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from auditor.models.architecture import NUMBER_CHOICE, Architecture

POOL = 0
LAYERS = {
    11: (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL),
    13: (64, 64, POOL, 128, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL),
    16: (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512, POOL),
    19: (64, 64, POOL, 128, 128, POOL) + (256,) * 4 + (POOL,) + (512,) * 4 + (POOL,) + (512,) * 4 + (POOL,),
}
"""Depth -> channels of each convolution, and the pools between (Simonyan and Zisserman 2015, table 1: A, B, D, E)."""


class VGGNetwork(nn.Module):
    """Convolutions and pools, the average over the rest of the image, one linear layer."""

    def __init__(self, features: nn.Sequential, width: int, num_classes: int) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.flatten(self.pool(self.features(x)))))


class VGG(Architecture):
    """VGG (Simonyan and Zisserman 2015, arXiv 1409.1556) in the form used for CIFAR: one linear layer as head.

    Tensor names are those of kuangliu/pytorch-cifar (``features.0.weight``, ``classifier.weight``). A pool that
    would leave less than one pixel is left out; what remains of the image is averaged, so the head has the same shape
    for every image size.
    """

    kind: Literal["vgg"] = "vgg"
    title: ClassVar[str] = "VGG (CIFAR form)"
    depth: Annotated[Literal[11, 13, 16, 19], NUMBER_CHOICE] = Field(16, description="Number of weighted layers.")
    batch_norm: bool = Field(True, description="Batch normalization after every convolution.")
    width_factor: float = Field(1.0, gt=0, le=4, description="Multiplies the channels of every convolution.")

    def build(self) -> nn.Module:
        """See Architecture.build."""
        features = nn.Sequential()
        channels, side = self.channels, min(self.height, self.width)
        for entry in LAYERS[self.depth]:
            if entry == POOL:
                # An Identity keeps the place, so the layers after it have their usual numbers.
                features.append(nn.MaxPool2d(2) if side >= 2 else nn.Identity())
                side = max(1, side // 2)
                continue
            width = max(1, round(entry * self.width_factor))
            features.append(nn.Conv2d(channels, width, 3, padding=1))
            if self.batch_norm:
                features.append(nn.BatchNorm2d(width))
            features.append(nn.ReLU())
            channels = width
        return VGGNetwork(features, channels, self.num_classes)
