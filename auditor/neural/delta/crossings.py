"""The first crossing of a decision boundary along many lines at once: a grid from zero outwards, then secants."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

DECADES = 2
"""The grid spans two powers of ten up to the bound; a crossing before its first point is found by halvings from zero."""
WIDTH = 1e-6
"""The search ends when the bracket is at most 1e-6 of the value wide: a hundredth of the margin of the verification."""
MARGIN = 1e-4
STEPS = 200
"""More halvings than the exponent of a float64 allows to tell a crossing from zero."""
PUSH = 0.02
"""How far beyond the secant's root a step goes, as a share of the bracket: a good root then closes the bracket on both sides."""

Margins = Callable[[Tensor, Tensor], Tensor]
"""How far lines (indices, (Q,)) are from crossing at a place (float64, (Q,), signed): float64 (Q,), negative across and
positive before, never zero. Positive at zero."""


class Crossings(NamedTuple):
    """``value``: signed place of each line's first crossing, float64 (R,), inf if there is none within the bound.

    ``fails_beyond``: value (1 + 1e-4) does not lie across, ``fails_before``: value (1 - 1e-4) does; bool (R,).
    """

    value: Tensor
    fails_beyond: Tensor
    fails_before: Tensor


class _Brackets(NamedTuple):
    """Q places between which a line crosses, all (Q,): at ``low`` it has not, at ``high`` it has; ``f_low``, ``f_high``: the
    margins there, NaN where not known. ``sign``: the direction of the line. Distances are positive."""

    line: Tensor
    sign: Tensor
    low: Tensor
    high: Tensor
    f_low: Tensor
    f_high: Tensor


def first_crossings(margins: Margins, bound: Tensor, *, points: int, per_call: int) -> Crossings:
    """Search both directions of each line up to ``bound`` (float64, (R,)), nearest places first.

    The first crossing is that on the grid, narrowed down by secants and halvings; one that is crossed back within a step
    between the ``points`` (at least 2) places of the grid, in equal ratios, goes unseen. The nearer direction counts, ties to
    the positive one. ``per_call``: places that one call should ask about, about; it does not change the answer.
    """
    found = _on_grid(margins, bound, points, per_call)
    distance = _narrowed(margins, found)
    # A line may have a bracket in each direction: the nearer one counts, the positive one where they are equal.
    nearest = torch.full_like(bound, torch.inf).scatter_reduce(0, found.line, distance, "amin")
    rises = torch.zeros_like(bound, dtype=torch.bool)
    rises[found.line[(found.sign > 0) & (distance == nearest[found.line])]] = True
    value = torch.where(rises | nearest.isinf(), nearest, -nearest)
    known = value.isfinite().nonzero().squeeze(1)
    beyond, before = torch.zeros_like(value, dtype=torch.bool), torch.zeros_like(value, dtype=torch.bool)
    beyond[known] = margins(known, value[known] * (1 + MARGIN)) > 0
    before[known] = margins(known, value[known] * (1 - MARGIN)) < 0
    return Crossings(value, beyond, before)


def _on_grid(margins: Margins, bound: Tensor, points: int, per_call: int) -> _Brackets:
    """The first bracket of each line, or two where both directions cross between the same places of the grid."""
    levels = torch.logspace(-DECADES, 0, points, dtype=torch.float64, device=bound.device)
    found = [_Brackets(torch.arange(0, device=bound.device), *(bound[:0] for _ in range(5)))]
    open_lines, start = torch.arange(len(bound), device=bound.device), 0
    behind = bound.new_full((len(bound), 2), torch.nan)  # each direction's margin at the place before this block
    while len(open_lines) and start < points:
        block = levels[start : start + max(1, per_call // (2 * len(open_lines)))]
        places = (
            torch.stack([block, -block]) * bound[open_lines][:, None, None]
        )  # (lines, direction, points of the block)
        margin = margins(open_lines.repeat_interleave(2 * len(block)), places.flatten()).view(places.shape)
        hit = margin < 0
        first = torch.where(hit.any(2), hit.long().argmax(2), len(block))
        nearest = first.amin(1)
        at, direction = ((first == nearest[:, None]) & (nearest < len(block))[:, None]).nonzero().unbind(1)
        line, place = open_lines[at], nearest[at]
        scale, index = bound[line], start + place
        low = torch.where(index > 0, levels[(index - 1).clamp_min(0)], 0.0) * scale
        f_low = torch.where(place > 0, margin[at, direction, (place - 1).clamp_min(0)], behind[line, direction])
        found.append(
            _Brackets(line, 1 - 2 * direction.double(), low, levels[index] * scale, f_low, margin[at, direction, place])
        )
        behind[open_lines] = margin[:, :, -1]
        open_lines, start = open_lines[nearest == len(block)], start + len(block)
    return _Brackets(*map(torch.cat, zip(*found, strict=True)))


def _narrowed(margins: Margins, brackets: _Brackets) -> Tensor:
    """The distance at which each bracket's line crosses, (Q,): the secant's root once the bracket is narrow.

    Each step asks a little beyond the secant's root, towards the far end, the nearer the narrower the bracket has become; or
    in the middle where two steps have not halved the bracket. At worst this takes three times as long as halving alone.
    """
    line, sign, low, high, f_low, f_high = (part.clone() for part in brackets)
    at_first = high - low
    before = ago = torch.full_like(at_first, torch.inf)
    for _ in range(STEPS):
        wide = (high - low > WIDTH * high).nonzero().squeeze(1)
        if not len(wide):
            break
        a, b = low[wide], high[wide]
        width, middle, root = b - a, (a + b) / 2, _secant(a, b, f_low[wide], f_high[wide])
        push = torch.minimum(PUSH * width * width / at_first[wide] + WIDTH / 4 * b, (middle - root).abs())
        place = torch.where(width > ago[wide] / 2, middle, root + push * (middle - root).sign())
        margin = margins(line[wide], sign[wide] * place)
        over = margin < 0
        before, ago = high - low, before
        high[wide], f_high[wide] = torch.where(over, place, b), torch.where(over, margin, f_high[wide])
        low[wide], f_low[wide] = torch.where(over, a, place), torch.where(over, f_low[wide], margin)
    return _secant(low, high, f_low, f_high)


def _secant(low: Tensor, high: Tensor, f_low: Tensor, f_high: Tensor) -> Tensor:
    """Where a straight line between the two margins crosses zero; the middle where one is not known."""
    root = low + (high - low) * (f_low / (f_low - f_high))
    return torch.where(root.isfinite(), root.clamp(low, high), (low + high) / 2)
