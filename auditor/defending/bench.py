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

from auditor.attacking.attack import Attack
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.jury import Jury
from auditor.attacking.harness.outcome import Finished
from auditor.attacking.threat import ThreatModel
from auditor.defending.table import Distances, Knowledge, RobustRow
from auditor.kit.progress import OnProgress, no_progress
from auditor.kit.statistics.estimate import Rate
from auditor.models.classifier import Classifier, predicted
from auditor.models.dataset import ImageDataset
from auditor.models.drawing import DRAWS

SLACK = 1e-4
"""Share of epsilon by which a judged image may exceed it, for rounding."""


class AttackedSamples(NamedTuple):
    """Images of one attack for the samples at ``positions``, (n,): ``x_adv`` (n, C, H, W) on the CPU, ``distance`` from the clean
    images, ``fooled`` within epsilon, ``adversarial`` within epsilon or not; bool."""

    positions: NDArray[np.int64]
    x_adv: Tensor
    distance: NDArray[np.float64]
    fooled: NDArray[np.bool_]
    adversarial: NDArray[np.bool_]
    seconds: float


class Correctness(NamedTuple):
    """How right a model is on n images: ``majority``, bool, the class that most draws give; ``share``, the share of fresh draws
    that are right; ``first``, that of other draws (see ``auditor.attacking.harness.jury``). Without randomness
    all say the same."""

    majority: NDArray[np.bool_]
    share: NDArray[np.float64]
    first: NDArray[np.float64]

    @classmethod
    def certain(cls, right: NDArray[np.bool_]) -> Correctness:
        return cls(right, right.astype(np.float64), right.astype(np.float64))

    @property
    def whole(self) -> bool:
        """Whether nothing was random."""
        return bool((self.share == self.majority).all() and (self.first == self.majority).all())

    @property
    def ever(self) -> NDArray[np.bool_]:
        """Which are worth an attack: right by some draw."""
        return self.majority | (self.share > 0)

    @property
    def accuracy(self) -> Rate:
        return Rate.of(self.majority) if self.whole else Rate.mean(self.share)


@dataclass
class Bench:
    """Clean images ``x`` (N, C, H, W) and ``labels`` (N,), on the CPU; all is judged batch by batch on the model's device."""

    dataset: ImageDataset
    ids: NDArray[np.int64]
    threat: ThreatModel
    seed: int
    batch_size: int
    on_progress: OnProgress = no_progress
    draws: int = DRAWS
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

    def judged(self, model: Classifier, x: Tensor, positions: NDArray[np.int64]) -> Correctness:
        """How right a model is at these images, of the samples at ``positions``; one with random outputs, over fresh draws."""
        if not model.random or not len(positions):
            return Correctness.certain(self.right(model, x, positions))
        jury = Jury(model, self.draws, self.batch_size)

        def heard(images: Tensor, labels: Tensor) -> Tensor:
            hearing = jury.hear(images, "judge")
            first = jury.hear(images, "choose").share(labels)
            return torch.stack([(hearing.prediction == labels).double(), hearing.share(labels), first], 1)

        majority, share, first = self.by_batch(model, heard, x, self.labels[torch.from_numpy(positions)]).numpy().T
        return Correctness(majority > 0, share, first)

    def timed(self, model: Classifier) -> tuple[Correctness, float]:
        """How right a model is on the unperturbed samples, and the seconds that one answer for each took."""
        everyone = np.arange(len(self.ids))
        self.right(model, self.x[:1], everyone[:1])  # what only the first call costs
        began = time.perf_counter()
        right = self.right(model, self.x, everyone)
        seconds = time.perf_counter() - began
        return self.judged(model, self.x, everyone) if model.random else Correctness.certain(right), seconds

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
        judge: Classifier | None = None,
        early_stop: bool = True,
    ) -> AttackedSamples:
        """One attack on the samples at these positions, or on other images of them (``start``).

        ``judge``: the model that judges, where ``target`` is a view that may answer differently (see ``run_attack``).
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
            seed=self.seed, batch_size=self.batch_size, early_stop=early_stop, draws=self.draws, judge=judge, on_finished=keep,
            on_progress=self.on_progress,
        )  # fmt: skip
        distance = outcome.distance if start is None else self.distance(x_adv, positions)
        return AttackedSamples(
            positions, x_adv, distance, outcome.fooled, np.isfinite(outcome.closest), outcome.seconds
        )

    def static(
        self, target: Classifier, attack: Attack, positions: NDArray[np.int64], start: Tensor | None = None
    ) -> AttackedSamples:
        """An attack on the undefended model whose images a defense is then shown; ``start`` as in ``attacked``.

        Within a fixed budget, gradient steps go on to the last one, as in the published evaluations: an image that stops where it
        has just crossed the boundary is no harder for a defense than the closest one.
        """
        return self.attacked(target, attack, positions, start, early_stop=not attack.goes_on)

    def held(
        self, judge: Classifier, right: Correctness, found: AttackedSamples, *, anywhere: bool = False
    ) -> Correctness:
        """Of all samples: right unperturbed, and right at the images found. An image beyond epsilon breaks nothing, unless
        ``anywhere``."""
        within = self.distance(found.x_adv, found.positions) <= self.threat.epsilon * (1 + SLACK) + 1e-6
        counts, seen = within | anywhere, self.judged(judge, found.x_adv, found.positions)
        held = Correctness(right.majority.copy(), right.share.copy(), right.first.copy())
        held.majority[found.positions] &= seen.majority | ~counts
        if not judge.random:
            return Correctness.certain(held.majority)
        places = found.positions[counts]
        held.share[places], held.first[places] = seen.share[counts], seen.first[counts]
        return held


def row(
    name: str, knowledge: Knowledge, right: Correctness, held: Correctness, found: AttackedSamples, within: bool = True
) -> RobustRow:
    """``right``: how right each sample is unperturbed; the distances are of the images that broke them."""
    broken = (right.majority & ~held.majority)[found.positions]
    return RobustRow(
        name=name, knowledge=knowledge, accuracy=held.accuracy, distances=Distances.of(found.distance[broken]), within=within,
        held=held.majority.tolist(), seconds=found.seconds,
        share=None if held.whole else held.share.tolist(), first=None if held.whole else held.first.tolist(),
    )  # fmt: skip


def _logits(model: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return cast(Tensor, model(images))
