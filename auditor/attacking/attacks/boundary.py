"""The boundary attack.

Values of foolbox 2.3: both steps 0.01 of the distance at first and adapted by a factor of 1.5, 5000 iterations of up to 25
directions each, success rates of the orthogonal step between 20 % and 50 % and of the step to the source between 10 % and
25 %. There one iteration in ten is counted for them; here each proposal is, and each tenth tells of the orthogonal step.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.geometry import L2
from auditor.attacking.geometry import rows as per_row
from auditor.attacking.harness.decisions import START_QUERIES, blended_noise
from auditor.attacking.threat import Norm

CHECK_EVERY = 10
"""One proposal in ten is the orthogonal step alone, for its success rate."""
ORTHOGONAL_WINDOW, SOURCE_WINDOW = 20, 30
"""Proposals after which a success rate is judged."""
CONVERGED = 1e-6
"""A run is over when the step to the source is a smaller share of the distance than this."""


class Boundary(Attack):
    """Boundary attack (Brendel et al. 2018, arXiv 1712.04248): a walk along the decision boundary towards the image.

    It sees decisions only. From an adversarial blend with noise, each proposal goes a random step at the same distance from
    the image and then a step towards it, and is taken if it is still adversarial.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L2})
    bounded: ClassVar[bool] = False
    minimizes: ClassVar[bool] = True
    uses_gradients: ClassVar[bool] = False
    title: ClassVar[str] = "Boundary attack"
    kind: Literal["boundary"] = "boundary"
    steps: int = Field(
        5000, ge=1, le=100_000, description="Moves of one run; a move that fails in all directions counts too."
    )
    directions: int = Field(25, ge=1, le=1000, description="Random directions tried per move.")
    orthogonal_step: float = Field(0.01, gt=0, le=1, description="First orthogonal step, as a share of the distance.")
    source_step: float = Field(0.01, gt=0, le=1, description="First step to the image, as a share of the distance.")
    adaptation: float = Field(1.5, gt=1, le=10, description="Factor by which the steps are adapted.")

    @property
    def iterations(self) -> int:
        return self.steps * self.directions

    @property
    def cost(self) -> float:
        return self.iterations + START_QUERIES + 1.0

    def start(self, rows: Rows, query: Query) -> Tensor:
        zero = rows.x.new_zeros(len(rows))
        rows.memory["orthogonal"], rows.memory["source"] = zero + self.orthogonal_step, zero + self.source_step
        for name in ("orthogonal_tries", "orthogonal_hits", "source_tries", "source_hits", "moves", "failed"):
            rows.memory[name] = zero
        return blended_noise(rows, query)

    def step(self, rows: Rows, query: Query) -> Tensor:
        hit = rows.criterion.is_adversarial(query.logits())
        proposed = rows.steps > 0  # at step 0 it is the start that was judged
        checked = proposed & (rows.steps % CHECK_EVERY == 0)
        moved = proposed & ~checked
        self._count_moves(rows, moved, hit)
        self._adapt(rows, "orthogonal", ("orthogonal", "source"), checked, hit, ORTHOGONAL_WINDOW, (0.2, 0.5))
        self._adapt(rows, "source", ("source",), moved, hit, SOURCE_WINDOW, (0.1, 0.25))
        memory = rows.memory
        query.retire(query.best_distance.isinf() | (memory["moves"] >= self.steps) | (memory["source"] < CONVERGED))
        checks_next = per_row((rows.steps + 1) % CHECK_EVERY == 0, rows.x)
        around, closer = _proposals(rows, query.best, memory["orthogonal"], memory["source"])
        return torch.where(checks_next, around, closer)

    def _count_moves(self, rows: Rows, moved: Tensor, hit: Tensor) -> None:
        failed = torch.where(moved, torch.where(hit, 0.0, rows.memory["failed"] + 1), rows.memory["failed"])
        over = moved & (hit | (failed >= self.directions))
        rows.memory["moves"] = rows.memory["moves"] + over
        rows.memory["failed"] = torch.where(over, 0.0, failed)

    def _adapt(
        self,
        rows: Rows,
        name: str,
        sizes: tuple[str, ...],
        counts: Tensor,
        hit: Tensor,
        window: int,
        good: tuple[float, float],
    ) -> None:
        """Once per ``window`` proposals that count: longer steps where more than a good share was adversarial, else shorter."""
        tries = rows.memory[f"{name}_tries"] + counts
        hits = rows.memory[f"{name}_hits"] + (counts & hit)
        full = tries >= window
        rate = hits / window
        factor = torch.where(rate > good[1], self.adaptation, torch.where(rate < good[0], 1 / self.adaptation, 1.0))
        for size in sizes:
            rows.memory[size] = torch.where(full, rows.memory[size] * factor, rows.memory[size])
        rows.memory[f"{name}_tries"] = torch.where(full, 0.0, tries)
        rows.memory[f"{name}_hits"] = torch.where(full, 0.0, hits)


def _proposals(rows: Rows, x_adv: Tensor, orthogonal: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """A random image at the distance of ``x_adv``, and the one reached from there by a step towards the clean image."""
    orthogonal, source = per_row(orthogonal, rows.x), per_row(source, rows.x)
    away = x_adv - rows.x
    distance = _length(away)
    noise = rows.random("direction").normal(rows.x)
    along = (noise * away).sum((1, 2, 3), keepdim=True) / distance.square()
    aside = noise - along * away
    aside = aside * (orthogonal * distance / _length(aside))
    around = (rows.x + (away + aside) / (1 + orthogonal.square()).sqrt()).clamp(0, 1)
    back = rows.x - around
    reached = _length(back)  # the box may have changed the distance
    share = ((source * distance + reached - distance) / reached).clamp(min=0)
    return around, around + share * back


def _length(delta: Tensor) -> Tensor:
    return per_row(L2.length(delta), delta).clamp(min=1e-12)
