"""Sets of as many channels of some layers: all of them, or a random sample; and where one of them stands among the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from auditor.kit.statistics.estimate import Rate
from auditor.neural.found import Found

Channels = tuple[tuple[int, ...], ...]
"""Of each of some layers the channels chosen, ascending."""


class ChannelSets(NamedTuple):
    """Different sets of channels, as many of each layer in all; every one of the ``possible`` ones, or a sample."""

    sets: tuple[Channels, ...]
    possible: int

    @property
    def whole(self) -> bool:
        return len(self.sets) == self.possible


def sets_of(counts: Sequence[int], sizes: Sequence[int], most: int, seed: int) -> ChannelSets:
    """Sets of ``counts`` channels of layers of ``sizes``: every one where there are at most ``most``, else ``most``, drawn
    alike and without repetition."""
    possible = math.prod(math.comb(size, count) for count, size in zip(counts, sizes, strict=True))
    if possible <= most:
        every = product(*(combinations(range(size), count) for count, size in zip(counts, sizes, strict=True)))
        return ChannelSets(tuple(every), possible)
    generator = np.random.default_rng(seed)
    drawn: dict[Channels, None] = {}
    while len(drawn) < most:
        chosen = (
            np.sort(generator.permutation(size)[:count]).tolist() for count, size in zip(counts, sizes, strict=True)
        )
        drawn[tuple(tuple(item) for item in chosen)] = None
    return ChannelSets(tuple(drawn), possible)


def masks_of(channels: Channels, sizes: Sequence[int], device: torch.device) -> list[Tensor]:
    """Of each layer, bool (1, M)."""
    found = []
    for chosen, size in zip(channels, sizes, strict=True):
        mask = torch.zeros(1, size, dtype=torch.bool, device=device)
        mask[0, list(chosen)] = True
        found.append(mask)
    return found


class Standing(Found):
    """Where a set of channels stands among others by its ``hits``.

    ``first`` to ``last``: its rank, 1 the best; a range where others have as many. ``as_many``: the rate of the ``others`` that
    have at least as many. ``p``: the same with the set itself among them.
    """

    hits: int
    first: int
    last: int
    others: int
    as_many: Rate
    p: float


def standing(own: Channels, sets: ChannelSets, hits: Mapping[Channels, int]) -> Standing:
    """Of the set ``own``, by the hits of every set."""
    others = np.array([hits[item] for item in sets.sets if item != own], np.int64)
    more, at_least = int((others > hits[own]).sum()), int((others >= hits[own]).sum())
    return Standing(
        hits=hits[own],
        first=more + 1,
        last=at_least + 1,
        others=len(others),
        as_many=Rate.count(at_least, len(others)),
        p=(at_least + 1) / (len(others) + 1),
    )
