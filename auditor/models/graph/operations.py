"""The modules of a graph that PyTorch has no module for: arithmetic, shapes, pools with uneven padding.

Each ``forward`` calls the functions that the analyses of routes know (``operator.add``, ``torch.cat``, ``torch.mean``), so a
trace shows what a hand-written network would show.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ARITHMETIC: dict[str, Callable[[Any, Any], Tensor]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "power": operator.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "matmul": torch.matmul,
}

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "erf": torch.erf,
    "exp": torch.exp,
    "log": torch.log,
    "negative": torch.neg,
    "reciprocal": torch.reciprocal,
    "sign": torch.sign,
    "sqrt": torch.sqrt,
}

REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "max": torch.amax,
    "min": torch.amin,
}


class Arithmetic(nn.Module):
    """Two tensors, or a tensor and a number (the number first where ``number_first``), broadcast against each other."""

    def __init__(self, function: str, number: float | None = None, number_first: bool = False) -> None:
        super().__init__()
        self.function, self.number, self.number_first = function, number, number_first

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        operation = ARITHMETIC[self.function]
        if b is not None:
            return operation(a, b)
        return operation(self.number, a) if self.number_first else operation(a, self.number)

    def extra_repr(self) -> str:
        return self.function if self.number is None else f"{self.function}, {self.number:g}"


class Elementwise(nn.Module):
    """A function of each value that is not an activation of PyTorch's."""

    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return FUNCTIONS[self.function](x)

    def extra_repr(self) -> str:
        return self.function


class Clamp(nn.Module):
    """Values kept from ``low`` to ``high``; either may be absent."""

    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(x, self.low, self.high)


class SlopedHardsigmoid(nn.Hardsigmoid):
    """min(max(alpha x + beta, 0), 1); Keras has alpha 0.2, PyTorch 1/6."""

    def __init__(self, alpha: float, beta: float) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(self.alpha * x + self.beta, 0.0, 1.0)


class PaddedMaxPool2d(nn.MaxPool2d):
    """A max pool over a map padded unevenly, (left, right, top, bottom); the padding never wins."""

    def __init__(self, *args: Any, pad: tuple[int, int, int, int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, self.pad, value=-torch.inf))


class PaddedAvgPool2d(nn.AvgPool2d):
    """An average pool over a map padded unevenly, (left, right, top, bottom); the padding is not counted."""

    def __init__(self, *args: Any, pad: tuple[int, int, int, int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        counted = super().forward(functional.pad(torch.ones_like(x[:1, :1]), self.pad))
        return super().forward(functional.pad(x, self.pad)) / counted


class Reduce(nn.Module):
    """Mean, sum, maximum or minimum over dimensions."""

    def __init__(self, function: str, dims: tuple[int, ...], keepdim: bool) -> None:
        super().__init__()
        self.function, self.dims, self.keepdim = function, dims, keepdim

    def forward(self, x: Tensor) -> Tensor:
        return REDUCTIONS[self.function](x, self.dims, keepdim=self.keepdim)

    def extra_repr(self) -> str:
        return f"{self.function}, dims={self.dims}, keepdim={self.keepdim}"


class Concat(nn.Module):
    """Tensors one after another in a dimension. ``batch`` is the dimension of the images: the parts
    numbered in ``held`` are the network's own, have size 1 there, and are repeated for each image. ``rank``: dimensions."""

    def __init__(self, dim: int, batch: int, rank: int, held: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.dim, self.batch, self.rank, self.held = dim, batch, rank, held

    def forward(self, *parts: Tensor) -> Tensor:
        if not self.held:
            return torch.cat(parts, self.dim)
        images = next(part for index, part in enumerate(parts) if index not in self.held).shape[self.batch]
        repeated = [
            part.expand([images if dim == self.batch else -1 for dim in range(self.rank)])
            if index in self.held
            else part
            for index, part in enumerate(parts)
        ]
        return torch.cat(repeated, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Slice(nn.Module):
    """Positions ``start`` to ``stop`` of a dimension, each ``step``-th."""

    def __init__(self, dim: int, start: int, stop: int, step: int) -> None:
        super().__init__()
        self.dim, self.start, self.stop, self.step = dim, start, stop, step

    def forward(self, x: Tensor) -> Tensor:
        return x[(*[slice(None)] * self.dim, slice(self.start, self.stop, self.step))]

    def extra_repr(self) -> str:
        return f"dim={self.dim}, {self.start}:{self.stop}:{self.step}"


class Take(nn.Module):
    """Some positions of a dimension, in an order; a single one without the dimension."""

    def __init__(self, dim: int, positions: tuple[int, ...], single: bool) -> None:
        super().__init__()
        self.dim, self.positions, self.single = dim, positions, single

    def forward(self, x: Tensor) -> Tensor:
        if self.single:
            return x.select(self.dim, self.positions[0])
        return x.index_select(self.dim, torch.tensor(self.positions, device=x.device))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, positions={self.positions}"


class Reshape(nn.Module):
    """The values in another shape; -1 stands for the dimension of the images."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return torch.reshape(x, self.shape)

    def extra_repr(self) -> str:
        return str(self.shape)


class Permute(nn.Module):
    """The dimensions in another order."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return torch.permute(x, self.dims)

    def extra_repr(self) -> str:
        return str(self.dims)


class Expand(nn.Module):
    """Dimensions of size 1 repeated; -1 leaves a dimension as it is."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(self.shape)

    def extra_repr(self) -> str:
        return str(self.shape)


class Pad(nn.Module):
    """Padding in the order of ``torch.nn.functional.pad``: last dimension first."""

    def __init__(self, pad: tuple[int, ...], mode: str, value: float) -> None:
        super().__init__()
        self.pad, self.mode, self.value = pad, mode, value

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "constant":
            return functional.pad(x, self.pad, value=self.value)
        return functional.pad(x, self.pad, mode=self.mode)

    def extra_repr(self) -> str:
        return f"{self.pad}, {self.mode}"


class Einsum(nn.Module):
    """Products summed as an equation says."""

    def __init__(self, equation: str) -> None:
        super().__init__()
        self.equation = equation

    def forward(self, *parts: Tensor) -> Tensor:
        return torch.einsum(self.equation, *parts)

    def extra_repr(self) -> str:
        return self.equation


class Attention(nn.Module):
    """softmax(scale Q K') V, each (B, heads, tokens, width)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return torch.softmax(self.scale * (query @ key.transpose(-2, -1)), -1) @ value

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}"
