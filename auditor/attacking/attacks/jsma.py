"""JSMA. Defaults: those of foolbox 2.3, as in NIP; the paper moves a pair of values all the way, as often as they can."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.criterion import TargetedMisclassification
from auditor.attacking.geometry import L2
from auditor.attacking.geometry import rows as per_row
from auditor.attacking.threat import Norm

RAY = 20
"""Lengths tried along the gradient to find a target, in equal ratios from 0.001 to 1 per entry (root mean square)."""


class Moves(NamedTuple):
    """``entries``: the channel values to move, int64, (B, 1 or 2). ``sign``: up or down, the same shape. ``gain``: (B,)."""

    entries: Tensor
    sign: Tensor
    gain: Tensor


class JSMA(Attack):
    """Jacobian-based saliency map attack (Papernot et al. 2016, arXiv 1511.07528): moves the few values that matter most.

    Towards one target class at each step: a single value down (foolbox 2.3's fast map, whose fixed beta = -1 never moves one
    up), a single value in either direction, or the best pair of values up (the paper's algorithm 3). Unlike in foolbox, values
    that cannot move are never tried. A run ends at its first adversarial image, or when no move helps; under the fixed budget
    also when more pixels than epsilon have changed.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L0})
    bounded: ClassVar[bool] = False
    minimizes: ClassVar[bool] = True
    title: ClassVar[str] = "JSMA"
    kind: Literal["jsma"] = "jsma"
    form: Literal["single", "signed", "pairs"] = Field(
        "single",
        description="single: one value down (foolbox). signed: one value up or down. pairs: two values up (the paper).",
    )
    steps: int = Field(2000, ge=1, le=100_000, description="Maximum moves of one run.")
    theta: float = Field(0.1, gt=0, le=1, description="How far one move changes a value, for values in [0, 1].")
    changes: int = Field(7, ge=1, le=1000, description="How often one value may be moved.")
    target: Literal["likeliest", "gradient"] = Field(
        "gradient",
        description="The class to aim at when any will do. likeliest: the second most likely on the clean image. "
        "gradient: the first class reached by moving along the gradient of the loss (foolbox).",
    )
    outputs: Literal["logits", "probabilities"] = Field(
        "logits",
        description="Rank pairs by the logits or by their softmax (the literature has both).",
    )

    @property
    def iterations(self) -> int:
        return self.steps

    @property
    def cost(self) -> float:
        return (5.0 if self.form == "pairs" else 3.0) * self.steps + 1 + (RAY + 3 if self.target == "gradient" else 1)

    def start(self, rows: Rows, query: Query) -> Tensor:
        rows.memory["changes"] = torch.zeros_like(rows.x, dtype=torch.int16)
        telling = _first_success(rows, query) if self.target == "gradient" else query.logits(rows.x)
        rows.memory["target"] = rows.criterion.reach(telling)[:, 0]
        return rows.x

    def step(self, rows: Rows, query: Query) -> Tensor:
        choose = self._pairs if self.form == "pairs" else self._single
        moves, logits = choose(rows, query)
        over = rows.criterion.is_adversarial(logits) | (moves.gain <= 0)
        if self.budget == "fixed":  # a changed pixel stays changed
            over |= rows.ball.distance(rows.x_adv, rows.x) > rows.epsilon
        query.retire(over)
        changes = rows.memory["changes"].flatten(1)
        once = torch.ones_like(moves.entries, dtype=changes.dtype)
        rows.memory["changes"] = changes.scatter_add(1, moves.entries, once).view_as(rows.x)
        moved = rows.x_adv.flatten(1).scatter_add(1, moves.entries, self.theta * moves.sign).view_as(rows.x)
        return torch.where(per_row(over, moved), rows.x_adv, moved)

    def _single(self, rows: Rows, query: Query) -> tuple[Moves, Tensor]:
        """The value whose move raises the log-probability of the target most."""
        goal = TargetedMisclassification(rows.memory["target"])
        value, _, logits = query.jacobian(lambda logits: goal.loss(logits)[:, None])
        slope = value.flatten(1)
        room = torch.where(slope < 0, rows.x_adv.flatten(1) > 0, rows.x_adv.flatten(1) < 1)
        score = -slope if self.form == "single" else slope.abs()
        gain, index = score.masked_fill(~(room & self._open(rows)), -torch.inf).max(1, keepdim=True)
        return Moves(index, slope.gather(1, index).sign(), gain.squeeze(1)), logits

    def _pairs(self, rows: Rows, query: Query) -> tuple[Moves, Tensor]:
        """The pair that raises the target and lowers the sum of the others most: the largest product of the two."""

        def target_and_others(logits: Tensor) -> Tensor:
            # Probabilities add up to 1: summed one by one, the others would drown in rounding where the model is sure.
            outputs = logits if self.outputs == "logits" else logits.softmax(1)
            raised = outputs.gather(1, rows.memory["target"][:, None]).squeeze(1)
            total = logits.sum(1) if self.outputs == "logits" else torch.ones_like(raised)
            return torch.stack([raised, total - raised], 1)

        value, _, logits = query.jacobian(target_and_others)
        raises, lowers = value[:, 0].flatten(1), -value[:, 1].flatten(1)
        can_move = (rows.x_adv.flatten(1) < 1) & self._open(rows)
        gain, index = best_pair(raises, lowers, can_move)
        return Moves(index, torch.ones_like(index, dtype=raises.dtype), gain), logits

    def _open(self, rows: Rows) -> Tensor:
        return rows.memory["changes"].flatten(1) < self.changes


