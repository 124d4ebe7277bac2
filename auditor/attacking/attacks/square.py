"""The Square attack.

Values of the paper's code, as AutoAttack runs it: 5000 queries, p = 0.8, the margin as the loss, and a share p of the pixels
that is halved after 0.1, 0.5, 2, 5, 10, 20, 40, 60 and 80 % of the queries. Squares lie anywhere in the image, as the paper has
it (algorithms 2 and 3); AutoAttack's code never lets one touch the last row or column. In L2 the mass of the two windows
is kept per channel, as the paper has it; AutoAttack pools the channels and rescales. Every image has squares of its own, where
AutoAttack shares them within a batch.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.harness.losses import margin
from auditor.attacking.threat import Norm

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Out of 10 000 queries: when p is halved."""
AHEAD = 500
"""Steps for which a row's random numbers are drawn at once: seeding a generator costs more than the few that a step needs."""
TILES = 5
"""The L2 start has 5 tiles along the shorter side (the paper, section 4.2)."""


class Square(Attack):
    """Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): random search with squares at the edge of the ball."""

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})
    uses_gradients: ClassVar[bool] = False
    title: ClassVar[str] = "Square"
    kind: Literal["square"] = "square"
    queries: int = Field(5000, ge=1, le=100_000, description="Squares tried in one run; each is one query.")
    p_init: float = Field(0.8, gt=0, le=1, description="Share of the pixels that the first squares cover.")
    restarts: int = Field(1, ge=1, le=100, description="Independent runs per image; one success is enough.")

    @property
    def runs(self) -> int:
        return self.restarts

    @property
    def iterations(self) -> int:
        return self.queries

    @property
    def cost(self) -> float:
        return self.queries + 1.0

    def start(self, rows: Rows, query: Query) -> Tensor:
        rows.memory["draws"] = rows.x.new_empty(len(rows), AHEAD, SHAPES[rows.norm].draws(rows.x.shape[1]))
        rows.memory["kept"] = rows.x.clone()
        rows.memory["loss"] = rows.x.new_full((len(rows),), -torch.inf)
        return SHAPES[rows.norm].first(rows)

    def step(self, rows: Rows, query: Query) -> Tensor:
        loss = margin(rows.criterion, query.logits())
        kept, best = rows.memory["kept"], rows.memory["loss"]
        better = (loss > best).nonzero().squeeze(1)
        best[better], kept[better] = loss[better], rows.x_adv[better]  # in place: most squares change nothing
        done = rows.steps * 10_000 // self.queries
        halvings = torch.bucketize(done, torch.tensor(HALVED_AFTER, device=done.device))
        return SHAPES[rows.norm].next(rows, kept, self.p_init, halvings, _draws(rows))


class SquareMoves(Protocol):
    """How the perturbation starts and changes in one norm."""

    @staticmethod
    def draws(channels: int) -> int:
        """Uniform random numbers that a step needs."""

    @staticmethod
    def first(rows: Rows) -> Tensor:
        """The first image of each row."""

    @staticmethod
    def next(rows: Rows, kept: Tensor, p_init: float, halvings: Tensor, draws: Tensor) -> Tensor:
        """A change to the best image so far in a share p_init / 2^halvings of its pixels; draws are uniform on [0, 1)."""


class LinfMoves:
    """Algorithm 2: every entry is at +-epsilon; a step sets a square to one sign per channel."""

    @staticmethod
    def draws(channels: int) -> int:
        return 2 + channels

    @staticmethod
    def first(rows: Rows) -> Tensor:
        stripes = rows.random("stripes").uniform(rows.x[:, :, :1])
        return rows.x + rows.ball.epsilon * _sign(stripes)

    @staticmethod
    def next(rows: Rows, kept: Tensor, p_init: float, halvings: Tensor, draws: Tensor) -> Tensor:
        height, width = kept.shape[2:]
        side = torch.tensor(_sides(p_init, height, width), device=kept.device)[halvings]
        inside = _window(draws[:, 0], draws[:, 1], side, height, width)
        edge = rows.x + rows.ball.epsilon * _sign(draws[:, 2:, None, None])
        return torch.lerp(kept, edge, inside)


