"""Spatial smoothing."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.defending.defense import ImageDefense
from auditor.models.defended import Passing


class SpatialSmoothing(ImageDefense):
    """Spatial smoothing (Xu et al. 2018, arXiv 1704.01155): the median of a square window in each channel.

    The edge is mirrored. A window of even size has the pixel at its lower right middle, and the larger one of the two middle
    values counts, as in scipy and so in the Adversarial Robustness Toolbox. The gradient goes to the pixel that was taken.
    """

    title: ClassVar[str] = "Spatial smoothing"
    kind: Literal["spatial-smoothing"] = "spatial-smoothing"
    window: int = Field(2, ge=2, le=15, description="Side of the window, in pixels.")

    def transform(self, x: Tensor, passing: Passing) -> Tensor:
        mirrored = _mirrored(_mirrored(x, 2, self.window), 3, self.window)
        windows = mirrored.unfold(2, self.window, 1).unfold(3, self.window, 1).flatten(-2)
        return windows.sort(dim=-1).values[..., self.window**2 // 2]


def _mirrored(x: Tensor, dim: int, window: int) -> Tensor:
    """The images with as many pixels before and after as the window needs, c b a | a b c | c b a."""
    side = x.shape[dim]
    index = torch.arange(-(window // 2), side + (window - 1) // 2, device=x.device) % (2 * side)
    return x.index_select(dim, torch.minimum(index, 2 * side - 1 - index))
