"""The geometry of each norm on perturbations of shape (B, C, H, W); radii have shape (B, 1, 1, 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from auditor.kit.randomness import RowRandom

SPARSE_SHARE = 0.05
"""Share of the entries that a steepest step in L1 moves (Tramèr and Boneh 2019 take 1 % on CIFAR and 20 % on MNIST)."""


class Geometry(Protocol):
    """What a norm can do. ``grain``: the least by which two radii can usefully differ."""

    grain: ClassVar[float]

    @staticmethod
    def length(delta: Tensor) -> Tensor:
        """The norm of each row, shape (B,)."""

    @staticmethod
    def shrink(delta: Tensor, radius: Tensor) -> Tensor:
        """The nearest point of the ball (in L2); an infinite radius changes nothing."""

    @staticmethod
    def steepest(gradient: Tensor, x_adv: Tensor) -> Tensor:
        """A direction of unit norm from ``x_adv`` along which a linear function with this gradient grows fast; zero where
        the gradient is."""

    @staticmethod
    def dual_length(gradient: Tensor) -> Tensor:
        """The dual norm of each row, (B,): how fast a linear function can grow per unit of this norm."""

    @staticmethod
    def onto_plane(x: Tensor, normal: Tensor, offset: Tensor) -> Tensor:
        """The smallest step from ``x`` to the plane ``normal . z + offset = 0`` (offset (B,)) that stays in the box [0, 1].

        Where the box does not meet the plane, the step that goes as far towards it as the box allows.
        """

    @staticmethod
    def uniform(like: Tensor, random: RowRandom) -> Tensor:
        """A point uniform in the unit ball."""


class Linf:
    grain: ClassVar[float] = 0.0

    @staticmethod
    def dual_length(gradient: Tensor) -> Tensor:
        return L1.length(gradient)

    @staticmethod
    def onto_plane(x: Tensor, normal: Tensor, offset: Tensor) -> Tensor:
        # Every entry moves by min(t, its room); the distance gained, a concave function of t, is linear between the rooms.
        gap, slope, room, sign = _towards_plane(x, normal, offset)
        return _restored(sign * torch.minimum(_level(gap, slope, room, torch.ones_like(slope)), room), x)

    @staticmethod
    def length(delta: Tensor) -> Tensor:
        return delta.abs().flatten(1).amax(1)

    @staticmethod
    def shrink(delta: Tensor, radius: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(delta, -radius), radius)

    @staticmethod
    def steepest(gradient: Tensor, x_adv: Tensor) -> Tensor:
        return gradient.sign()

    @staticmethod
    def uniform(like: Tensor, random: RowRandom) -> Tensor:
        return 2 * random.uniform(like) - 1


class L2:
    grain: ClassVar[float] = 0.0

    @staticmethod
    def dual_length(gradient: Tensor) -> Tensor:
        return L2.length(gradient)

    @staticmethod
    def onto_plane(x: Tensor, normal: Tensor, offset: Tensor) -> Tensor:
        # Every entry moves by min(t |slope|, its room): the KKT conditions of a projection on plane and box.
        gap, slope, room, sign = _towards_plane(x, normal, offset)
        return _restored(sign * torch.minimum(_level(gap, slope, room, slope) * slope, room), x)

    @staticmethod
    def length(delta: Tensor) -> Tensor:
        return delta.flatten(1).norm(dim=1)

    @staticmethod
    def shrink(delta: Tensor, radius: Tensor) -> Tensor:
        length = rows(L2.length(delta), delta)
        return delta * (radius / length.clamp_min(1e-38)).clamp_max(1)

    @staticmethod
    def steepest(gradient: Tensor, x_adv: Tensor) -> Tensor:
        # Scaled by the largest entry first, so the square of a small gradient does not underflow.
        scaled = gradient / rows(Linf.length(gradient), gradient).clamp_min(1e-38)
        return scaled / rows(L2.length(scaled), gradient).clamp_min(1e-12)

    @staticmethod
    def uniform(like: Tensor, random: RowRandom) -> Tensor:
        # Direction from a normal, radius u^(1/d): uniform in the unit ball of dimension d.
        direction = L2.steepest(random.normal(like), like)
        radius = random.uniform(like.flatten(1)[:, :1]) ** (1 / like[0].numel())
        return direction * rows(radius[:, 0], like)


class L1:
    """Its steepest step moves the largest 5 % of the entries alike (one entry alone, the exact answer, gains too little), but
    none that the box holds back."""

    grain: ClassVar[float] = 0.0

    @staticmethod
    def dual_length(gradient: Tensor) -> Tensor:
        return Linf.length(gradient)

    @staticmethod
    def onto_plane(x: Tensor, normal: Tensor, offset: Tensor) -> Tensor:
        # The steepest entries move first, each as far as its room.
        gap, slope, room, sign = _towards_plane(x, normal, offset)
        order = slope.argsort(dim=1, descending=True, stable=True)
        slope, reach = slope.gather(1, order), room.gather(1, order)
        before = (slope * reach).cumsum(1) - slope * reach
        moved = torch.minimum((gap - before).clamp_min(0) / slope.clamp_min(1e-38), reach)
        return _restored(sign * torch.zeros_like(moved).scatter(1, order, moved), x)

    @staticmethod
    def length(delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1)

    @staticmethod
    def shrink(delta: Tensor, radius: Tensor) -> Tensor:
        """Soft threshold at the level that makes the norm equal to the radius (Duchi et al. 2008, figure 1)."""
        flat, radius = delta.flatten(1), radius.flatten(1)
        size = flat.abs().sort(1, descending=True).values
        excess = size.cumsum(1) - radius
        count = torch.arange(1, flat.shape[1] + 1, device=flat.device, dtype=flat.dtype)
        support = (size * count > excess).sum(1, keepdim=True).clamp_min(1)
        level = (excess.gather(1, support - 1) / support).clamp_min(0).nan_to_num(0.0)
        shrunk = flat.sign() * (flat.abs() - level).clamp_min(0)
        return torch.where(flat.abs().sum(1, keepdim=True) > radius, shrunk, flat).view_as(delta)

    @staticmethod
    def steepest(gradient: Tensor, x_adv: Tensor) -> Tensor:
        stuck = ((x_adv <= 0) & (gradient < 0)) | ((x_adv >= 1) & (gradient > 0))
        flat = gradient.masked_fill(stuck, 0.0).flatten(1)
        signs = torch.where(largest(flat.abs(), max(1, round(SPARSE_SHARE * flat.shape[1]))), flat.sign(), 0.0)
        return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1)).view_as(gradient)

    @staticmethod
    def uniform(like: Tensor, random: RowRandom) -> Tensor:
        # Exponentials over their sum and one more are uniform in the simplex (Barthe et al. 2005 for p = 1).
        size = -torch.log1p(-random.uniform(like))
        rest = -torch.log1p(-random.uniform(like.flatten(1)[:, :1]))
        total = rows(size.flatten(1).sum(1) + rest[:, 0], like)
        return size / total.clamp_min(1e-38) * (2 * random.uniform(like) - 1).sign()


class L0:
    """Number of pixels changed in any channel. It has no gradient step: attacks for it choose pixels themselves."""

    grain: ClassVar[float] = 1.0

    @staticmethod
    def dual_length(gradient: Tensor) -> Tensor:
        # One pixel may move without limit (there is no norm to hold it), and so may the function.
        return torch.where(L1.length(gradient) > 0, torch.inf, 0.0).to(gradient.dtype)

    @staticmethod
    def onto_plane(x: Tensor, normal: Tensor, offset: Tensor) -> Tensor:
        raise NotImplementedError("L0 has no projection onto a plane")

    @staticmethod
    def length(delta: Tensor) -> Tensor:
        return (delta != 0).any(1).flatten(1).sum(1).to(delta.dtype)

    @staticmethod
    def shrink(delta: Tensor, radius: Tensor) -> Tensor:
        """Keeps the pixels that change most (in L2 over the channels)."""
        size = delta.square().sum(1).flatten(1)
        rank = size.argsort(dim=1, descending=True, stable=True).argsort(1)
        kept = (rank < radius.flatten(1).floor()).view(len(delta), 1, *delta.shape[2:])
        return torch.where(kept, delta, 0.0)

    @staticmethod
    def steepest(gradient: Tensor, x_adv: Tensor) -> Tensor:
        raise NotImplementedError("L0 has no steepest direction")

    @staticmethod
    def uniform(like: Tensor, random: RowRandom) -> Tensor:
        raise NotImplementedError("L0 has no uniform sample")


def _towards_plane(x: Tensor, normal: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distance to gain (B, 1), and per entry (B, D): |slope|, how far the box lets it go, and in which direction."""
    flat, normal = x.flatten(1), normal.flatten(1)
    value = (flat * normal).sum(1, keepdim=True) + offset.view(-1, 1)
    sign = -value.sign() * normal.sign()
    room = torch.where(sign > 0, 1 - flat, flat).clamp_min(0)
    return value.abs(), normal.abs(), room, sign


