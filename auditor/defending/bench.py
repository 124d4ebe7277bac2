"""Bench: the samples of an evaluation, attacked and judged; an attack may look at another view than the one that judges."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.attack import Attack
from auditor.classifier import Classifier, predicted
from auditor.criterion import Misclassification
from auditor.dataset import ImageDataset
from auditor.defending.table import Distances, Knowledge, RobustRow
from auditor.evaluation import run_attack
from auditor.harness.outcome import Finished
from auditor.metrics import Rate
from auditor.progress import OnProgress, no_progress
from auditor.randomness import derive_seed
from auditor.threat import ThreatModel

SLACK = 1e-4
"""Share of epsilon by which a judged image may exceed it, for rounding."""


class Found(NamedTuple):
    """Images of one attack for the samples at ``positions``, (n,): ``x_adv`` (n, C, H, W) on the CPU, ``distance`` from the clean
    images, ``fooled`` within epsilon, ``adversarial`` within epsilon or not; bool."""

    positions: NDArray[np.int64]
    x_adv: Tensor
    distance: NDArray[np.float64]
    fooled: NDArray[np.bool_]
    adversarial: NDArray[np.bool_]
    seconds: float

    def replaced(self, rows: NDArray[np.int64], other: Found) -> Found:
        """With another attack's images at these rows; the time adds up."""
        images = self.x_adv.index_copy(0, torch.from_numpy(rows), other.x_adv)
        distance, fooled, adversarial = self.distance.copy(), self.fooled.copy(), self.adversarial.copy()
        distance[rows], fooled[rows], adversarial[rows] = other.distance, other.fooled, other.adversarial
        return Found(self.positions, images, distance, fooled, adversarial, self.seconds + other.seconds)


@dataclass
class Bench:
    """Clean images ``x`` (N, C, H, W) and ``labels`` (N,), on the CPU; all is judged batch by batch on the model's device."""

    dataset: ImageDataset
    ids: NDArray[np.int64]
    threat: ThreatModel
    seed: int
    batch_size: int
    on_progress: OnProgress = no_progress
    x: Tensor = field(init=False)
    labels: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.x, self.labels = self.dataset.images(self.ids), torch.from_numpy(self.dataset.labels[self.ids])

    def clean(self, positions: NDArray[np.int64]) -> Tensor:
        return self.x[torch.from_numpy(positions)]

    def by_batch(self, model: Classifier, change: Callable[..., Tensor], *parts: Tensor) -> Tensor:
        """A function of batches of these tensors, on the model's device, images in its precision; together, on the CPU."""
        if not len(parts[0]):
            return parts[0]
        found = []
        for batch in zip(*(part.split(self.batch_size) for part in parts), strict=True):
            moved = [
                item.to(model.device, model.dtype) if item.is_floating_point() else item.to(model.device)
                for item in batch
            ]
            found.append(change(*moved).detach().cpu())
        return torch.cat(found)

    def right(self, model: Classifier, x: Tensor, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these images, of the samples at ``positions``, a model classifies correctly."""
        if not len(positions):
            return np.zeros(0, bool)
        classes = self.by_batch(model, lambda images: predicted(_logits(model, images)), x)
        return (classes == self.labels[torch.from_numpy(positions)]).numpy()

    def timed(self, model: Classifier) -> tuple[NDArray[np.bool_], float]:
        """Which samples a model gets right unperturbed, and the seconds that it took."""
        everyone = np.arange(len(self.ids))
        self.right(model, self.x[:1], everyone[:1])  # what only the first call costs
        began = time.perf_counter()
        return self.right(model, self.x, everyone), time.perf_counter() - began

    def distance(self, x_adv: Tensor, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        x = self.clean(positions)
        return self.threat.ball(x).distance(x_adv, x).double().numpy()

    def attacked(
        self,
        target: Classifier,
        attack: Attack,
        positions: NDArray[np.int64],
        start: Tensor | None = None,
        *,
        early_stop: bool = True,
        run: int = 0,
    ) -> Found:
        """One attack on the samples at these positions, or on other images of them (``start``).

        Each ``run`` has random numbers of its own.
        """
        x_adv = (self.clean(positions) if start is None else start).clone()

        def keep(finished: Finished) -> None:
            x_adv[torch.from_numpy(finished.position)] = finished.x_adv.detach().float().cpu()

        dataset, ids, labels = self.dataset, self.ids[positions], self.labels[torch.from_numpy(positions)]
        if start is not None:
            images = np.ascontiguousarray(start.permute(0, 2, 3, 1).numpy())
            dataset, ids = ImageDataset(images, labels.numpy()), np.arange(len(positions))
        outcome = run_attack(
            target, attack, self.threat, dataset, ids, Misclassification(labels.to(target.device)),
            seed=derive_seed(self.seed, "run", run) if run else self.seed, batch_size=self.batch_size, early_stop=early_stop,
            on_finished=keep, on_progress=self.on_progress,
        )  # fmt: skip
        distance = outcome.distance if start is None else self.distance(x_adv, positions)
        return Found(positions, x_adv, distance, outcome.fooled, np.isfinite(outcome.closest), outcome.seconds)

    def static(
        self, target: Classifier, attack: Attack, positions: NDArray[np.int64], start: Tensor | None = None
    ) -> Found:
        """An attack on the undefended model whose images a defense is then shown; ``start`` as in ``attacked``.

        Within a fixed budget, gradient steps go on to the last one, as in the published evaluations: an image that stops where it
        has just crossed the boundary is no harder for a defense than the closest one.
        """
        return self.attacked(target, attack, positions, start, early_stop=not attack.goes_on)

    def hunted(self, view: Classifier, judge: Classifier, attack: Attack, positions: NDArray[np.int64]) -> Found:
        """An attack on a view that answers differently from the model that judges, as with other random numbers.

        An image that only just fools the view may not fool the model, so that every run makes all its steps, and the model judges
        the last image; a sample that still stands is tried by the next run.
        """
        single = attack.model_copy(update={"restarts": 1})
        found = self.attacked(view, single, positions, early_stop=False)
        for run in range(1, attack.runs):
            standing = np.flatnonzero(self.right(judge, found.x_adv, positions))
            if not len(standing):
                break
            found = found.replaced(
                standing, self.attacked(view, single, positions[standing], early_stop=False, run=run)
            )
        return found

    def held(
        self, judge: Classifier, right: NDArray[np.bool_], found: Found, *, anywhere: bool = False
    ) -> NDArray[np.bool_]:
        """Of all samples: right unperturbed, and right at the images found. An image beyond epsilon breaks nothing, unless
        ``anywhere``."""
        within = self.distance(found.x_adv, found.positions) <= self.threat.epsilon * (1 + SLACK) + 1e-6
        held = right.copy()
        held[found.positions] &= self.right(judge, found.x_adv, found.positions) | ~(within | anywhere)
        return held


def row(
    name: str,
    knowledge: Knowledge,
    right: NDArray[np.bool_],
    held: NDArray[np.bool_],
    found: Found,
    within: bool = True,
) -> RobustRow:
    """``right``: of all samples, those classified correctly unperturbed; the distances are of the images that broke them."""
    broken = (right & ~held)[found.positions]
    return RobustRow(
        name=name, knowledge=knowledge, accuracy=Rate.of(held), distances=Distances.of(found.distance[broken]),
        within=within, held=held.tolist(), seconds=found.seconds,
    )  # fmt: skip


def _logits(model: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return cast(Tensor, model(images))