def _first_success(rows: Rows, query: Query) -> Tensor:
    """Logits at the first adversarial image along the gradient, (B, K); at the clean image if there is none."""
    gradient, _, clean = query.gradient(rows.x)
    direction = L2.steepest(gradient, rows.x) * rows.x[0].numel() ** 0.5
    lengths = torch.logspace(-3, 0, RAY, dtype=direction.dtype, device=direction.device).view(1, -1, 1, 1, 1)
    logits = query.logits(rows.x[:, None] + lengths * direction[:, None])
    index = torch.arange(len(rows), device=logits.device)
    succeeds = rows.criterion[index.repeat_interleave(RAY)].is_adversarial(logits.flatten(0, 1)).view(len(rows), RAY)
    first = logits[index, succeeds.int().argmax(1)]
    return torch.where(succeeds.any(1)[:, None], first, clean)


def best_pair(raises: Tensor, lowers: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The pair p != q of allowed entries with the largest (raises_p + raises_q) * (lowers_p + lowers_q), both sums positive.

    Inputs (B, D); returns that product, (B,), not positive if there is no such pair, and the pair's indices, (B, 2).
    An entry that two others match or beat in both respects is never needed, since one of the two can take its place; the few
    that are left are tried in all pairs.
    """
    raises, lowers = raises.masked_fill(~allowed, -torch.inf), lowers.masked_fill(~allowed, -torch.inf)
    raises, order = raises.sort(dim=1, descending=True, stable=True)
    lowers = lowers.gather(1, order)
    # Running maximum before each entry, and running second maximum: an entry counts against itself never.
    none = torch.full_like(lowers[:, :1], -torch.inf)
    largest = torch.cat([none, lowers.cummax(1).values[:, :-1]], 1)
    second = torch.cat([none, torch.minimum(lowers, largest).cummax(1).values[:, :-1]], 1)
    needed = (lowers > second) & raises.isfinite()
    count = max(2, int(needed.sum(1).max()))
    kept = needed.int().sort(dim=1, descending=True, stable=True).indices[:, :count]
    usable = needed.gather(1, kept)
    a, b = raises.gather(1, kept), lowers.gather(1, kept)
    a, b = (item[:, :, None] + item[:, None, :] for item in (a, b))
    valid = (
        usable[:, :, None]
        & usable[:, None, :]
        & (a > 0)
        & (b > 0)
        & ~torch.eye(count, dtype=torch.bool, device=a.device)
    )
    gain, flat = torch.where(valid, a * b, -torch.inf).flatten(1).max(1)
    pair = torch.stack([flat // count, flat % count], 1)
    return gain, order.gather(1, kept.gather(1, pair))
