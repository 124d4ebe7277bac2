"""ModelQuery: one step's questions to the model; every answer is counted and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.attacking.attack import Gradient, Jacobian, Loss, Rows
from auditor.attacking.criterion import Criterion
from auditor.models.classifier import Classifier, input_gradient

TIE = 1e-6
"""Distances that differ by less than this share are equal, and the first image counts: rounding must not choose among images at
the edge of the ball."""


def finite_or_zero(logits: Tensor) -> Tensor:
    """The logits with zeros in rows that are not finite: an attack sees no way there, and the harness judges the row as it is."""
    return torch.where(logits.isfinite().all(-1, keepdim=True), logits, 0.0)


class PassCounts(NamedTuple):
    """Counters over all samples of a run, int64 (N,); ``blind``: a gradient was zero or not finite, bool (N,)."""

    forwards: NDArray[np.int64]
    backwards: NDArray[np.int64]
    blind: NDArray[np.bool_]


class ModelQuery:
    """The questions of one step (see ``auditor.attacking.attack.Query``), answered ``batch_size`` images at a time."""

    def __init__(self, model: Classifier, rows: Rows, passes: PassCounts, batch_size: int) -> None:
        self.model, self.rows, self.passes, self.batch_size = model, rows, passes, batch_size
        self.best, self.best_logits, self.best_distance = rows.best, rows.best_logits, rows.best_distance
        self.retired = np.zeros(len(rows), bool)

    def logits(self, points: Tensor | None = None) -> Tensor:
        return finite_or_zero(self.answers(points))

    def answers(self, points: Tensor | None = None) -> Tensor:
        """The logits as they are, NaN or infinite ones among them."""
        points = self._boxed(points)
        flat, _, images = self._flat(points)
        with torch.no_grad():
            logits = torch.cat([self.model(part) for part in flat.split(self.batch_size)])
        self.passes.forwards[self.rows.position] += images * self.model.draws
        self._judge(flat, logits, images)
        return logits.view(*points.shape[: points.dim() - 3], -1)

    def gradient(self, points: Tensor | None = None, loss: Loss | None = None) -> Gradient:
        points = self._boxed(points)
        flat, criterion, images = self._flat(points)
        parts = [
            self._slope(part, criterion[index], loss)
            for part, index in zip(
                flat.split(self.batch_size),
                torch.arange(len(flat), device=flat.device).split(self.batch_size),
                strict=True,
            )
        ]
        value, losses, logits = (torch.cat(item) for item in zip(*parts, strict=True))
        self.passes.forwards[self.rows.position] += images * self.model.draws
        self.passes.backwards[self.rows.position] += images * self.model.draws
        self._note_blindness(value.view(len(points), -1))
        self._judge(flat, logits, images)
        lead = points.shape[: points.dim() - 3]
        value = value.nan_to_num(0.0, 0.0, 0.0).view_as(points)
        return Gradient(value, losses.view(lead), finite_or_zero(logits).view(*lead, -1))

    def jacobian(self, outputs: Callable[[Tensor], Tensor], points: Tensor | None = None) -> Jacobian:
        points = self._boxed(points).detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(points)
            chosen = outputs(finite_or_zero(logits))
            count = chosen.shape[1]
            gradients = [
                input_gradient(chosen[:, index].sum(), points, retain_graph=index + 1 < count) for index in range(count)
            ]
        value = torch.stack(gradients, 1).contiguous()
        self.passes.forwards[self.rows.position] += self.model.draws
        self.passes.backwards[self.rows.position] += count * self.model.draws
        self._note_blindness(value.flatten(1))
        self._judge(points.detach(), logits.detach(), 1)
        return Jacobian(value.nan_to_num(0.0, 0.0, 0.0), chosen.detach(), finite_or_zero(logits.detach()))

    def updated(self) -> Rows:
        """The rows with what these questions found."""
        return replace(self.rows, best=self.best, best_logits=self.best_logits, best_distance=self.best_distance)

    def retire(self, rows: Tensor) -> None:
        self.retired |= rows.cpu().numpy()

    def _slope(self, points: Tensor, criterion: Criterion, loss: Loss | None) -> tuple[Tensor, Tensor, Tensor]:
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(points)
            used = finite_or_zero(logits)
            losses = criterion.loss(used) if loss is None else loss(criterion, used)
            value = input_gradient(losses.sum(), points)
        return value.contiguous(), losses.detach(), logits.detach()

    def _boxed(self, points: Tensor | None) -> Tensor:
        return self.rows.x_adv if points is None else points.detach().clamp(0, 1)

    def _flat(self, points: Tensor) -> tuple[Tensor, Criterion, int]:
        """The points as one batch, the criterion of each, and how many there are per row."""
        if points.dim() == self.rows.x.dim():
            return points, self.rows.criterion, 1
        images = points.shape[1]
        index = torch.arange(len(points), device=points.device).repeat_interleave(images)
        return points.flatten(0, 1), self.rows.criterion[index], images

    def _note_blindness(self, gradients: Tensor) -> None:
        largest = gradients.abs().amax(1)  # NaN where an entry is
        usable = largest.isfinite() & (largest > 0)
        self.passes.blind[self.rows.position] |= ~usable.cpu().numpy()

    def _judge(self, points: Tensor, logits: Tensor, images: int) -> None:
        """Remember the closest of these images that has what the attacker wants."""
        criterion = self.rows.criterion
        if images > 1:
            criterion = criterion[torch.arange(len(self.rows), device=points.device).repeat_interleave(images)]
        self._look(points, logits, criterion, images)
        index = criterion.is_adversarial(logits).nonzero().squeeze(1)
        if not len(index):
            return
        owner = index // images
        distance = self.rows.ball.distance(points[index], self.rows.x[owner])
        if images > 1:  # only the closest image of each row counts
            nearest = self.best_distance.new_full((len(self.rows),), torch.inf)
            nearest = nearest.scatter_reduce(0, owner, distance, "amin")
            first = distance <= nearest[owner] * (1 + TIE)
            first &= ~_seen_before(owner, first)
            index, owner, distance = index[first], owner[first], distance[first]
        closer = distance < self.best_distance[owner] * (1 - TIE)
        index, owner, distance = index[closer], owner[closer], distance[closer]
        sure = self._sure(points[index], criterion[index], owner)
        index, owner, distance = index[sure], owner[sure], distance[sure]
        self.best = self.best.index_copy(0, owner, points[index].detach())
        self.best_logits = self.best_logits.index_copy(0, owner, logits[index].detach())
        self.best_distance = self.best_distance.index_copy(0, owner, distance)

    def _look(self, points: Tensor, logits: Tensor, criterion: Criterion, images: int) -> None:
        """See every image that was asked about, ``images`` to a row, adversarial or not."""

    def _sure(self, points: Tensor, criterion: Criterion, owner: Tensor) -> Tensor:
        """Which of these adversarial images, of the rows ``owner``, do count; bool."""
        return torch.ones_like(owner, dtype=torch.bool)


def _seen_before(owner: Tensor, chosen: Tensor) -> Tensor:
    """For each entry: was an earlier entry of the same owner chosen? ``owner`` is sorted."""
    before = chosen.long().cumsum(0) - chosen.long()
    start = torch.searchsorted(owner, owner)
    return before > before[start]
