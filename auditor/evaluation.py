"""The harness: keeps batches full, projects every proposal, judges every image, drops rows already fooled, counts passes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.attack import Attack, Rows
from auditor.classifier import Classifier, finite
from auditor.criterion import Criterion
from auditor.dataset import ImageDataset
from auditor.errors import EvaluationError, SpecError
from auditor.progress import OnProgress, no_progress
from auditor.threat import ThreatModel


class CleanPass(NamedTuple):
    """The model on unperturbed images: logits (N, K) on the CPU, predicted class (N,), its softmax confidence (N,)."""

    logits: Tensor
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float64]


class Finished(NamedTuple):
    """Some samples whose verdict is in: their positions, clean and final images, and whether they were fooled."""

    position: NDArray[np.int64]
    x: Tensor
    x_adv: Tensor
    fooled: NDArray[np.bool_]


class Outcome(NamedTuple):
    """One attack on N samples; every array has one entry per sample, in the order in which they were given.

    ``fooled``: the attacker has what he wanted. ``prediction``, ``confidence``: at the final image. ``distance``: norm of
    the final perturbation. ``forwards``, ``backwards``: passes spent. ``blind``: a gradient was exactly zero or not
    finite, so that the attack could not see where to go.
    """

    fooled: NDArray[np.bool_]
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float64]
    distance: NDArray[np.float64]
    forwards: NDArray[np.int64]
    backwards: NDArray[np.int64]
    blind: NDArray[np.bool_]
    seconds: float


def clean_pass(
    classifier: Classifier,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    *,
    batch_size: int,
    on_progress: OnProgress = no_progress,
) -> CleanPass:
    """One forward pass over the unperturbed images. Raises EvaluationError on NaN logits."""
    parts, done = [], 0
    for batch in dataset.batches(ids, batch_size):
        parts.append(classifier.logits(batch.images.to(classifier.device, classifier.dtype)).cpu())
        done += len(batch.ids)
        on_progress(done / len(ids), "clean images")
    logits = torch.cat(parts) if parts else torch.empty(0, classifier.num_classes)
    confidence = logits.double().softmax(1).amax(1) if len(logits) else torch.empty(0)
    return CleanPass(logits, logits.argmax(1).numpy(), confidence.double().numpy())


def run_attack(
    classifier: Classifier,
    attack: Attack,
    threat: ThreatModel,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    criterion: Criterion,
    *,
    seed: int,
    batch_size: int,
    early_stop: bool = True,
    on_finished: Callable[[Finished], None] | None = None,
    on_progress: OnProgress = no_progress,
) -> Outcome:
    """Attack these samples and judge every image that the model sees.

    ``criterion`` has one row per id, on the classifier's device. A row that is fooled leaves at once and the next sample
    takes its place, so that every pass is full and none is spent on a sample already fooled. With ``early_stop=False``
    every row runs all its steps and is judged at its last image (the form in which sensitivity is defined); that
    excludes restarts.
    Raises SpecError when the attack does not know the norm, EvaluationError on NaN logits.
    """
    if threat.norm not in attack.norms:
        known = ", ".join(sorted(norm.symbol for norm in attack.norms))
        raise SpecError(
            f"{attack.display_title()} works in {known}, not in {threat.norm.symbol}.", "Pick another attack or norm."
        )
    if attack.runs > 1 and not early_stop:
        raise SpecError("Restarts need early stopping: without it only the last image of one run is judged.")
    return _Run(
        classifier, attack, threat, dataset, ids, criterion, seed, batch_size, early_stop, on_finished, on_progress
    ).outcome()


@dataclass
class _Run:
    """One attack under way."""

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

    def __post_init__(self) -> None:
        n = len(self.ids)
        self.fooled, self.blind = np.zeros(n, bool), np.zeros(n, bool)
        self.prediction, self.forwards, self.backwards = (np.zeros(n, np.int64) for _ in range(3))
        self.confidence, self.distance = np.zeros(n), np.zeros(n)
        self.waiting: deque[tuple[int, int]] = deque((position, 0) for position in range(n))

    def outcome(self) -> Outcome:
        began = time.perf_counter()
        rows: Rows | None = None
        ended: Rows | None = None  # out of steps; judged together, by a forward pass alone
        while rows is not None or self.waiting or ended is not None:
            rows = self._filled(rows)
            if rows is not None:
                rows, out_of_steps = self._advance(rows)
                ended = _join(ended, out_of_steps)
            if ended is not None and (len(ended) >= self.batch_size or (rows is None and not self.waiting)):
                self._judge(ended)
                ended = None
            self.on_progress(self._share(rows), f"{self.attack.display_title()} {self.threat}")
        return Outcome(
            self.fooled, self.prediction, self.confidence, self.distance, self.forwards, self.backwards, self.blind,
            time.perf_counter() - began,
        )  # fmt: skip

    def _share(self, rows: Rows | None) -> float:
        """Share of the work that is done; a row's finished runs and steps count, as if no further run were spared."""
        steps = (
            0.0 if rows is None else float((rows.restart + rows.step / self.attack.iterations).sum()) / self.attack.runs
        )
        return (self.finished + steps) / max(len(self.ids), 1)

    def _filled(self, rows: Rows | None) -> Rows | None:
        """The rows with new samples in the free places."""
        free = self.batch_size - (0 if rows is None else len(rows))
        taken = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
        if not taken:
            return rows
        position, restart = np.array(taken, np.int64).T
        x = self.dataset.images(self.ids[position]).to(self.classifier.device, self.classifier.dtype)
        criterion = self.criterion[torch.from_numpy(position).to(x.device)]
        new = Rows(position, self.ids[position], restart, np.zeros(len(taken), np.int64), x, x, criterion, self.seed)
        new = replace(new, x_adv=self.threat.project(self.attack.start(new, self.threat), x))
        return _join(rows, new)

    def _advance(self, rows: Rows) -> tuple[Rows | None, Rows | None]:
        """One step of every row: those that go on, and those out of steps. Rows found fooled on the way are recorded."""
        query = _Query(self, rows)
        proposal = self.threat.project(self.attack.step(rows, self.threat, query), rows.x)
        stay = np.ones(len(rows), bool)
        if self.early_stop and query.found.any():
            stay = ~query.found
            self._record(
                rows[query.found],
                query.found_x[query.found],
                query.found_logits[query.found],
                fooled=query.found[query.found],
            )
        rows = replace(rows, x_adv=proposal, step=rows.step + 1)
        more = rows.step < self.attack.iterations
        return _some(rows, stay & more), _some(rows, stay & ~more)

    def _judge(self, rows: Rows) -> None:
        """The verdict on the last image of each row; a row not fooled gets its next restart, if it has one."""
        logits = self.forward(rows, rows.x_adv)
        fooled = rows.criterion.is_adversarial(logits).cpu().numpy()
        again = ~fooled & (rows.restart + 1 < self.attack.runs)
        self.waiting.extend(zip(rows.position[again].tolist(), (rows.restart[again] + 1).tolist(), strict=True))
        done = rows[~again]
        self._record(done, rows.x_adv[_index(~again, rows.x)], logits[_index(~again, rows.x)], fooled=fooled[~again])

    def _record(self, rows: Rows, x_adv: Tensor, logits: Tensor, *, fooled: NDArray[np.bool_]) -> None:
        distance = self.threat.distance(x_adv, rows.x).double().cpu().numpy()
        if not len(rows):
            return
        if distance.max() > self.threat.epsilon + _budget_slack(self.threat.epsilon, x_adv) or not _in_box(x_adv):
            raise EvaluationError(
                f"{self.attack.display_title()} left its budget: {distance.max():g} > {self.threat.epsilon:g}."
            )
        place = rows.position
        probability = logits.double().softmax(1)
        self.fooled[place] = fooled
        self.prediction[place] = logits.argmax(1).cpu().numpy()
        self.confidence[place] = probability.amax(1).cpu().numpy()
        self.distance[place] = distance
        self.finished += len(rows)
        if self.on_finished is not None:
            self.on_finished(Finished(place, rows.x, x_adv, fooled))

    def forward(self, rows: Rows, points: Tensor) -> Tensor:
        self.forwards[rows.position] += 1
        return self.classifier.logits(points)


