"""Adversarial hardness V of every image (Li et al. 2021, eq. 16-18), rival scores, and the attacks that put them to test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.attacking.attack import ATTACKS, Attack
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.losses import margin
from auditor.attacking.harness.outcome import Outcome
from auditor.attacking.threat import Norm, ThreatModel
from auditor.kit.randomness import derive_seed
from auditor.models.classifier import Classifier
from auditor.neural.analysis import Pair, Subject
from auditor.neural.probes.layer_gradient import fine_cross_entropy, layer_gradients
from auditor.neural.routes.routes import count_of
from auditor.neural.routes.selection import RouteFrequency

SCORES = {
    "hardness": "hardness V",
    "random": "V on random channels",
    "all": "V on all channels",
    "margin": "margin",
    "loss": "minus the loss",
}
"""Scores of how hard an image is to attack, as a reader calls them; higher means harder. The first is to be tested."""


class Scores(NamedTuple):
    """``gradient``: g_l on the route (eq. 16), float64 (N, L). ``scores``: by the names of SCORES, float64 (N,).

    ``ids``, ``labels``: int64 (N,). ``correct``: which images are classified correctly, bool (N,).
    """

    gradient: NDArray[np.float64]
    scores: dict[str, NDArray[np.float64]]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    correct: NDArray[np.bool_]


class MeasuredHardness(NamedTuple):
    """``fooled``: FGSM succeeds, bool (N,). ``smallest``: the smallest epsilon at which FMN does, float64 (N,), or inf."""

    fooled: NDArray[np.bool_]
    smallest: NDArray[np.float64]


class _HardnessBatch(NamedTuple):
    """One batch: ``gradient`` by the name of a set of channels, (B, L); the rest (B,)."""

    gradient: dict[str, NDArray[np.float64]]
    margin: NDArray[np.float64]
    loss: NDArray[np.float64]
    correct: NDArray[np.bool_]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]


def hardness(gradient: NDArray[np.float64]) -> NDArray[np.float64]:
    """V (eq. 17, 18) from g, (N, L): sum over layers of the image's rank; the largest gradient has rank 1, ties share theirs."""
    return np.asarray(scipy.stats.rankdata(-gradient, axis=0)).sum(1)


def hardness_scores(subject: Subject, route: RouteFrequency, width: float) -> Scores:
    """Every image of the pairs, in their order, from one backward pass each. ``width``: that of the model-level route."""
    chosen = _channels(route, width, subject.seed)
    parts: list[_HardnessBatch] = []
    done = 0
    for pair in subject.pairs:
        parts.append(_part(subject.classifier, pair, route.layers, chosen))
        done += len(pair.sample)
        subject.on_progress(done / len(subject.pairs), "gradients on the route")
    gradient = {name: np.concatenate([part.gradient[name] for part in parts]) for name in chosen}
    scores = {name: hardness(item) for name, item in gradient.items()}
    scores["margin"] = np.concatenate([part.margin for part in parts])
    scores["loss"] = -np.concatenate([part.loss for part in parts])
    return Scores(
        gradient["hardness"],
        scores,
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.correct for part in parts]),
    )


def attack(
    subject: Subject, ids: NDArray[np.int64], labels: NDArray[np.int64], epsilon: float, steps: int
) -> MeasuredHardness:
    """FGSM within ``epsilon``, and FMN with so many steps (none: all NaN) for the smallest epsilon, both in L∞."""
    smallest = np.full(len(ids), np.nan)
    if not len(ids):
        return MeasuredHardness(np.zeros(0, bool), smallest)
    criterion = Misclassification(torch.from_numpy(labels).to(subject.classifier.device))

    def run(part: Subject, attack: Attack, limit: float) -> Outcome:
        return run_attack(
            part.classifier, attack, ThreatModel(norm=Norm.LINF, epsilon=limit), part.dataset,
            ids, criterion, seed=part.seed, batch_size=part.batch_size, on_progress=part.on_progress,
        )  # fmt: skip

    fooled = run(subject.during(0.0, 0.05), ATTACKS.build("fgsm", {}), epsilon).fooled
    if steps:
        search = ATTACKS.build("fmn", {"steps": steps, "budget": "minimal"})
        smallest = run(subject.during(0.05, 1.0), search, 1.0).closest
    return MeasuredHardness(fooled, smallest)


def _channels(route: RouteFrequency, width: float, seed: int) -> dict[str, list[Tensor]]:
    """The channels of each layer that V is taken on: the model-level route's (eq. 7), as many at random, and all; bool (M_l,)."""
    chosen: dict[str, list[Tensor]] = {"hardness": [], "random": [], "all": []}
    for layer, order in enumerate(route.order):
        size, count = len(order), count_of(width, len(order))
        generator = torch.Generator().manual_seed(derive_seed(seed, "hardness", layer))
        drawn = torch.randperm(size, generator=generator)[:count]
        none = torch.zeros(size, dtype=torch.bool)
        chosen["hardness"].append(none.index_fill(0, torch.from_numpy(order[:count].copy()), True))
        chosen["random"].append(none.index_fill(0, drawn, True))
        chosen["all"].append(torch.ones(size, dtype=torch.bool))
    return chosen


def _part(
    classifier: Classifier, pair: Pair, layers: Sequence[str], chosen: Mapping[str, Sequence[Tensor]]
) -> _HardnessBatch:
    found = layer_gradients(classifier, pair.x, pair.labels, layers)
    sizes = [_size(found.layers[layer].gradient) for layer in layers]
    gradient = {
        name: torch.stack([size[:, mask.to(size.device)].sum(1) for size, mask in zip(sizes, masks, strict=True)], 1)
        for name, masks in chosen.items()
    }
    logits = found.logits.double()
    return _HardnessBatch(
        {name: item.cpu().numpy() for name, item in gradient.items()},
        -margin(Misclassification(pair.labels), logits).cpu().numpy(),
        fine_cross_entropy(logits, pair.labels).cpu().numpy(),
        (logits.argmax(1) == pair.labels).cpu().numpy(),
        pair.sample,
        pair.labels.cpu().numpy(),
    )


def _size(gradient: Tensor) -> Tensor:
    """|g| of each channel: the L1 norm over its positions, float64 (B, M)."""
    size = gradient.double().abs()
    return size.flatten(2).sum(2) if size.dim() > 2 else size
