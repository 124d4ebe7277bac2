"""Feature denoising blocks (Xie et al. 2019, arXiv 1812.03411)."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

Filter = Literal["median", "mean", "nonlocal_gaussian", "nonlocal_dot"]


class Denoise(nn.Module):
    """x + BN(conv1x1(filter(x))), BN with a scale of 0 at first, so a new block changes nothing."""

    def __init__(self, channels: int, kind: Filter) -> None:
        super().__init__()
        self.kind = kind
        half = max(1, channels // 2)
        if kind == "nonlocal_gaussian":
            self.theta = nn.Conv2d(channels, half, 1, bias=False)
            self.phi = nn.Conv2d(channels, half, 1, bias=False)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.norm(self.conv(self._filtered(x))))

    def _filtered(self, x: Tensor) -> Tensor:
        if self.kind == "median":
            return median(x)
        if self.kind == "mean":
            return avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        flat = x.flatten(2)
        if self.kind == "nonlocal_dot":
            # (x^T x) x / N, multiplied from the right: N x N would be large. The sum over positions of x x^T comes first.
            return ((flat @ flat.transpose(1, 2)) @ flat / flat.shape[2]).view_as(x)
        theta, phi = self.theta(x).flatten(2), self.phi(x).flatten(2)
        weights = (theta.transpose(1, 2) @ phi / theta.shape[1] ** 0.5).softmax(2)
        return (flat @ weights.transpose(1, 2)).view_as(x)


def median(x: Tensor) -> Tensor:
    """Median of each 3x3 neighbourhood, (B, C, H, W); the edge is repeated outwards."""
    height, width = x.shape[2], x.shape[3]
    framed = pad(x, (1, 1, 1, 1), mode="replicate")
    near = [framed[:, :, down : down + height, right : right + width] for down in range(3) for right in range(3)]
    return torch.stack(near).median(0).values
