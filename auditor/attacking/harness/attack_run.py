"""AttackRun: keeps batches full, projects every proposal, judges every image, drops rows already fooled, counts passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.attacking.attack import Attack, Rows
from auditor.attacking.criterion import Criterion
from auditor.attacking.harness.fast import fast_copy
from auditor.attacking.harness.outcome import Finished, Outcome
from auditor.attacking.harness.query import ModelQuery, PassCounts, finite_or_zero
from auditor.attacking.harness.radius_search import next_radius
from auditor.attacking.harness.rounding import slack
from auditor.attacking.threat import ThreatModel
from auditor.kit.errors import EvaluationError
from auditor.kit.progress import OnProgress
from auditor.kit.randomness import derive_seed
from auditor.models.classifier import Classifier, predicted
from auditor.models.dataset import ImageDataset

PROBED = 2
"""Images of those to attack on which a faster copy of the network must behave as the network does."""


@dataclass
class AttackRun:
    """One attack under way. ``active``: rows that go on; the others wait until they fill a batch: ``ended`` (out of steps, to
    be judged at their last image), ``found`` (an adversarial image, to be confirmed), ``returning`` (to go on)."""

    classifier: Classifier
    attack: Attack
    threat: ThreatModel
    dataset: ImageDataset
    ids: NDArray[np.int64]
    criterion: Criterion
    seed: int
    batch_size: int
    early_stop: bool
    on_finished: Callable[[Finished], None] | None
    on_progress: OnProgress
    finished: int = 0
    taken: int = 0
    active: Rows | None = None
    ended: Rows | None = None
    found: Rows | None = None
    returning: Rows | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        self.fooled, self.prediction, self.confidence = np.zeros(n, bool), np.zeros(n, np.int64), np.zeros(n)
        self.distance, self.closest = np.zeros(n), np.full(n, np.inf)
        self.passes = PassCounts(np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, bool))
        self.searching = self.attack.budget == "minimal"
        # Close to a decision boundary, where the closest image lies, only the network itself will do.
        self.close = self.searching or self.attack.minimizes
        some = self.dataset.images(self.ids[:PROBED]) if n else None
        self.fast = self.classifier if self.close else fast_copy(self.classifier, some)
        self.half, self.fitted = np.zeros(n, np.int64), torch.empty(0)  # of each sample; for each half

    def outcome(self) -> Outcome:
        began = time.perf_counter()
        self._fit()
        while True:
            self._fill()
            if self.active is not None:
                self._advance(self.active)
            idle = self.active is None and self.returning is None and self.taken == len(self.ids)
            if self.found is not None and (idle or len(self.found) >= self.batch_size):
                rows, self.found = self.found, None
                self._confirm(rows)
            elif self.ended is not None and (idle or len(self.ended) >= self.batch_size):
                rows, self.ended = self.ended, None
                self._conclude(self._judged(rows))
            elif idle and self.returning is None:
                break
            self.on_progress(self._share(), f"{self.attack.display_title()} {self.threat}")
        return self._outcome(time.perf_counter() - began)

    def _outcome(self, seconds: float) -> Outcome:
        return Outcome(
            self.fooled, self.prediction, self.confidence, self.distance, self.closest, *self.passes, seconds
        )

    def _share(self) -> float:
        """Share of the work that is done; a row's finished runs and steps count, as if no further run were spared."""
        done = 0.0
        for rows in (self.active, self.ended, self.found, self.returning):
            if rows is not None:
                part = (rows.restart + rows.step / self.attack.iterations) / self.attack.runs
                done += float(np.minimum(part, 1).sum())
        return (self.finished + done) / max(len(self.ids), 1)

    def _fit(self) -> None:
        """What the attack learns from each half of the samples, for the other half."""
        if not self.attack.fitted_on:
            return
        order = np.argsort([derive_seed(self.seed, "half", sample) for sample in self.ids.tolist()])
        self.half[order[1::2]] = 1
        n = len(self.ids)
        passes = PassCounts(np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, bool))

        def ask(rows: Rows) -> ModelQuery:
            self.on_progress(0.0, f"{self.attack.display_title()} {self.threat}: fitting")
            return self._query(rows, passes)

        others = [self._new(order[other::2][: self.attack.fitted_on]) for other in (1, 0)]
        self.fitted = torch.stack([self.attack.fit(rows, ask) for rows in others])
        for mine, spent in ((self.passes.forwards, passes.forwards), (self.passes.backwards, passes.backwards)):
            mine += -(-spent.sum() // max(n, 1))

    def _fill(self) -> None:
        """Rows that return, and then new samples, take the free places."""
        free = self.batch_size - (0 if self.active is None else len(self.active))
        if free and self.returning is not None:
            mask = np.arange(len(self.returning)) < free
            self.active = _join(self.active, self.returning[mask])
            free -= int(mask.sum())
            self.returning = _some(self.returning, ~mask)
        if free and self.taken < len(self.ids):
            position = np.arange(self.taken, min(self.taken + free, len(self.ids)))
            self.taken += len(position)
            self.active = _join(self.active, self._begun(self._new(position)))

    def _new(self, position: NDArray[np.int64]) -> Rows:
        x = self.dataset.images(self.ids[position]).to(self.classifier.device, self.classifier.dtype)
        radius = x.new_full((len(x),), self.threat.epsilon)
        zero = np.zeros(len(x), np.int64)
        return Rows(
            position, self.ids[position], zero, zero, zero, x, x, x, x.new_zeros(len(x), self.classifier.num_classes),
            torch.full_like(radius, torch.inf), radius, torch.zeros_like(radius), torch.full_like(radius, torch.inf),
            self.criterion[torch.from_numpy(position).to(x.device)], self.threat.norm, self.seed,
        )  # fmt: skip

    def _begun(self, rows: Rows) -> Rows:
        """These rows at the start of a run."""
        memory = {"fitted": self.fitted[self.half[rows.position]]} if self.attack.fitted_on else {}
        rows = replace(rows, step=np.zeros_like(rows.step), x_adv=rows.x, memory=memory)
        query = self._query(rows, self.passes)
        first = self.attack.start(rows, query)
        return replace(query.updated(), x_adv=self._allowed(first, rows), memory=rows.memory)

    def _advance(self, rows: Rows) -> None:
        """One step of every active row."""
        query = self._query(rows, self.passes)
        proposal = self.attack.step(rows, query)
        rows = replace(query.updated(), x_adv=self._allowed(proposal, rows), step=rows.step + 1, memory=rows.memory)
        leaves = self._leaves(rows)
        over = ((rows.step >= self.attack.iterations) | query.retired) & ~leaves
        self.active = _some(rows, ~leaves & ~over)
        self.ended = _join(self.ended, _some(rows, over))
        self.found = _join(self.found, _some(rows, leaves))

    def _query(self, rows: Rows, passes: PassCounts, model: Classifier | None = None) -> ModelQuery:
        """Questions about these rows, to the fast copy or to this model."""
        return ModelQuery(model or self.fast, rows, passes, self.batch_size)

    def _leaves(self, rows: Rows) -> NDArray[np.bool_]:
        """Which rows need no further step."""
        return self._within(rows) if self.early_stop and not self._minimizing else np.zeros(len(rows), bool)

    @property
    def _minimizing(self) -> bool:
        return self.searching and self.attack.minimizes

    def _allowed(self, proposal: Tensor, rows: Rows) -> Tensor:
        return rows.ball.project(proposal, rows.x) if self.attack.bounded else proposal.detach().clamp(0, 1)

    def _within(self, rows: Rows) -> NDArray[np.bool_]:
        """Which rows hold an adversarial image within their radius, but for rounding."""
        return (rows.best_distance <= rows.epsilon + slack(rows)).cpu().numpy()

    def _confirm(self, rows: Rows) -> None:
        """The network itself judges what its faster copy found; a row that it does not confirm goes on."""
        if self.fast is not self.classifier:
            rows = self._judged(replace(rows, x_adv=rows.best), proposal=rows.x_adv)
        sure = self._within(rows)
        self._conclude(rows[sure])
        doubtful = rows[~sure]
        over = doubtful.step >= self.attack.iterations
        self.returning = _join(self.returning, _some(doubtful, ~over))
        self.ended = _join(self.ended, _some(doubtful, over))

    def _judged(self, rows: Rows, proposal: Tensor | None = None) -> Rows:
        """The rows as the network itself judges ``x_adv``.

        What only its faster copy found does not count, nor do questions beyond epsilon where the closest image is not wanted.
        """
        if not self.close or not self.early_stop:
            rows = replace(rows, best=rows.x, best_distance=torch.full_like(rows.best_distance, torch.inf))
        query = self._query(rows, self.passes, self.classifier)
        logits = query.answers()
        rows = query.updated()
        nothing = rows.best_distance.isinf()[:, None]
        rows = replace(rows, best_logits=torch.where(nothing, logits, rows.best_logits))
        return rows if proposal is None else replace(rows, x_adv=proposal)

    def _conclude(self, rows: Rows) -> None:
        """A run of these rows is over: another run, another radius, or the verdict."""
        if not len(rows):
            return
        within = self._within(rows)
        again = (~within | self._minimizing) & (rows.restart + 1 < self.attack.runs)
        onward = np.zeros(len(rows), bool)
        if self.searching and not self.attack.minimizes:
            rows, open_ended = next_radius(rows, torch.from_numpy(within).to(rows.x.device), torch.from_numpy(~again))
            onward = open_ended.cpu().numpy() & ~again
        if again.any():
            more = rows[again]
            self.returning = _join(self.returning, self._begun(replace(more, restart=more.restart + 1)))
        if onward.any():
            more = rows[onward]
            self.returning = _join(self.returning, self._begun(replace(more, restart=more.restart * 0)))
        self._record(rows[~again & ~onward])

    def _record(self, rows: Rows) -> None:
        if not len(rows):
            return
        place, known = rows.position, ~rows.best_distance.isinf()
        final = torch.where(known.view(-1, 1, 1, 1), rows.best, rows.x_adv)
        distance = rows.ball.distance(final, rows.x)
        if final.amin() < 0 or final.amax() > 1:
            raise EvaluationError(f"{self.attack.display_title()} left the box [0, 1].")
        epsilon = torch.full_like(distance, self.threat.epsilon)
        fooled = (known & (distance <= epsilon + slack(replace(rows, epsilon=epsilon)))).cpu().numpy()
        logits = rows.best_logits
        self.fooled[place] = fooled
        self.prediction[place] = predicted(logits).cpu().numpy()
        self.confidence[place] = finite_or_zero(logits.double()).softmax(1).amax(1).cpu().numpy()
        self.distance[place] = distance.double().cpu().numpy()
        self.closest[place] = torch.where(known, distance, torch.inf).double().cpu().numpy()
        self.finished += len(rows)
        if self.on_finished is not None:
            self.on_finished(Finished(place, rows.x, final, fooled))


def _some(rows: Rows, mask: NDArray[np.bool_]) -> Rows | None:
    if not mask.any():
        return None
    return rows if mask.all() else rows[mask]


def _join(rows: Rows | None, more: Rows | None) -> Rows | None:
    if rows is None or more is None:
        return more if rows is None else rows
    return rows.joined(more)
