"""ThreatModel: how far an attacker may move an image, as a value that projects, steps, samples and measures."""

from __future__ import annotations

from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor

    from auditor.randomness import RowRandom


class Norm(StrEnum):
    """The norm that measures a perturbation (over all pixels and channels of one image)."""

    LINF = "linf"
    L2 = "l2"

    @property
    def symbol(self) -> str:
        return {"linf": "L∞", "l2": "L2"}[self.value]


def parse_epsilon(value: Any) -> Any:
    """``"8/255"`` -> 0.03137...; everything else is left to pydantic."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value.replace(" ", "")))
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

    Images are float tensors of shape (B, C, H, W) in [0, 1]; epsilon is in the same units.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    norm: Norm = Field(Norm.LINF, description="Norm that measures the perturbation.")
    epsilon: Epsilon = Field(8 / 255, description="Largest perturbation allowed, for pixels in [0, 1].")

    def __str__(self) -> str:
        return f"{self.norm.symbol} ε = {show_epsilon(self.epsilon)}"

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The point of (ball around ``x``) ∩ [0, 1] that the harness allows for ``x_adv``; shape of ``x``.

        Ball first, box second: the box step moves towards ``x`` in every coordinate, so the ball still holds.
        """
        return (x + _GEOMETRY[self.norm].shrink(x_adv - x, self.epsilon)).clamp(0, 1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of unit norm with the largest inner product with ``gradient``; zero where the gradient is zero."""
        return _GEOMETRY[self.norm].steepest(gradient)

    def sample(self, x: Tensor, random: RowRandom) -> Tensor:
        """A point uniform in the ball around each image (before the box)."""
        return x + self.epsilon * _GEOMETRY[self.norm].uniform(x, random)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Norm of the perturbation of each image, shape (B,)."""
        return _GEOMETRY[self.norm].length(x_adv - x)


class _Linf:
    @staticmethod
    def length(delta: Tensor) -> Tensor:
        return delta.abs().flatten(1).amax(1)

    @staticmethod
    def shrink(delta: Tensor, epsilon: float) -> Tensor:
        return delta.clamp(-epsilon, epsilon)

    @staticmethod
    def steepest(gradient: Tensor) -> Tensor:
        return gradient.sign()

    @staticmethod
    def uniform(x: Tensor, random: RowRandom) -> Tensor:
        return 2 * random.uniform(x) - 1


class _L2:
    @staticmethod
    def length(delta: Tensor) -> Tensor:
        return delta.flatten(1).norm(dim=1)

    @staticmethod
    def shrink(delta: Tensor, epsilon: float) -> Tensor:
        length = _rows(_L2.length(delta), delta)
        return delta * (epsilon / length.clamp_min(epsilon))

    @staticmethod
    def steepest(gradient: Tensor) -> Tensor:
        # Scaled by the largest entry first, so that the square of a small gradient does not underflow.
        scaled = gradient / _rows(_Linf.length(gradient), gradient).clamp_min(1e-38)
        return scaled / _rows(_L2.length(scaled), gradient).clamp_min(1e-12)

    @staticmethod
    def uniform(x: Tensor, random: RowRandom) -> Tensor:
        # Direction from a normal, radius u^(1/d): uniform in the unit ball of dimension d.
        direction = _L2.steepest(random.normal(x))
        radius = random.uniform(x.flatten(1)[:, :1]) ** (1 / x[0].numel())
        return direction * _rows(radius[:, 0], x)


_GEOMETRY: dict[Norm, type[_Linf] | type[_L2]] = {Norm.LINF: _Linf, Norm.L2: _L2}


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))
