"""HopSkipJump.

Values of the paper and its code: 64 iterations, 100 sqrt(t) images for the estimate of iteration t and at most 10 000, in a
radius of 0.1 in the first. After that the radius is 1 % of the distance, as ART has it. The paper's, the distance over the
number of entries (0.03 % on CIFAR), moves an entry by little more than float32 rounds: after 30 iterations on 24 images of
CIFAR's and an adversarially trained network the median distance was 0.97 with it and 0.84 with 1 % in L2, 0.068 and 0.041 in L∞.

Every step asks about the same number of images, so rows
of different age share a batch: the boundary is found by 26 sections, four times over (2e-6 of the way; 19 bisections), and
all step sizes of the geometric progression are tried at once.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.geometry import rows as per_row
from auditor.attacking.harness.decisions import START_QUERIES, blended_noise, first
from auditor.attacking.harness.population import adversarial, projected
from auditor.attacking.threat import Norm

POINTS, SECTIONINGS = 25, 4
"""Images per step, and steps to find the boundary."""
FIRST_DELTA = 0.1
BOUNDARY, ESTIMATE, LEAP = range(3)
"""What a row does in a step: look for the boundary, estimate its normal, leap along that."""


class StepPlan(NamedTuple):
    """For every step of a run, int64 (T,): what to do, the how-manieth step of that it is, and in which iteration."""

    phase: Tensor
    turn: Tensor
    iteration: Tensor


class HopSkipJump(Attack):
    """HopSkipJump (Chen et al. 2020, arXiv 1904.02144): leaps along the normal of the decision boundary, estimated from
    decisions.

    Each iteration finds the boundary between the image and an adversarial one, estimates the direction into the adversarial
    side from random points around it, and leaps as far as it remains adversarial.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})
    bounded: ClassVar[bool] = False
    minimizes: ClassVar[bool] = True
    uses_gradients: ClassVar[bool] = False
    title: ClassVar[str] = "HopSkipJump"
    kind: Literal["hop-skip-jump"] = "hop-skip-jump"
    steps: int = Field(64, ge=1, le=10_000, description="Iterations of one run.")
    first_samples: int = Field(100, ge=1, le=100_000, description="Images in the first estimate of the normal.")
    most_samples: int = Field(10_000, ge=1, le=1_000_000, description="Maximum images in an estimate.")
    radius: float = Field(0.01, gt=0, le=1, description="Radius of an estimate, as a share of the distance.")

    @property
    def iterations(self) -> int:
        return len(self._plan.phase)

    @property
    def cost(self) -> float:
        return float(self.iterations) * POINTS + START_QUERIES + 1

    @property
    def _plan(self) -> StepPlan:
        return _plan(self.steps, self.first_samples, self.most_samples)

    def start(self, rows: Rows, query: Query) -> Tensor:
        outer, zero = blended_noise(rows, query), rows.x.new_zeros(len(rows))
        rows.memory.update(outer=outer, low=zero, high=zero + 1, edge=outer)
        rows.memory.update(steered=torch.zeros_like(outer), drift=torch.zeros_like(outer), balance=zero)
        return outer

    def step(self, rows: Rows, query: Query) -> Tensor:
        query.retire(query.best_distance.isinf())
        phase = self._plan.phase[rows.steps.cpu()].numpy()
        points = rows.x.new_empty(len(rows), POINTS, *rows.x.shape[1:])
        parts = [(kind, torch.from_numpy(phase == kind).to(rows.x.device), rows[phase == kind]) for kind in range(3)]
        for kind, mask, part in parts:
            if len(part):
                points[mask] = (_sections, self._around, self._leaps)[kind](part)
        points = points.clamp(0, 1)
        hit = adversarial(rows, query.logits(points))
        for kind, mask, part in parts:
            if len(part):
                (_approach, self._steer, _land)[kind](part, points[mask], hit[mask])
                for name, value in part.memory.items():
                    rows.memory[name] = rows.memory[name].clone()
                    rows.memory[name][mask] = value
        return rows.memory["edge"]

    def _delta(self, rows: Rows) -> Tensor:
        """Radius of the estimate, (B, 1, 1, 1)."""
        distance = self.radius * rows.ball.distance(rows.memory["edge"], rows.x)
        opening = (self._plan.iteration[rows.steps.cpu()] == 0).to(rows.x.device)
        return per_row(torch.where(opening, FIRST_DELTA, distance).clamp(min=1e-12), rows.x)

    def _around(self, rows: Rows) -> Tensor:
        """Points at distance delta around the boundary point, in random directions."""
        noise = rows.random("directions").normal(rows.x[:, None].expand(-1, POINTS, -1, -1, -1))
        noise = noise / noise.flatten(2).norm(dim=2)[..., None, None, None]
        return rows.memory["edge"][:, None] + self._delta(rows)[:, None] * noise

    def _steer(self, rows: Rows, points: Tensor, hit: Tensor) -> None:
        """Adds these points to the estimate: sums of the directions, signed and not, and of the signs (equations 10, 16)."""
        memory, sign = rows.memory, 2.0 * hit.to(points) - 1
        directions = (points - memory["edge"][:, None]) / self._delta(rows)[:, None]
        fresh = (self._plan.turn[rows.steps.cpu()] == 0).to(rows.x.device)
        again = per_row((~fresh).to(points), rows.x)
        memory["steered"] = again * memory["steered"] + torch.einsum("bs,bschw->bchw", sign, directions)
        memory["drift"] = again * memory["drift"] + directions.sum(1)
        memory["balance"] = again.view(-1) * memory["balance"] + sign.sum(1)

    def _leaps(self, rows: Rows) -> Tensor:
        """The boundary point moved along the estimated normal by distance / sqrt(t), and by halves of that."""
        memory, iteration = rows.memory, self._plan.iteration[rows.steps.cpu()].to(rows.x.device)
        count = POINTS * (self._plan.turn[rows.steps.cpu()]).to(rows.x)  # images in this estimate
        mean = memory["balance"] / count
        one_sided = mean.abs() == 1  # then the mean would take everything away
        normal = memory["steered"] - per_row(torch.where(one_sided, 0.0, mean), rows.x) * memory["drift"]
        size = rows.ball.distance(memory["edge"], rows.x) / (iteration + 1).sqrt()
        sizes = size[:, None] * 0.5 ** torch.arange(POINTS, device=rows.x.device)
        direction = rows.ball.steepest(normal, rows.x)
        return memory["edge"][:, None] + sizes[..., None, None, None] * direction[:, None]


