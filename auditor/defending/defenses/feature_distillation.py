"""Feature distillation."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.defending.defense import Backward, ImageDefense
from auditor.kit.colour import from_luma_chroma, to_luma_chroma
from auditor.models.defended import Passing

BLOCK = 8


class FeatureDistillation(ImageDefense):
    """Feature distillation (Liu et al. 2019, arXiv 1803.05787): JPEG with a table that preserves the 15 lowest
    frequencies.

    8 x 8 blocks of Y, Cb and Cr (or of a single channel) go through the cosine transform; the 15 frequencies with
    i + j < 5 are rounded to multiples of one level, the others to multiples of 1 + ``step`` levels, both scaled by the quality
    factor as in JPEG. At factor 100, the value that the NIP paper states, every step is one level: only rounding
    changes the image. Images whose sides are no multiples of 8 are continued by their edge. The adaptive attacker
    ignores it backwards.
    """

    title: ClassVar[str] = "Feature distillation"
    kind: Literal["feature-distillation"] = "feature-distillation"
    backward: ClassVar[Backward] = "identity"
    factor: int = Field(50, ge=1, le=100, description="Quality factor; the authors' code takes 50.")
    step: int = Field(40, ge=0, le=254, description="Coarser step of the high frequencies, in levels of 256.")

    def table(self) -> Tensor:
        """Quantization steps (8, 8), in levels of 256, float64."""
        index = torch.arange(BLOCK)
        low = index[:, None] + index < 5
        steps = torch.where(low, 1.0, 1.0 + self.step).double()
        scale = 5000 / self.factor if self.factor < 50 else 200 - 2 * self.factor
        return ((steps * scale + 50) / 100).clamp(1, 255)

    def transform(self, x: Tensor, passing: Passing) -> Tensor:
        colour = x.shape[1] == 3
        levels = 255 * (to_luma_chroma(x.double()) if colour else x.double()) - 128
        distilled = (self._rounded(levels) + 128) / 255
        return (from_luma_chroma(distilled) if colour else distilled).to(x.dtype)

    def _rounded(self, levels: Tensor) -> Tensor:
        batch, channels, height, width = levels.shape
        rows, columns = (-(-side // BLOCK) for side in (height, width))
        down, across = (torch.arange(count * BLOCK, device=levels.device) for count in (rows, columns))
        whole = levels[:, :, down.clamp(max=height - 1)][:, :, :, across.clamp(max=width - 1)]
        blocks = whole.view(batch, channels, rows, BLOCK, columns, BLOCK).transpose(3, 4)
        matrix, table = cosine_matrix().to(levels), self.table().to(levels)
        spectrum = matrix @ blocks @ matrix.T
        restored = matrix.T @ ((spectrum / table).round() * table) @ matrix
        return restored.transpose(3, 4).reshape(whole.shape)[:, :, :height, :width]


def cosine_matrix() -> Tensor:
    """The orthonormal discrete cosine transform of 8 values, (8, 8), float64."""
    index = torch.arange(BLOCK).double()
    matrix = ((2 * index + 1) * index[:, None] * torch.pi / (2 * BLOCK)).cos() * (2 / BLOCK) ** 0.5
    matrix[0] /= 2**0.5
    return matrix
