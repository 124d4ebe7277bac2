"""Moments: mean, standard deviation and extremes of many rows of numbers that come batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Running statistics of M rows in float64 (Chan, Golub and LeVeque 1983): ``count`` numbers so far in each row.

    ``mean``, ``lowest``, ``highest``: (M,), known after the first batch.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = self.lowest = self.highest = torch.empty(0)

    def add(self, values: Tensor) -> None:
        """``values``: (M, n) of any float type."""
        values = values.double()
        count, mean = values.shape[1], values.mean(1)
        squares = (values - mean[:, None]).square().sum(1)
        lowest, highest = values.amin(1), values.amax(1)
        if self.count:
            step, total = mean - self.mean, self.count + count
            squares = self.squares + squares + step.square() * (self.count * count / total)
            mean = self.mean + step * (count / total)
            lowest, highest = torch.minimum(lowest, self.lowest), torch.maximum(highest, self.highest)
        self.mean, self.squares, self.lowest, self.highest = mean, squares, lowest, highest
        self.count += count

    @property
    def std(self) -> Tensor:
        """Standard deviation of the population, (M,). Exactly 0 where all numbers are equal, whatever their mean's rounding."""
        return torch.where(self.highest > self.lowest, (self.squares / self.count).sqrt(), 0.0)