def _land(rows: Rows, points: Tensor, hit: Tensor) -> None:
    """The longest leap that is adversarial; the boundary point where none is. From there, look for the boundary again."""
    landed = points[torch.arange(len(points), device=points.device), first(hit)]
    memory = rows.memory
    memory["outer"] = torch.where(per_row(hit.any(1), rows.x), landed, memory["edge"])
    memory["low"], memory["high"] = torch.zeros_like(memory["low"]), torch.ones_like(memory["high"])


def _sections(rows: Rows) -> Tensor:
    """Points that divide the way from low to high evenly; ways are shares of the distance of the adversarial image."""
    return _shrunk(rows, _shares(rows))


def _approach(rows: Rows, points: Tensor, hit: Tensor) -> None:
    """Narrows the way to the section before the nearest adversarial point; that point is where the boundary is, so far."""
    memory, shares = rows.memory, _shares(rows)
    bounds = torch.cat([memory["low"][:, None], shares, memory["high"][:, None]], 1)
    index = torch.where(hit.any(1), first(hit), POINTS)[:, None]
    memory["low"], memory["high"] = bounds.gather(1, index)[:, 0], bounds.gather(1, index + 1)[:, 0]
    memory["edge"] = _shrunk(rows, memory["high"][:, None])[:, 0]


def _shares(rows: Rows) -> Tensor:
    low, high = rows.memory["low"][:, None], rows.memory["high"][:, None]
    return low + (high - low) * torch.arange(1, POINTS + 1, device=low.device) / (POINTS + 1)


def _shrunk(rows: Rows, shares: Tensor) -> Tensor:
    """The adversarial image drawn to these shares (B, S) of its distance, as the norm does it."""
    outer = rows.memory["outer"]
    radius = rows.ball.distance(outer, rows.x)[:, None] * shares
    return projected(rows, outer[:, None].expand(-1, shares.shape[1], -1, -1, -1), radius)


@cache
def _plan(steps: int, first_samples: int, most_samples: int) -> StepPlan:
    """A leap's index is the number of steps of its estimate."""
    plan = [(BOUNDARY, index, 0) for index in range(SECTIONINGS)]
    for iteration in range(steps):
        samples = min(int(first_samples * (iteration + 1) ** 0.5), most_samples)
        estimates = -(-samples // POINTS)
        plan += [(ESTIMATE, index, iteration) for index in range(estimates)]
        plan += [(LEAP, estimates, iteration)]
        plan += [(BOUNDARY, index, iteration) for index in range(SECTIONINGS)]
    return StepPlan(*torch.tensor(plan).unbind(1))
