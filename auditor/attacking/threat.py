"""ThreatModel: how far an attacker may move an image; Ball: the same for each row of a batch, with its geometry."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from auditor.kit.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from auditor.attacking.geometry import Geometry
    from auditor.kit.randomness import RowRandom


class Norm(StrEnum):
    """The norm that measures a perturbation, over all pixels and channels of one image; L0 counts the pixels changed."""

    LINF = "linf"
    L2 = "l2"
    L1 = "l1"
    L0 = "l0"

    @property
    def symbol(self) -> str:
        return {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}[self.value]

    def largest(self, shape: tuple[int, int, int]) -> float:
        """The largest distance between two images of this shape, (C, H, W)."""
        channels, height, width = shape
        entries = channels * height * width
        return {"linf": 1.0, "l2": entries**0.5, "l1": float(entries), "l0": float(height * width)}[self.value]


def parse_epsilon(value: Any) -> Any:
    """``"8/255"`` -> 0.03137...; everything else is left to pydantic."""
    if isinstance(value, str) and "/" in value:
        try:
            above, below = value.split("/")
            return float(Fraction(above.strip()) / Fraction(below.strip()))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"expected a number or a fraction such as 8/255, got {value!r}") from None
    return value


Epsilon = Annotated[float, BeforeValidator(parse_epsilon), Field(gt=0, allow_inf_nan=False)]


def show_epsilon(epsilon: float) -> str:
    """As people write it: ``0.1`` where three digits say it exactly, ``8/255`` for multiples of a quarter of 1/255."""
    quarters = round(4 * 255 * epsilon)
    if float(f"{epsilon:.3g}") != epsilon and 0 < quarters <= 4 * 64 and abs(4 * 255 * epsilon - quarters) < 1e-6:
        return f"{quarters / 4:g}/255"
    return f"{epsilon:.4g}"


class ThreatModel(BaseModel):
    """A ball of radius ``epsilon`` around each image, cut by the box [0, 1].

    Epsilon is in units of the images, which lie in [0, 1]; in L0 it is a number of pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    norm: Norm = Field(Norm.LINF, description="Norm that measures the perturbation.")
    epsilon: Epsilon = Field(8 / 255, description="Largest perturbation allowed, for pixels in [0, 1]; in L0, pixels.")

    @model_validator(mode="after")
    def _whole_pixels(self) -> ThreatModel:
        if self.norm is Norm.L0 and self.epsilon != int(self.epsilon):
            raise ValueError(f"epsilon: expected a whole number of pixels in L0, got {self.epsilon:g}")
        return self

    def __str__(self) -> str:
        return f"{self.norm.symbol} ε = {show_epsilon(self.epsilon)}"

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raises SpecError if no two images of this shape, (C, H, W), are so far apart."""
        largest = self.norm.largest(shape)
        if self.epsilon <= largest * (1 + 1e-9):
            return
        unit = "changed pixels" if self.norm is Norm.L0 else "for pixels in [0, 1]"
        levels = self.norm is not Norm.L0 and self.epsilon / 255 <= largest
        raise SpecError(
            f"epsilon: expected at most {largest:.6g} in {self.norm.symbol} ({unit}), got {self.epsilon:.6g}: no two images of "
            f"{'x'.join(map(str, shape))} are farther apart.",
            f"Did you mean {self.epsilon:.6g}/255?" if levels else f"Give a number up to {largest:.6g}.",
        )

    def ball(self, like: Tensor) -> Ball:
        """This ball around each image of a batch."""
        return Ball(self.norm, like.new_full((len(like), 1, 1, 1), self.epsilon))


@dataclass(frozen=True)
class Ball:
    """A ball around each image of a batch: images are float (B, C, H, W) in [0, 1], ``epsilon`` is (B, 1, 1, 1)."""

    norm: Norm
    epsilon: Tensor

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The point of (ball around ``x``) ∩ [0, 1] that the harness allows for ``x_adv``; shape of ``x``.

        Ball first, box second: the box step moves towards ``x`` in every coordinate, so the ball still holds.
        """
        return (x + self._geometry.shrink(x_adv - x, self.epsilon)).clamp(0, 1)

    def shrink(self, delta: Tensor) -> Tensor:
        """The nearest perturbation (in L2) within the radius, whatever the box."""
        return self._geometry.shrink(delta, self.epsilon)

    def steepest(self, gradient: Tensor, x_adv: Tensor) -> Tensor:
        """A direction of unit norm from ``x_adv`` along which the loss grows fast; zero where the gradient is zero.

        In L∞ and L2 it has the largest inner product with the gradient that is possible.
        """
        return self._geometry.steepest(gradient, x_adv)

    def sample(self, x: Tensor, random: RowRandom) -> Tensor:
        """A point uniform in the ball around each image (before the box)."""
        return x + self.epsilon * self._geometry.uniform(x, random)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Norm of the perturbation of each image, shape (B,)."""
        return self._geometry.length(x_adv - x)

    def dual_length(self, gradient: Tensor) -> Tensor:
        """How fast a linear function with this gradient can grow per unit of the norm, (B,)."""
        return self._geometry.dual_length(gradient)

    @property
    def grain(self) -> float:
        """The least by which two radii can usefully differ: one pixel in L0, else nothing."""
        return self._geometry.grain

    def onto_plane(self, x: Tensor, normal: Tensor, offset: Tensor) -> Tensor:
        """The smallest step from ``x`` to the plane ``normal . z + offset = 0`` that stays in the box; offset is (B,)."""
        return self._geometry.onto_plane(x, normal, offset)

    @property
    def _geometry(self) -> type[Geometry]:
        from auditor.attacking import geometry  # threat models are read where torch is not wanted

        by_norm: dict[Norm, type[Geometry]] = {
            Norm.LINF: geometry.Linf,
            Norm.L2: geometry.L2,
            Norm.L1: geometry.L1,
            Norm.L0: geometry.L0,
        }
        return by_norm[self.norm]
