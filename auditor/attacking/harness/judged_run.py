"""JudgedRun: an attack on a model whose answers differ from draw to draw, or on another view than the model that judges."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.attacking.attack import Rows
from auditor.attacking.criterion import Criterion
from auditor.attacking.geometry import rows as per_row
from auditor.attacking.harness.attack_run import AttackRun
from auditor.attacking.harness.jury import Jury, wanted_share
from auditor.attacking.harness.losses import margin
from auditor.attacking.harness.outcome import Finished, Outcome
from auditor.attacking.harness.query import ModelQuery, PassCounts
from auditor.attacking.harness.rounding import slack
from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier

SURE = 0.75
"""A search for the closest image counts one where this share of the draws gives the attacker what they want: at half of them, one
that only luck brought there would often be kept."""


@dataclass
class JudgedRun(AttackRun):
    """An attack that cannot trust its own eyes.

    Its queries answer for a view that averages over draws; an image that just fools this view may fool few draws of the model.
    So within a fixed budget a run makes all its steps. Its last image, and the one within epsilon that looked best on the way,
    are compared by draws of the model that judges; further runs are made while one of these draws is still right. Under the
    minimal budget an image counts where most draws confirm it. Either way fresh draws, at the very end, give the verdict.
    """

    jury: Jury = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.share, self.chosen = np.zeros(len(self.ids)), np.zeros(len(self.ids))

    def _outcome(self, seconds: float) -> Outcome:
        return super()._outcome(seconds)._replace(share=self.share, chosen=self.chosen)

    def _new(self, position: NDArray[np.int64]) -> Rows:
        rows = super()._new(position)
        none = torch.full_like(rows.epsilon, -torch.inf)
        return rows if self.searching else replace(rows, peak=rows.x, peak_margin=none, kept=rows.x, kept_share=none)

    def _begun(self, rows: Rows) -> Rows:
        if rows.peak_margin is not None:
            rows = replace(rows, peak=rows.x, peak_margin=torch.full_like(rows.peak_margin, -torch.inf))
        return super()._begun(rows)

    def _query(self, rows: Rows, passes: PassCounts, model: Classifier | None = None) -> ModelQuery:
        return WatchedQuery(model or self.fast, rows, passes, self.batch_size, self.jury)

    def _leaves(self, rows: Rows) -> NDArray[np.bool_]:
        return super()._leaves(rows) if self.searching else np.zeros(len(rows), bool)

    def _judged(self, rows: Rows, proposal: Tensor | None = None) -> Rows:
        """Within a fixed budget, the rows with the best image of this run and those before it."""
        if self.searching:
            return super()._judged(rows, proposal)
        rows = self._compared(rows, rows.x_adv)
        if self.early_stop and rows.peak is not None:
            rows = self._compared(rows, rows.peak)
        return rows

    def _compared(self, rows: Rows, images: Tensor) -> Rows:
        """With these images where more draws give the attacker what they want; one beyond epsilon only if there is no other."""
        assert rows.kept is not None
        assert rows.kept_share is not None
        inside = rows.ball.distance(images, rows.x) <= rows.epsilon + slack(rows)
        share = self.jury.share(images, rows.criterion).to(rows.kept_share)
        self.passes.forwards[rows.position] += self.jury.draws
        share = torch.where(inside, share, share - 3)
        better = share > rows.kept_share
        kept = torch.where(per_row(better, images), images, rows.kept)
        return replace(rows, kept=kept, kept_share=torch.where(better, share, rows.kept_share))

    def _within(self, rows: Rows) -> NDArray[np.bool_]:
        """Which rows hold an image that leaves nothing to win within their radius."""
        return super()._within(rows) if rows.kept_share is None else (rows.kept_share >= 1).cpu().numpy()

    def _record(self, rows: Rows) -> None:
        if not len(rows):
            return
        place = rows.position
        if rows.kept is not None and rows.kept_share is not None:
            final, chosen = rows.kept, rows.kept_share.clamp_min(-1)
        else:
            final = torch.where(per_row(rows.best_distance.isinf(), rows.x), rows.x_adv, rows.best)
            chosen = self.jury.share(final, rows.criterion)
        if final.amin() < 0 or final.amax() > 1:
            raise EvaluationError(f"{self.attack.display_title()} left the box [0, 1].")
        hearing = self.jury.hear(final, "judge")
        self.passes.forwards[place] += self.jury.draws
        distance, won = rows.ball.distance(final, rows.x), rows.criterion.is_adversarial(hearing.ballot)
        epsilon = torch.full_like(distance, self.threat.epsilon)
        fooled = (won & (distance <= epsilon + slack(replace(rows, epsilon=epsilon)))).cpu().numpy()
        self.fooled[place] = fooled
        self.prediction[place] = hearing.prediction.cpu().numpy()
        self.confidence[place] = hearing.confidence.cpu().numpy()
        self.distance[place] = distance.double().cpu().numpy()
        self.closest[place] = torch.where(won, distance, torch.inf).double().cpu().numpy()
        self.share[place] = wanted_share(hearing, rows.criterion).cpu().numpy()
        self.chosen[place] = chosen.double().cpu().numpy()
        self.finished += len(rows)
        if self.on_finished is not None:
            self.on_finished(Finished(place, rows.x, final, fooled, self.chosen[place]))


class WatchedQuery(ModelQuery):
    """Remembers, within a fixed budget, the image within epsilon of the largest margin; else lets a jury confirm each success."""

    def __init__(self, model: Classifier, rows: Rows, passes: PassCounts, batch_size: int, jury: Jury) -> None:
        super().__init__(model, rows, passes, batch_size)
        self.peak, self.peak_margin, self.jury = rows.peak, rows.peak_margin, jury

    def updated(self) -> Rows:
        return replace(super().updated(), peak=self.peak, peak_margin=self.peak_margin)

    def _look(self, points: Tensor, logits: Tensor, criterion: Criterion, images: int) -> None:
        if self.peak is None or self.peak_margin is None:
            return
        rows = self.rows
        owner = torch.arange(len(points), device=points.device) // images
        inside = rows.ball.distance(points, rows.x[owner]) <= (rows.epsilon + slack(rows))[owner]
        won = torch.where(inside, margin(criterion, logits).to(self.peak_margin), -torch.inf).view(len(rows), images)
        value, index = won.max(1)
        better = value > self.peak_margin
        chosen = points.view(len(rows), images, *points.shape[1:])[torch.arange(len(rows), device=points.device), index]
        self.peak = torch.where(per_row(better, chosen), chosen.detach(), self.peak)
        self.peak_margin = torch.where(better, value, self.peak_margin)

    def _sure(self, points: Tensor, criterion: Criterion, owner: Tensor) -> Tensor:
        if self.peak is not None or not len(points):
            return super()._sure(points, criterion, owner)
        np.add.at(self.passes.forwards, self.rows.position[owner.cpu().numpy()], self.jury.draws)
        return self.jury.share(points, criterion) >= SURE