class _Query:
    """One step's questions to the model; remembers the first adversarial image of each row."""

    def __init__(self, run: _Run, rows: Rows) -> None:
        self.run, self.rows = run, rows
        self.found = np.zeros(len(rows), bool)
        self.found_x = rows.x_adv
        self.found_logits = rows.x.new_zeros(len(rows), run.classifier.num_classes)

    def gradient(self, points: Tensor | None = None) -> Tensor:
        run, rows = self.run, self.rows
        points = self._inside(points).detach().requires_grad_()
        with torch.enable_grad():
            logits = finite(run.classifier(points))
            loss = rows.criterion.loss(logits).sum()
        (gradient,) = torch.autograd.grad(loss, points)
        run.forwards[rows.position] += 1
        run.backwards[rows.position] += 1
        flat = gradient.flatten(1)
        usable = flat.isfinite().all(1) & (flat != 0).any(1)
        run.blind[rows.position] |= ~usable.cpu().numpy()
        self._judge(points.detach(), logits.detach())
        return gradient.nan_to_num(0.0, 0.0, 0.0)

    def loss(self, points: Tensor | None = None) -> Tensor:
        points = self._inside(points)
        logits = self.run.forward(self.rows, points)
        self._judge(points, logits)
        return self.rows.criterion.loss(logits)

    def _inside(self, points: Tensor | None) -> Tensor:
        return self.rows.x_adv if points is None else self.run.threat.project(points, self.rows.x)

    def _judge(self, points: Tensor, logits: Tensor) -> None:
        adversarial = self.rows.criterion.is_adversarial(logits)
        new = adversarial.cpu().numpy() & ~self.found
        if new.any():
            index = _index(new, points)
            self.found_x = self.found_x.index_copy(0, index, points[index])
            self.found_logits = self.found_logits.index_copy(0, index, logits[index])
            self.found |= new


def _some(rows: Rows, mask: NDArray[np.bool_]) -> Rows | None:
    if mask.all():
        return rows
    return rows[mask] if mask.any() else None


def _join(rows: Rows | None, more: Rows | None) -> Rows | None:
    if rows is None or more is None:
        return more if rows is None else rows
    return rows.joined(more)


def _index(mask: NDArray[np.bool_], like: Tensor) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask)).to(like.device)


def _budget_slack(epsilon: float, x: Tensor) -> float:
    """Room for the float32 rounding of x + delta; a larger excess is a bug and stops the evaluation."""
    return 1e-5 * epsilon + 1e-7 * float(np.sqrt(x[0].numel()))


def _in_box(x: Tensor) -> bool:
    return bool(x.amin() >= 0) and bool(x.amax() <= 1)
