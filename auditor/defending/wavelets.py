"""Haar wavelets: soft thresholding with a threshold of its own for every band (BayesShrink)."""

from __future__ import annotations

import torch
from torch import Tensor


def shrunk(x: Tensor, sigma: float, levels: int) -> Tensor:
    """Images (B, C, H, W) with their detail bands soft-thresholded for Gaussian noise of deviation ``sigma``.

    BayesShrink (Chang et al. 2000, 10.1109/83.862633): threshold sigma^2 / sqrt(max(mean d^2 - sigma^2, 0)) for each band of
    each channel of each image. Sides that do not halve evenly are continued by their edge.
    """
    height, width = x.shape[2:]
    if levels == 0:
        return x
    down = torch.arange(height + height % 2, device=x.device).clamp(max=height - 1)
    across = torch.arange(width + width % 2, device=x.device).clamp(max=width - 1)
    low, *details = haar(x[:, :, down][:, :, :, across])
    restored = inverse_haar(shrunk(low, sigma, levels - 1), *(_soft(band, sigma) for band in details))
    return restored[:, :, :height, :width]


def haar(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One level of the orthonormal Haar transform: mean, and details along columns, rows and the diagonal, half the size."""
    a, b, c, d = x[:, :, ::2, ::2], x[:, :, ::2, 1::2], x[:, :, 1::2, ::2], x[:, :, 1::2, 1::2]
    return (a + b + c + d) / 2, (a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2


def inverse_haar(low: Tensor, columns: Tensor, rows: Tensor, diagonal: Tensor) -> Tensor:
    """The image of twice the size."""
    top = torch.stack([low + columns + rows + diagonal, low - columns + rows - diagonal], -1).flatten(-2)
    bottom = torch.stack([low + columns - rows - diagonal, low - columns - rows + diagonal], -1).flatten(-2)
    return torch.stack([top, bottom], -2).flatten(-3, -2) / 2


def _soft(band: Tensor, sigma: float) -> Tensor:
    signal = (band.square().mean((2, 3), keepdim=True) - sigma**2).clamp_min(1e-12).sqrt()
    return band.sign() * (band.abs() - sigma**2 / signal).clamp_min(0)