def _level(gap: Tensor, slope: Tensor, room: Tensor, speed: Tensor) -> Tensor:
    """The t at which entries that move by min(t * speed, room) gain ``gap``, (B, 1); the largest useful t where none does."""
    full = torch.where(speed > 0, room / speed.clamp_min(1e-38), 0.0)  # the t at which an entry has used up its room
    full, order = full.sort(1)
    rate = (slope * speed).gather(1, order)
    used = (slope * room).gather(1, order).cumsum(1)  # gained by the entries that are full
    rest = rate.sum(1, keepdim=True) - rate.cumsum(1)  # rate of those that still move, just after each breakpoint
    gained = used + full * rest  # at each breakpoint; grows along the row
    place = torch.searchsorted(gained.contiguous(), gap).clamp_max(full.shape[1] - 1)
    used_before = torch.where(place > 0, used.gather(1, (place - 1).clamp_min(0)), 0.0)
    rate_before = rest.gather(1, place) + rate.gather(1, place)
    t = (gap - used_before) / rate_before.clamp_min(1e-38)
    return torch.minimum(t, full[:, -1:]).clamp_min(0)


def _restored(flat: Tensor, x: Tensor) -> Tensor:
    return flat.view_as(x)


def largest(values: Tensor, count: int) -> Tensor:
    """Which ``count`` entries of each row, (B, D), are the largest, bool; the first of equal ones, where ``topk`` may take any,
    another on another processor or in another batch."""
    least = values.topk(count, dim=1).values[:, -1:]
    above, equal = values > least, values == least
    return above | (equal & (equal.cumsum(1) <= count - above.sum(1, keepdim=True)))


def rows(values: Tensor, like: Tensor) -> Tensor:
    """One value per row, shaped to multiply a batch like this one."""
    return values.view(-1, *[1] * (like.dim() - 1))
