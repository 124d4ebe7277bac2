"""Operations that are not linear, with linear functions that lie below and above them between known bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from auditor.certifying.crops import Crop
from auditor.models.tracing import Window


class Turned(NamedTuple):
    """Coefficients of the input for each row, (R, *shape in), and what the relaxation adds to the rows' constants, (R,)."""

    rows: Crop | Tensor
    constant: Tensor


class Relaxation(Protocol):
    """Linear bounds of an operation for every image of a batch."""

    def below(self, rows: Crop | Tensor, image: Tensor) -> Turned:
        """A linear function of the input below ``rows`` times the output, (R, *shape out). ``image``: that of each row, (R,)."""


class Nonlinear(Protocol):
    """An operation whose every output grows, or stays, with every input."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def magnitude(self, x: Tensor) -> Tensor:
        """What the output, and every coefficient and constant of its relaxation, stays below where the input stays below x."""

    def open(self, low: Tensor, high: Tensor) -> Tensor:
        """Entries of the input whose bounds, (B, *shape), tighter ones would improve the relaxation of; bool."""

    def relaxed(self, low: Tensor, high: Tensor) -> Relaxation:
        """Between these bounds of the input, (B, *shape)."""


@dataclass(frozen=True)
class Lines:
    """``lower`` times the input lies below, ``upper`` times the input plus ``shift`` above; each (B, *shape)."""

    lower: Tensor
    upper: Tensor
    shift: Tensor

    def below(self, rows: Crop | Tensor, image: Tensor) -> Turned:
        if isinstance(rows, Crop):
            values = rows.values
            lower, upper, shift = (rows.taken(item, image) for item in (self.lower, self.upper, self.shift))
        else:
            values = rows
            lower, upper, shift = self.lower[image], self.upper[image], self.shift[image]
        above, under = values.clamp(min=0), values.clamp(max=0)
        constant = (under * shift).flatten(1).sum(1)
        turned = above.mul_(lower).add_(under.mul_(upper))
        return Turned(rows.with_values(turned) if isinstance(rows, Crop) else turned, constant)


@dataclass(frozen=True)
class Rectifier:
    """max(x, slope * x) with 0 <= slope < 1: ReLU (slope 0), leaky ReLU.

    Above an entry that may have either sign lies the chord; below, of the lines through 0, x or slope * x, whichever
    encloses the smaller area (Zhang et al. 2018, arXiv 1811.00866, "adaptive" choice of section 3.3).
    """

    slope: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.slope * x)

    def magnitude(self, x: Tensor) -> Tensor:
        return 2 * x

    def open(self, low: Tensor, high: Tensor) -> Tensor:
        return (low < 0) & (high > 0)

    def relaxed(self, low: Tensor, high: Tensor) -> Lines:
        either = self.open(low, high)
        one, slope = low.new_ones(()), low.new_full((), self.slope)  # two plain numbers would meet in single precision
        alone = torch.where(low >= 0, one, slope)
        chord = (high - self.slope * low) / torch.where(either, high - low, 1.0)
        lower = torch.where(high > -low, one, slope)
        return Lines(
            torch.where(either, lower, alone),
            torch.where(either, chord, alone),
            torch.where(either, (self.slope - chord) * low, 0.0),
        )


@dataclass(frozen=True)
class Winners:
    """A max-pool. ``index``: the entry of each window with the highest lower bound, flat, (B, C, windows); ``sure``: no other
    entry can be larger; ``top``: the highest upper bound, both (B, C, *spatial out). ``spatial``: (H, W) of the input."""

    index: Tensor
    sure: Tensor
    top: Tensor
    spatial: tuple[int, int]

    def below(self, rows: Crop | Tensor, image: Tensor) -> Turned:
        if isinstance(rows, Crop):
            rows = rows.spread(tuple(self.top.shape[1:]))
        above, under = rows.clamp(min=0), rows.clamp(max=0)
        sure = self.sure[image]
        constant = (under * self.top[image] * ~sure).flatten(1).sum(1)
        taken = (above + under * sure).flatten(2)
        turned = taken.new_zeros(*taken.shape[:2], self.spatial[0] * self.spatial[1])
        turned.scatter_add_(2, self.index[image], taken)
        return Turned(turned.unflatten(2, self.spatial), constant)


@dataclass(frozen=True)
class MaxPool:
    """The largest entry of each window: below lies the entry with the highest lower bound; above lies the same where no other
    can exceed it, else the highest upper bound."""

    window: Window

    def __call__(self, x: Tensor) -> Tensor:
        kernel, stride, padding, dilation, ceil_mode = self.window
        return functional.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)

    def magnitude(self, x: Tensor) -> Tensor:
        return self(x)

    def open(self, low: Tensor, high: Tensor) -> Tensor:
        return torch.ones_like(low, dtype=torch.bool)

    def relaxed(self, low: Tensor, high: Tensor) -> Winners:
        index = self.window.winners(low)
        top = self(high)
        floor = low.flatten(2).gather(2, index).view_as(top)
        # The highest upper bound of the others: at each of a window's places, that place's bound unless it is the winner.
        shape = low.shape[2:]
        place = torch.arange(shape[0] * shape[1], dtype=low.dtype, device=low.device).view(1, 1, *shape)
        others = torch.full_like(top, -torch.inf)
        for upper, position in zip(self._taps(high, -torch.inf), self._taps(place, -1.0), strict=True):
            mine = position.expand_as(top).flatten(2) == index
            others = torch.maximum(others, torch.where(mine.view_as(top), -torch.inf, upper))
        return Winners(index, floor >= others, top, (shape[0], shape[1]))

    def _taps(self, x: Tensor, around: float) -> list[Tensor]:
        """For each place within the window, the entries of x that lie there, (B, C, *spatial out)."""
        (rows, columns), stride, padding, dilation, _ = self.window
        out = self(x[:1, :1]).shape[2:]
        need = [(out[i] - 1) * stride[i] + (self.window.kernel[i] - 1) * dilation[i] + 1 for i in (0, 1)]
        right = [max(need[i] - x.shape[2 + i] - padding[i], 0) for i in (0, 1)]
        wide = functional.pad(x, (padding[1], right[1], padding[0], right[0]), value=around)
        return [
            wide[:, :, i * dilation[0] :: stride[0], j * dilation[1] :: stride[1]][:, :, : out[0], : out[1]]
            for i in range(rows)
            for j in range(columns)
        ]
