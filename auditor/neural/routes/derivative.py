"""The local derivative along one path of a network: steps between two layers. Each step knows how it passes a
derivative on.

A path leaves a layer's output Z and meets normalization in eval mode, elementwise activations, pools, paddings, additions.
As long as every position of Z reaches at most one position further on, |d value / dZ| is one number for each position:
that is what a ``Flow`` holds. A max-pool with overlapping windows is the exception, and ``Won`` keeps its winners.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from auditor.models.tracing import IntPair, Window


class Won(NamedTuple):
    """An overlapping max-pool on the path. ``winner``: flat index by window, (B, C, windows). ``code``: which windows a
    position won, (B, C, H, W): bit r * columns + c stands for the window r rows and c columns after the first that can hold it.
    """

    window: Window
    winner: Tensor
    code: Tensor


@dataclass(frozen=True)
class Flow:
    """|d value / dZ| at one point of a path, for a batch. ``channels``: which channels of the value come from Z.

    The derivative is ``scale`` (C,) times ``size`` (B, C, H, W), either of them 1 where None, and, while ``gated``, 0 wherever
    the value at hand is not positive. After an overlapping pool (``won``) it belongs to the positions before that pool.
    ``spatial``: (H, W) of the map behind a flattened value.
    """

    channels: slice
    spatial: IntPair
    size: Tensor | None = None
    scale: Tensor | None = None
    gated: bool = False
    won: Won | None = None

    def maps(self, value: Tensor) -> Tensor:
        """The part of a value that comes from Z, (B, C, H, W)."""
        return value.reshape(len(value), -1, *self.spatial)[:, self.channels]

    def times(self, factor: Tensor) -> Flow:
        """After a further elementwise factor at the point of the value, (B, C, H, W)."""
        if self.won is not None:
            # All windows that a position won hold the same value, so they have the same factor.
            spread = torch.zeros_like(self.won.code, dtype=factor.dtype).flatten(2)
            factor = spread.scatter_(2, self.won.winner, factor.flatten(2)).view_as(self.won.code)
        return replace(self, size=factor if self.size is None else self.size * factor)

    def settled(self, value: Tensor) -> Flow:
        """The same without ``gated``; what comes out of a ReLU is never negative, so its sign is 0 or 1."""
        return replace(self, gated=False).times(self.maps(value).sign()) if self.gated else self

    def dense(self, value: Tensor) -> Tensor:
        """The derivative but for ``scale``, (B, C, H, W)."""
        size = self.settled(value).size
        return (
            torch.ones_like(self.maps(value) if self.won is None else self.won.code, dtype=value.dtype)
            if size is None
            else size
        )

    def by_window(self, value: Tensor) -> Tensor:
        """``dense`` at the point of the value itself, (B, C, H, W), also after an overlapping pool: that of each winner."""
        size = self.dense(value)
        return size if self.won is None else size.flatten(2).gather(2, self.won.winner).unflatten(2, self.spatial)


class Step(Protocol):
    """One operation on a path."""

    def pass_on(self, flow: Flow, value: Tensor) -> Flow:
        """The flow after the operation, from the flow before it and the value that goes in (before it is overwritten)."""


class Same:
    """Passes its input on as it is: identity, dropout at rest."""

    def pass_on(self, flow: Flow, value: Tensor) -> Flow:
        return flow


class Add:
    """Adds something that does not depend on Z: the derivative is that of the other term, the value is not."""

    def pass_on(self, flow: Flow, value: Tensor) -> Flow:
        return flow.settled(value)


class ScaleRule(NamedTuple):
    """A factor for each channel, (C,): normalization by running statistics."""

    factor: Tensor

    def pass_on(self, flow: Flow, value: Tensor) -> Flow:
        factor = self.factor[flow.channels].abs()
        return replace(flow.settled(value), scale=factor if flow.scale is None else flow.scale * factor)


class ReluRule:
    """Passes on where its output is positive; read off the output, so it may work in place."""

    def pass_on(self, flow: Flow, value: Tensor) -> Flow:
        return replace(flow, gated=True)


class Elementwise(NamedTuple):
    """Any other activation: its derivative by automatic differentiation."""

    function: Callable[[Tensor], Tensor]

    def pass_on(self, flow: Flow, value: Tensor) -> Flow:
        with torch.enable_grad():
            point = value.detach().clone().requires_grad_()
            # The activation may work in place, which a leaf does not allow.
            (slope,) = torch.autograd.grad(self.function(point.clone()).sum(), point)
        return flow.settled(value).times(flow.maps(slope.abs()))


class MaxPoolRule(NamedTuple):
    window: Window

    def pass_on(self, flow: Flow, value: Tensor) -> Flow:
        if self.window.overlaps:
            return self._overlapping(flow.settled(value), value)
        pooled = _pooled(flow.spatial, self.window)
        if flow.size is None:
            # Every window has one winner, and it is positive where the pooled value is.
            return replace(flow, spatial=pooled)
        winners = self.window.winners(flow.maps(value))
        return replace(flow, spatial=pooled, size=flow.size.flatten(2).gather(2, winners).unflatten(2, pooled))

    def _overlapping(self, flow: Flow, value: Tensor) -> Flow:
        maps = flow.maps(value)
        pooled = _pooled(flow.spatial, self.window)
        winner = self.window.winners(maps)
        width = maps.shape[3]
        rows = torch.arange(pooled[0], device=maps.device).repeat_interleave(pooled[1])
        columns = torch.arange(pooled[1], device=maps.device).repeat(pooled[0])
        down = rows - self.window.first(0, winner // width)
        right = columns - self.window.first(1, winner % width)
        bits = torch.ones_like(winner) << (down * self.window.reach[1] + right)
        code = torch.zeros(maps.shape, dtype=torch.int64, device=maps.device)
        code.flatten(2).scatter_add_(2, winner, bits)
        return replace(flow, spatial=pooled, won=Won(self.window, winner, code))


class AvgPoolRule(NamedTuple):
    """An average over windows that do not overlap, ``pool`` the operation itself: linear, with the same positive weights."""

    pool: Callable[[Tensor], Tensor]

    def pass_on(self, flow: Flow, value: Tensor) -> Flow:
        size = self.pool(flow.dense(value))
        return replace(flow, gated=False, size=size, spatial=(size.shape[2], size.shape[3]))


class Pad(NamedTuple):
    """Zeros around: ``spatial`` as functional.pad takes them (left, right, top, bottom), ``before`` channels in front."""

    spatial: tuple[int, int, int, int]
    before: int = 0

    def pass_on(self, flow: Flow, value: Tensor) -> Flow:
        size = functional.pad(flow.dense(value), self.spatial)
        return _moved(replace(flow, gated=False, size=size, spatial=(size.shape[2], size.shape[3])), self.before)


class Subsample(NamedTuple):
    """Some rows and columns of every channel."""

    rows: slice
    columns: slice

    def pass_on(self, flow: Flow, value: Tensor) -> Flow:
        size = flow.dense(value)[:, :, self.rows, self.columns]
        return replace(flow, gated=False, size=size, spatial=(size.shape[2], size.shape[3]))


class Concatenate(NamedTuple):
    """Concatenated with other channels, ``before`` of them in front."""

    before: int

    def pass_on(self, flow: Flow, value: Tensor) -> Flow:
        return _moved(flow, self.before)


def _moved(flow: Flow, by: int) -> Flow:
    return replace(flow, channels=slice(flow.channels.start + by, flow.channels.stop + by))


def _pooled(spatial: IntPair, window: Window) -> IntPair:
    """(rows, columns) of windows, as the pool itself counts them."""
    outline = torch.empty((1, 1, *spatial), device="meta")
    rows, columns = functional.max_pool2d(
        outline, window.kernel, window.stride, window.padding, window.dilation, window.ceil_mode
    ).shape[2:]
    return rows, columns
