"""The first crossing of a decision boundary along many lines at once: a grid from zero outwards, then bisection."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

DECADES = 4
"""The grid spans four powers of ten up to the bound; a crossing before its first point is found by bisection from zero."""
WIDTH = 1e-6
"""Bisection ends when the bracket is at most 1e-6 of the value wide: a hundredth of the margin of the verification."""
MARGIN = 1e-4
HALVINGS = 200
"""More than the exponent of a float64 allows to tell a crossing from zero."""

Crossed = Callable[[Tensor, Tensor], Tensor]
"""Whether lines (indices, (Q,)) have crossed at a place (float64, (Q,), signed): bool, (Q,). Never at zero."""


class Crossings(NamedTuple):
    """``value``: signed place of each line's first crossing, float64 (R,), inf where there is none within the bound.

    ``fails_beyond``: value (1 + 1e-4) does not lie across, ``fails_before``: value (1 - 1e-4) does; bool (R,).
    """

    value: Tensor
    fails_beyond: Tensor
    fails_before: Tensor


def first_crossings(crossed: Crossed, bound: Tensor, *, points: int, per_call: int) -> Crossings:
    """Search both directions of each line up to ``bound`` (float64, (R,)), nearest places first.

    Along a line the outputs of a network are piecewise smooth, not monotone: a crossing that is undone before the next of
    the ``points`` (at least 2) places of the grid, in equal ratios, goes unseen. The nearer direction counts, ties to the
    positive one. ``per_call``: places that one call should ask about, about; it does not change the answer.
    """
    levels = torch.logspace(-DECADES, 0, points, dtype=torch.float64, device=bound.device)
    lines, signs, lows, highs = ([torch.empty(0, dtype=kind, device=bound.device)] for kind in _KINDS)
    open_lines, start = torch.arange(len(bound), device=bound.device), 0
    while len(open_lines) and start < points:
        block = levels[start : start + max(1, per_call // (2 * len(open_lines)))]
        places = (
            torch.stack([block, -block]) * bound[open_lines][:, None, None]
        )  # (lines, direction, points of the block)
        hit = crossed(open_lines.repeat_interleave(2 * len(block)), places.flatten()).view(places.shape)
        first = torch.where(hit.any(2), hit.long().argmax(2), len(block))
        nearest = first.amin(1)
        line, direction = ((first == nearest[:, None]) & (nearest < len(block))[:, None]).nonzero().unbind(1)
        index = start + nearest[line]
        scale = bound[open_lines[line]]
        lines.append(open_lines[line])
        signs.append(1 - 2 * direction.double())
        lows.append(torch.where(index > 0, levels[(index - 1).clamp_min(0)], 0.0) * scale)
        highs.append(levels[index] * scale)
        open_lines, start = open_lines[nearest == len(block)], start + len(block)
    line, sign = torch.cat(lines), torch.cat(signs)
    distance = _bisected(crossed, line, sign, torch.cat(lows), torch.cat(highs))
    # A line may have a bracket in each direction: the nearer one counts, the positive one where they are equal.
    nearest = torch.full_like(bound, torch.inf).scatter_reduce(0, line, distance, "amin")
    rises = torch.zeros_like(bound, dtype=torch.bool)
    rises[line[(sign > 0) & (distance == nearest[line])]] = True
    value = torch.where(rises | nearest.isinf(), nearest, -nearest)
    known = value.isfinite().nonzero().squeeze(1)
    beyond, before = torch.zeros_like(value, dtype=torch.bool), torch.zeros_like(value, dtype=torch.bool)
    beyond[known] = ~crossed(known, value[known] * (1 + MARGIN))
    before[known] = crossed(known, value[known] * (1 - MARGIN))
    return Crossings(value, beyond, before)


_KINDS = (torch.int64, torch.float64, torch.float64, torch.float64)


def _bisected(crossed: Crossed, line: Tensor, sign: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The middle of each bracket once it is narrow; at ``low`` a line has not crossed, at ``high`` it has."""
    for _ in range(HALVINGS):
        wide = (high - low > WIDTH * high).nonzero().squeeze(1)
        if not len(wide):
            break
        middle = (low[wide] + high[wide]) / 2
        over = crossed(line[wide], sign[wide] * middle)
        high[wide] = torch.where(over, middle, high[wide])
        low[wide] = torch.where(over, low[wide], middle)
    return (low + high) / 2
