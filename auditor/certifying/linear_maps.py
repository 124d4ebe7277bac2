"""Linear maps between two values of a network, in double precision: forwards, transposed, and with absolute entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input

from auditor.certifying.crops import Crop
from auditor.models.tracing import IntPair


class LinearMap(Protocol):
    """y = A x for each image of a batch. ``terms``: the longest sum that one entry of y is (1: no sum)."""

    @property
    def terms(self) -> int: ...

    def __call__(self, x: Tensor) -> Tensor:
        """A x, from (B, *shape in) to (B, *shape out)."""

    def absolute(self, x: Tensor) -> Tensor:
        """\\|A\\| x, with the absolute value of every entry of A."""

    def transposed(self, rows: Tensor) -> Tensor:
        """A^T y for each of the rows, from (R, *shape out) to (R, *shape in)."""

    def cropped(self, rows: Crop) -> Crop | None:
        """The same for windows of maps; None where the window would not stay one."""


@dataclass(frozen=True)
class Same:
    """The value as it is."""

    terms: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        return x

    absolute = transposed = __call__

    def cropped(self, rows: Crop) -> Crop:
        return rows


@dataclass(frozen=True)
class Scaling:
    """A factor for each entry: ``factor`` broadcasts over (B, *shape)."""

    factor: Tensor
    terms: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.factor

    transposed = __call__

    def absolute(self, x: Tensor) -> Tensor:
        return x * self.factor.abs()

    def cropped(self, rows: Crop) -> Crop | None:
        by_channel = self.factor.dim() < 3 or self.factor.shape[-2:] == (1, 1)
        return rows.with_values(rows.values * self.factor) if by_channel else None


@dataclass(frozen=True)
class Matrix:
    """A matrix on the last dimension. ``weight``: (out, in)."""

    weight: Tensor

    @property
    def terms(self) -> int:
        return self.weight.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)

    def absolute(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.abs())

    def transposed(self, rows: Tensor) -> Tensor:
        return rows @ self.weight

    def cropped(self, rows: Crop) -> None:
        return None


@dataclass(frozen=True)
class Convolution:
    """A convolution with zeros around. ``weight``: (Cout, Cin / groups, rows, columns); ``shape``: (Cin, H, W)."""

    weight: Tensor
    shape: tuple[int, ...]
    stride: IntPair
    padding: IntPair
    dilation: IntPair
    groups: int

    @property
    def terms(self) -> int:
        return self.weight[0].numel()

    def _apply(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def __call__(self, x: Tensor) -> Tensor:
        return self._apply(x, self.weight)

    def absolute(self, x: Tensor) -> Tensor:
        return self._apply(x, self.weight.abs())

    def transposed(self, rows: Tensor) -> Tensor:
        size = [len(rows), *self.shape]
        return conv2d_input(size, self.weight, rows, self.stride, self.padding, self.dilation, self.groups)

    def cropped(self, rows: Crop) -> Crop:
        values = functional.conv_transpose2d(
            rows.values, self.weight, None, self.stride, 0, 0, self.groups, self.dilation
        )
        top, left = rows.top * self.stride[0] - self.padding[0], rows.left * self.stride[1] - self.padding[1]
        return Crop(values, top, left).within(self.shape[1], self.shape[2])


@dataclass(frozen=True)
class Reshaping:
    """The same entries in another shape: ``before`` to ``after``, without the batch."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    terms: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.after)

    absolute = __call__

    def transposed(self, rows: Tensor) -> Tensor:
        return rows.reshape(len(rows), *self.before)

    def cropped(self, rows: Crop) -> None:
        return None


@dataclass(frozen=True)
class Nonnegative:
    """A linear function with no negative entry: averages, selections, permutations, zeros around. ``shape``: of its input."""

    function: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    terms: int

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    absolute = __call__

    def transposed(self, rows: Tensor) -> Tensor:
        with torch.enable_grad():
            point = rows.new_zeros(len(rows), *self.shape).requires_grad_()
            (turned,) = torch.autograd.grad(self.function(point), point, rows)
        return turned

    def cropped(self, rows: Crop) -> None:
        return None
