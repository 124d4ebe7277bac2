"""JPEG compression as a defense."""

from __future__ import annotations

from io import BytesIO
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from auditor.defending.defense import Backward, ImageDefense
from auditor.models.defended import Passing


class JPEGCompression(ImageDefense):
    """JPEG compression (Dziugaite et al. 2016, arXiv 1608.00853), by Pillow; the adaptive attacker ignores it backwards.

    Images of three channels are compressed as colour, at half the resolution for colour as Pillow does by default; of any
    other number, each channel as grey.
    """

    title: ClassVar[str] = "JPEG compression"
    kind: Literal["jpeg"] = "jpeg"
    backward: ClassVar[Backward] = "identity"
    quality: int = Field(80, ge=1, le=95, description="Quality of the compression.")
    rounding: Literal["nearest", "down"] = Field(
        "nearest",
        description="How values become the 256 levels of a file; the Adversarial Robustness Toolbox truncates.",
    )

    def transform(self, x: Tensor, passing: Passing) -> Tensor:
        scaled = (255 * x).round() if self.rounding == "nearest" else (255 * x).floor()
        pixels = scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        compressed = np.stack([self._compressed(item) for item in pixels])
        return torch.from_numpy(compressed).permute(0, 3, 1, 2).to(x) / 255

    def _compressed(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One image (H, W, C)."""
        if pixels.shape[2] == 3:
            return self._reread(pixels)
        return np.stack([self._reread(np.ascontiguousarray(pixels[:, :, c])) for c in range(pixels.shape[2])], 2)

    def _reread(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        stream = BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=self.quality)
        return np.asarray(Image.open(stream))
