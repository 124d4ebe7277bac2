"""The one-pixel attack.

Values of the paper: 400 candidates, at most 75 generations on ImageNet and 100 on CIFAR-10 (here 75), F = 0.5, no crossover,
places uniform and colours normal with mean 128/255 and standard deviation 127/255 at first.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.criterion import Criterion
from auditor.attacking.harness.population import BLOCK, losses
from auditor.attacking.threat import Norm

WEIGHT = 0.5
"""F: how much of the difference of two candidates is added to a third."""
YELLOW_COST = 32.0 * 32 + 1
"""Passes of the search for a yellow pixel, in images of CIFAR's size; there is one for each pixel."""
COLOUR_MEAN, COLOUR_SPREAD = 128 / 255, 127 / 255


class OnePixel(Attack):
    """One-pixel attack (Su et al. 2019, arXiv 1710.08864): differential evolution of the place and colour of a few pixels.

    A child replaces its parent if the class to leave (or to reach) became less (more) likely. With search = "yellow" there is
    no evolution: one pixel is set to yellow at every place in turn (Chen et al., arXiv 2112.13060, appendix).
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L0})
    uses_gradients: ClassVar[bool] = False
    title: ClassVar[str] = "One pixel"
    kind: Literal["one-pixel"] = "one-pixel"
    search: Literal["evolution", "yellow"] = Field(
        "evolution", description="evolution of place and colour, or yellow: every place, with one colour."
    )
    pixels: int = Field(1, ge=1, le=100, description="Pixels changed, as far as epsilon allows.")
    population: int = Field(400, ge=4, le=10_000, description="Candidates per generation.")
    generations: int = Field(75, ge=1, le=10_000, description="Generations after the first.")

    @property
    def iterations(self) -> int:
        return 1 if self.search == "yellow" else self.generations + 1

    @property
    def cost(self) -> float:
        return YELLOW_COST if self.search == "yellow" else self.population * float(self.iterations) + 1

    def start(self, rows: Rows, query: Query) -> Tensor:
        genes = self.pixels * (2 + rows.x.shape[1])
        rows.memory["candidates"] = rows.x.new_zeros(len(rows), self.population, genes)
        rows.memory["fitness"] = rows.x.new_full((len(rows), self.population), -torch.inf)
        return rows.x

    def step(self, rows: Rows, query: Query) -> Tensor:
        if self.search == "yellow":
            _ask(rows, query, _yellow(rows.x))
            return rows.x
        parents, fitness = rows.memory["candidates"], rows.memory["fitness"]
        children = self._fresh(rows)
        children = torch.where(rows.steps.view(-1, 1, 1) == 0, children, self._bred(rows, parents, children))
        scores = _ask(rows, query, children)
        better = scores > fitness
        rows.memory["candidates"] = parents = torch.where(better[:, :, None], children, parents)
        rows.memory["fitness"] = fitness = torch.where(better, scores, fitness)
        best = parents.gather(1, fitness.argmax(1)[:, None, None].expand(-1, 1, parents.shape[2]))
        return _painted(rows, best)[:, 0]

    def _fresh(self, rows: Rows) -> Tensor:
        """Random candidates; genes lie in [0, 1): row, column and colour of each pixel."""
        random, channels = rows.random("fresh"), rows.x.shape[1]
        shape = (len(rows), self.population, self.pixels)
        place = random.uniform(rows.x.new_empty(*shape, 2))
        colour = COLOUR_MEAN + COLOUR_SPREAD * random.normal(rows.x.new_empty(*shape, channels))
        return torch.cat([place, colour.clamp(0, 1)], 3).flatten(2)

    def _bred(self, rows: Rows, parents: Tensor, fresh: Tensor) -> Tensor:
        """x_1 + F (x_2 - x_3) of three different candidates; a gene that leaves its range is drawn again, as scipy does."""
        draws = rows.random("parents").uniform(rows.x.new_empty(len(rows), self.population, 3))
        first, second, third = (
            parents.gather(1, index[:, :, None].expand_as(parents)) for index in _different(draws, self.population)
        )
        children = first + WEIGHT * (second - third)
        return torch.where((children < 0) | (children > 1), fresh, children)


def _different(draws: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three different indices below ``count``, from uniform draws (B, S, 3)."""
    first, second, third = ((draws[..., place] * (count - place)).long() for place in range(3))
    second = second + (second >= first)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    third = third + (third >= low)
    return first, second, third + (third >= high)


def _yellow(x: Tensor) -> Tensor:
    """A candidate for every place, (B, H * W, 2 + C): full in the first two channels."""
    channels, height, width = x.shape[1:]
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([(row + 0.5) / height, (column + 0.5) / width], 2).flatten(0, 1)
    colour = (torch.arange(channels) < 2).expand(height * width, channels)
    return torch.cat([place, colour], 1).to(x).expand(len(x), -1, -1)


def _ask(rows: Rows, query: Query, candidates: Tensor) -> Tensor:
    """The fitness of each candidate, (B, S)."""
    parts = [losses(_likelihood, rows, query.logits(_painted(rows, part))) for part in candidates.split(BLOCK, 1)]
    return torch.cat(parts, 1)


def _likelihood(criterion: Criterion, logits: Tensor) -> Tensor:
    """Grows as the class to leave becomes less likely, or the target likelier."""
    return criterion.loss(logits)


def _painted(rows: Rows, candidates: Tensor) -> Tensor:
    """The images, (B, S, C, H, W), of candidates (B, S, pixels * (2 + C))."""
    channels, height, width = rows.x.shape[1:]
    count, images = candidates.shape[:2]
    genes = candidates.view(count, images, -1, 2 + channels)
    row, column = ((genes[..., axis] * size).long().clamp(max=size - 1) for axis, size in enumerate((height, width)))
    place, colour = (row * width + column)[:, :, None], genes[..., 2:].transpose(2, 3)
    allowed = torch.arange(place.shape[3], device=place.device) < rows.epsilon.view(-1, 1, 1, 1)
    place, colour = (
        torch.where(allowed, value, value[..., :1]) for value in (place, colour)
    )  # else the first one again
    flat = rows.x.flatten(2)[:, None].repeat(1, images, 1, 1)
    painted = flat.scatter(3, place.expand(-1, -1, channels, -1), colour)
    return painted.view(count, images, channels, height, width)
