"""The harness's search for the smallest radius at which an attack succeeds (foolbox 2.3)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from auditor.attacking.attack import Rows
from auditor.attacking.threat import Norm

GROWTH, GROWTHS, HALVINGS, PRECISION = 1.5, 20, 20, 1e-4
"""Up to 20 times 1.5 as much until an attack succeeds, then up to
20 halvings of the interval, until it is as narrow as 1e-4 of its upper end."""


def next_radius(rows: Rows, within: Tensor, decided: Tensor) -> tuple[Rows, Tensor]:
    """Where a radius is decided: the rows at the next one, and which of them have one."""
    decided = decided.to(within.device)
    reached = torch.minimum(rows.epsilon, rows.best_distance)
    high = torch.where(decided & within, reached, rows.high)
    low = torch.where(decided & ~within, rows.epsilon, rows.low)
    level = rows.level + decided.cpu().numpy()
    tried = torch.from_numpy(level).to(low.device)
    growing = high.isinf()
    epsilon = torch.where(growing, low * GROWTH, (low + high) / 2)
    if rows.norm is Norm.L0:
        epsilon = torch.where(growing, (low * GROWTH).ceil(), epsilon.floor())
    narrow = (high - low <= PRECISION * high) | (epsilon <= low)
    goes_on = torch.where(growing, tried <= GROWTHS, (tried <= GROWTHS + HALVINGS) & ~narrow)
    epsilon = torch.where(decided, epsilon, rows.epsilon)
    return replace(rows, epsilon=epsilon, low=low, high=high, level=level), goes_on & decided
