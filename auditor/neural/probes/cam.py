"""Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391), split into two groups of channels, and drawn over the image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from auditor.neural.probes.layer_gradient import Slope


class SplitCam(NamedTuple):
    """Heat maps of the channels ``inside`` a group and ``outside`` it, (B, H, W), not negative."""

    inside: Tensor
    outside: Tensor

    @property
    def share(self) -> Tensor:
        """Mass inside divided by that of both, float64 (B,); NaN where both maps are zero."""
        inside, outside = (cam.double().sum((1, 2)) for cam in self)
        return inside / (inside + outside)

    def normalized(self) -> SplitCam:
        """Both divided by the largest value of either, image by image, to be compared (Li et al., section 4.3)."""
        largest = torch.maximum(self.inside.amax((1, 2)), self.outside.amax((1, 2)))[:, None, None]
        scale = largest.masked_fill(largest == 0, 1)
        return SplitCam(self.inside / scale, self.outside / scale)


def split_cam(slope: Slope, inside: Tensor) -> SplitCam:
    """ReLU of the sum of each group's maps, weighted by the mean of the logit's gradient over their positions.

    ``slope``: output of a layer (B, M, H, W) and gradient of the class's logit by it. ``inside``: bool (M,), (1, M) or (B, M).
    """
    weighted = slope.gradient.mean((2, 3), keepdim=True) * slope.output
    members = inside.view(-1, inside.shape[-1], 1, 1).to(weighted)
    return SplitCam((weighted * members).sum(1).relu(), (weighted * (1 - members)).sum(1).relu())


def overlay(x: Tensor, heat: Tensor) -> Tensor:
    """A heat map (h, w) in [0, 1], bilinearly enlarged, over an image (C, H, W): half the image, half black-red-yellow-white."""
    warm = interpolate(heat[None, None].to(x), size=x.shape[1:], mode="bilinear", align_corners=False)[0, 0]
    colour = torch.stack([(3 * warm - step).clamp(0, 1) for step in range(3)])
    picture = x if x.shape[0] == 3 else x[:1].expand(3, -1, -1)
    return (picture + colour) / 2
