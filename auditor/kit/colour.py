"""Luminance and colour differences, as JPEG has them (ITU-R BT.601 at full range)."""

from __future__ import annotations

import torch
from torch import Tensor

_FORWARD = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], dtype=torch.float64
)
_MIDDLE = torch.tensor([0.0, 128 / 255, 128 / 255], dtype=torch.float64)


def to_luma_chroma(x: Tensor) -> Tensor:
    """Images (B, 3, H, W) of R, G, B in [0, 1] as Y, Cb, Cr in [0, 1]."""
    return torch.einsum("ij,bjhw->bihw", _FORWARD.to(x), x) + _MIDDLE.to(x).view(1, 3, 1, 1)


def from_luma_chroma(x: Tensor) -> Tensor:
    """The inverse; values may leave [0, 1]."""
    return torch.einsum("ij,bjhw->bihw", _FORWARD.inverse().to(x), x - _MIDDLE.to(x).view(1, 3, 1, 1))
