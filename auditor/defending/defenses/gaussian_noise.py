"""Gaussian noise, as a control for defenses."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from auditor.defending.defense import ImageDefense
from auditor.models.defended import Passing


class GaussianNoise(ImageDefense):
    """Gaussian noise on the image: a control, which every defense that moves the image must beat.

    ``absolute``: of the same standard deviation on every image. ``nip``: noise in place of the inverse perturbation of NIP, of
    its size: times the mean of the image over the noise's own range (eq. 8 of arXiv 2112.13060).
    """

    title: ClassVar[str] = "Gaussian noise (control)"
    kind: Literal["gaussian-noise"] = "gaussian-noise"
    random: ClassVar[bool] = True
    control: ClassVar[bool] = True
    size: float = Field(0.05, ge=0, le=1, description="Standard deviation, for pixels in [0, 1].")
    scale: Literal["absolute", "nip"] = Field(
        "absolute", description="absolute: this standard deviation. nip: the size that NIP uses."
    )

    def transform(self, x: Tensor, passing: Passing) -> Tensor:
        noise = passing.random.normal(x)
        if self.scale == "absolute":
            return x + self.size * noise
        flat = noise.flatten(1)
        spread = (flat.amax(1) - flat.amin(1)).view(-1, 1, 1, 1)
        return x + x.mean((1, 2, 3), keepdim=True) * noise / spread
