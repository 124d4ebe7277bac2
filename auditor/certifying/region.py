"""The points that an attacker may choose from: a ball around each image cut by [0, 1], and the least of linear functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.attacking.threat import Norm, ThreatModel
from auditor.certifying.crops import Crop

HALVINGS = 40


@dataclass(frozen=True)
class Region:
    """``images``: float64 (B, C, H, W) in [0, 1]; the ball of ``threat`` around each, within the box."""

    threat: ThreatModel
    images: Tensor

    @property
    def low(self) -> Tensor:
        """The least value of each pixel, (B, C, H, W)."""
        return (self.images - self.reach).clamp(min=0)

    @property
    def high(self) -> Tensor:
        return (self.images + self.reach).clamp(max=1)

    @property
    def reach(self) -> float:
        """How far one pixel can move by itself: epsilon in each norm (L0 is refused before)."""
        return self.threat.epsilon

    def least(self, rows: Crop | Tensor, image: Tensor, *, tight: bool) -> Tensor:
        """The least of ``rows`` . x over the region of each row's image, or a number below it, (R,). ``rows``: (R, C, H, W);
        ``image``: (R,). In L-infinity and L1 it is the least itself; in L2, too (to rounding), where ``tight``: the dual of
        the ball's constraint, each of whose values lies below the least."""
        values = rows.values.flatten(1) if isinstance(rows, Crop) else rows.flatten(1)

        def of(maps: Tensor) -> Tensor:
            return (rows.taken(maps, image) if isinstance(rows, Crop) else maps[image]).flatten(1)

        low, high = self.low, self.high
        if self.threat.norm is Norm.LINF:
            return (values * of((low + high) / 2)).sum(1) - (values.abs() * of((high - low) / 2)).sum(1)
        base, gain = (values * of(self.images)).sum(1), values.abs()
        capacity = torch.where(values > 0, of(self.images - low), of(high - self.images))
        if self.threat.norm is Norm.L1:
            return base - _spent(gain, capacity, self.threat.epsilon)
        return base - _within_l2(gain, capacity, self.threat.epsilon, tight)


def _spent(gain: Tensor, capacity: Tensor, budget: float) -> Tensor:
    """The most of gain . d over 0 <= d <= capacity with sum d <= budget: the dearest entries first."""
    order = gain.argsort(dim=1, descending=True)
    room = capacity.gather(1, order)
    left = (budget - (room.cumsum(1) - room)).clamp(min=0)
    return (gain.gather(1, order) * torch.minimum(room, left)).sum(1)


def _within_l2(gain: Tensor, capacity: Tensor, radius: float, tight: bool) -> Tensor:
    """At least the most of gain . d over 0 <= d <= capacity with ||d|| <= radius.

    By the dual: for every m > 0 that is at most the sum of max over d of gain d - d^2 / (2 m), plus radius^2 / (2 m).
    """
    movable = torch.where(capacity > 0, gain, 0.0)
    ball = radius * movable.norm(dim=1)
    most = torch.minimum(ball, (gain * capacity).sum(1))
    if not tight:
        return most
    # The step d = min(m * gain, capacity) has length radius at the best m; it grows with m.
    low = radius / movable.norm(dim=1).clamp(min=1e-300)
    high = low.clone()
    for _ in range(HALVINGS):
        short = torch.minimum(high[:, None] * movable, capacity).norm(dim=1) < radius
        if not short.any():
            break
        high = torch.where(short, 4 * high, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        short = torch.minimum(middle[:, None] * movable, capacity).norm(dim=1) < radius
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    step = torch.minimum(high[:, None] * movable, capacity)
    dual = (movable * step).sum(1) + (radius**2 - step.square().sum(1)) / (2 * high)
    return torch.minimum(most, torch.where(dual.isfinite(), dual, most))
