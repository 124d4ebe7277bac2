"""A random direction, as a control for defenses."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from auditor.defending.defense import ImageDefense
from auditor.models.defended import Passing


class RandomDirection(ImageDefense):
    """A step in one random direction: a control. What it restores needed no knowledge of the network or of the image.

    The published code of NIP takes a step of this size, s rho / rms(rho), with the gradient at the clean twin for rho.
    """

    title: ClassVar[str] = "Random direction (control)"
    kind: Literal["random-direction"] = "random-direction"
    random: ClassVar[bool] = True
    control: ClassVar[bool] = True
    size: float = Field(0.05, ge=0, le=1, description="Root mean square of the step over all values of the image.")

    def transform(self, x: Tensor, passing: Passing) -> Tensor:
        direction = passing.random.normal(x)
        length = direction.square().mean((1, 2, 3), keepdim=True).sqrt()
        return x + self.size * direction / length
