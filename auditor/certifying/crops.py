"""Rows of coefficients that are zero but in a small window of the map: what one position of a convolution depends on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DENSE = 0.6
"""From this share of the map on, the window is no longer worth its bookkeeping."""


@dataclass(frozen=True)
class Crop:
    """``values``: (R, C, h, w); ``top`` and ``left``: the window's first row and column in the map, int64 (R,). Where the window
    reaches beyond the map, the values are zero."""

    values: Tensor
    top: Tensor
    left: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def with_values(self, values: Tensor) -> Crop:
        return Crop(values, self.top, self.left)

    def positions(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Flat places in a map of this size, int64 (R, h, w), and which of them lie in it, bool."""
        rows = self.top[:, None] + torch.arange(self.values.shape[2], device=self.top.device)
        columns = self.left[:, None] + torch.arange(self.values.shape[3], device=self.top.device)
        within = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
        flat = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None]
        return flat, within

    def taken(self, maps: Tensor, image: Tensor) -> Tensor:
        """The part of each row's map that its window covers, (R, C, h, w), from (B, C, H, W); anything outside the map."""
        batch, channels, height, width = maps.shape
        flat, _ = self.positions(height, width)
        table = maps.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
        return table[flat + (image * height * width)[:, None, None]].permute(0, 3, 1, 2)

    def within(self, height: int, width: int) -> Crop:
        """The same with zeros beyond the map."""
        return self.with_values(self.values * self.positions(height, width)[1][:, None])

    def spread(self, shape: tuple[int, ...]) -> Tensor:
        """The whole map, (R, C, H, W)."""
        channels, height, width = shape
        flat, within = self.positions(height, width)
        whole = self.values.new_zeros(len(self), channels, height * width)
        values = self.values * within[:, None]
        whole.scatter_add_(2, flat.flatten(1)[:, None].expand(-1, channels, -1), values.flatten(2))
        return whole.view(len(self), *shape)

    def settled(self, shape: tuple[int, ...]) -> Crop | Tensor:
        """As it is while the window is small, otherwise the whole map."""
        large = self.values.shape[2] * self.values.shape[3] >= DENSE * shape[1] * shape[2]
        return self.spread(shape) if large else self


def units(entries: Tensor, shape: tuple[int, ...]) -> Crop | Tensor:
    """Rows of an identity matrix: ``entries`` are flat places in a value of this shape, int64 (R,)."""
    here = torch.arange(len(entries), device=entries.device)
    if len(shape) != 3:
        rows = torch.zeros(len(entries), int(torch.Size(shape).numel()), dtype=torch.double, device=entries.device)
        rows[here, entries] = 1.0
        return rows.view(-1, *shape)
    channels, height, width = shape
    values = torch.zeros(len(entries), channels, 1, 1, dtype=torch.double, device=entries.device)
    values[here, entries // (height * width), 0, 0] = 1.0
    place = entries % (height * width)
    return Crop(values, place // width, place % width).settled(shape)


def joined(one: Crop | Tensor, other: Crop | Tensor, shape: tuple[int, ...]) -> Crop | Tensor:
    """The sum of two rows of coefficients for the same value."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        whole, second = (item if isinstance(item, Tensor) else item.spread(shape) for item in (one, other))
        return whole + second
    inner, outer = sorted((one, other), key=lambda item: item.values.shape[2])
    down, right = inner.top - outer.top, inner.left - outer.left
    rows, columns = inner.values.shape[2:]
    first_row, first_column = int(down[0]), int(right[0])
    alike = bool((down == first_row).all() and (right == first_column).all())
    fits = 0 <= first_row <= outer.values.shape[2] - rows and 0 <= first_column <= outer.values.shape[3] - columns
    if not (alike and fits):
        return one.spread(shape) + other.spread(shape)
    values = outer.values.clone()
    values[:, :, first_row : first_row + rows, first_column : first_column + columns] += inner.values
    return outer.with_values(values)