class L2Moves:
    """Algorithm 3: mass is moved from one window to another, in the shape of two adjacent peaks of opposite sign (eta)."""

    @staticmethod
    def draws(channels: int) -> int:
        return 5 + channels

    @staticmethod
    def first(rows: Rows) -> Tensor:
        """Tiles of the shape eta, each with a sign per channel and a direction of its own."""
        (count, channels, height, width), x = rows.x.shape, rows.x
        side = max(1, min(height, width) // TILES)
        down, across = height // side, width // side
        random = rows.random("tiles")
        lies = random.uniform(x.new_empty(count, 1, down, across, 1, 1)) < 0.5
        signs = _sign(random.uniform(x.new_empty(count, channels, down, across, 1, 1)))
        peaks = two_peaks(side).to(x)
        tiles = signs * torch.where(lies, peaks, peaks.T)
        delta = torch.zeros_like(x)
        top, left = (height - down * side) // 2, (width - across * side) // 2
        inside = delta[:, :, top : top + down * side, left : left + across * side]
        inside.copy_(tiles.transpose(3, 4).reshape(count, channels, down * side, across * side))
        return x + rows.ball.epsilon * rows.ball.steepest(delta, x)

    @staticmethod
    def next(rows: Rows, kept: Tensor, p_init: float, halvings: Tensor, draws: Tensor) -> Tensor:
        channels, height, width = kept.shape[1:]
        sides = _odd(_sides(p_init, height, width), min(height, width))
        side = torch.tensor(sides, device=kept.device)[halvings]
        delta = kept - rows.x
        gains = _window(draws[:, 0], draws[:, 1], side, height, width)
        gives = _window(draws[:, 2], draws[:, 3], side, height, width)
        either = 1 - (1 - gains) * (1 - gives)
        energy = delta.square()
        unused = (rows.ball.epsilon.square() - energy.sum((1, 2, 3), keepdim=True)).clamp(min=0)
        available = ((energy * either).sum((2, 3), keepdim=True) + unused / channels).sqrt()
        old = (energy * gains).sum((2, 3), keepdim=True).sqrt()
        patterns = _patterns(sides).to(kept)[(draws[:, 4] < 0.5).long(), halvings]
        peaks = _placed(patterns, draws, side, height, width)[:, None]
        # The window's new content is sign * peaks + old / |old|, stretched to the available length; peaks have unit length.
        sign, size = _sign(draws[:, 5:, None, None]), old.clamp(min=1e-12)
        overlap = sign * (delta * peaks).sum((2, 3), keepdim=True) / size
        stretch = available / (1 + (old > 0) + 2 * overlap).clamp(min=1e-12).sqrt()
        share = (gains * (stretch / size)).add_(1 - either)
        return delta.mul_(share).add_(peaks * (sign * stretch)).add_(rows.x)


SHAPES: dict[Norm, type[SquareMoves]] = {Norm.LINF: LinfMoves, Norm.L2: L2Moves}


def _draws(rows: Rows) -> Tensor:
    """This step's random numbers of each row, uniform on [0, 1)."""
    due = rows.step % AHEAD == 0
    if due.any():
        draws = rows.memory["draws"]
        draws[torch.from_numpy(due).to(draws.device)] = rows[due].random("squares").uniform(draws[: due.sum()])
    return rows.memory["draws"][torch.arange(len(rows), device=rows.x.device), rows.steps % AHEAD]


def _sign(uniform: Tensor) -> Tensor:
    return 1 - 2 * (uniform < 0.5).to(uniform)


def _window(top: Tensor, left: Tensor, side: Tensor, height: int, width: int) -> Tensor:
    """1 inside a window, from its uniform draws, and 0 elsewhere, (B, 1, H, W); a mask to multiply by is fastest."""
    down, across = _offsets(top, side, height), _offsets(left, side, width)
    side = side[:, None]
    down, across = ((at >= 0) & (at < side) for at in (down, across))
    return down.to(top)[:, None, :, None] * across.to(top)[:, None, None]


def _offsets(uniform: Tensor, side: Tensor, length: int) -> Tensor:
    """How far each of ``length`` places in a line is from where the window begins; that is uniform over where it fits."""
    return torch.arange(length, device=side.device) - (uniform * (length - side + 1)).floor()[:, None]


def _placed(patterns: Tensor, draws: Tensor, side: Tensor, height: int, width: int) -> Tensor:
    """The pattern of each row, (B, M, M), in its first window, and zero elsewhere, (B, H, W)."""
    zero = patterns.shape[-1] - 1  # the last row and column of every pattern
    down, across = _offsets(draws[:, 0], side, height), _offsets(draws[:, 1], side, width)
    down, across = (at.masked_fill((at < 0) | (at > zero), zero).long() for at in (down, across))
    tall = patterns.gather(1, down[:, :, None].expand(-1, -1, zero + 1))
    return tall.gather(2, across[:, None].expand(-1, height, -1))


@cache
def _sides(p_init: float, height: int, width: int) -> tuple[int, ...]:
    """Sides of the squares after 0, 1, 2, ... halvings of p."""
    shares = [p_init / 2**halvings for halvings in range(len(HALVED_AFTER) + 1)]
    return tuple(min(max(round((share * height * width) ** 0.5), 1), height, width) for share in shares)


def _odd(sides: tuple[int, ...], room: int) -> tuple[int, ...]:
    """At least 3, and odd (one more where needed), as far as there is room."""
    largest = room - (room + 1) % 2
    return tuple(min(max(side + (side + 1) % 2, 3), largest) for side in sides)


@cache
def _patterns(sides: tuple[int, ...]) -> Tensor:
    """``two_peaks`` of these sides, standing and lying, with zeros to the right and below, (2, number, M, M)."""
    patterns = torch.zeros(2, len(sides), max(sides) + 1, max(sides) + 1)
    for index, side in enumerate(sides):
        patterns[0, index, :side, :side] = two_peaks(side)
        patterns[1, index, :side, :side] = two_peaks(side).T
    return patterns


def two_peaks(side: int) -> Tensor:
    """The shape eta (section 4.2): a peak in the upper half and its negative in the lower one, of unit norm, (side, side)."""
    peaks = torch.cat([_peak(side // 2, side), -_peak(side - side // 2, side)])
    return peaks / peaks.norm()


def _peak(height: int, width: int) -> Tensor:
    """Equation 2: 1/(k+1)^2 summed from k = distance to the centre (in the largest coordinate), of unit norm."""
    if height == 0:
        return torch.zeros(0, width)
    down = (torch.arange(height) - height // 2).abs()
    across = (torch.arange(width) - width // 2).abs()
    distance = torch.maximum(down[:, None], across)
    terms = 1.0 / torch.arange(1, max(height, width) // 2 + 2).square()
    peak = terms.flip(0).cumsum(0).flip(0)[distance]
    return peak / peak.norm()
