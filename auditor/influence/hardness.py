"""Adversarial hardness V of every image (Li et al. 2021, eq. 16-18), rival scores, and the attacks that put them to test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from auditor.analysis import Pair, Subject
from auditor.attack import ATTACKS
from auditor.classifier import Classifier
from auditor.criterion import Misclassification
from auditor.evaluation import run_attack
from auditor.harness.losses import margin
from auditor.influence.routes import count_of
from auditor.influence.selection import RouteFrequency
from auditor.metrics import Rate
from auditor.probes.layer_gradient import fine_cross_entropy, layer_gradients
from auditor.progress import OnProgress, part_of
from auditor.randomness import derive_seed
from auditor.statistics.association import bootstrap_mean
from auditor.threat import Norm, ThreatModel

SCORES = {
    "hardness": "hardness V",
    "random": "V on random channels",
    "all": "V on all channels",
    "margin": "margin",
    "loss": "minus the loss",
}
"""Scores of how hard an image is to attack, as a reader calls them; higher means harder. The first is to be tested."""
LISTED = 10
"""How many of the hardest, and of the easiest, images are listed."""


class Scores(NamedTuple):
    """``gradient``: g_l on the route (eq. 16), float64 (N, L). ``scores``: by the names of SCORES, float64 (N,).

    ``ids``, ``labels``: int64 (N,). ``correct``: which images are classified correctly, bool (N,).
    """

    gradient: NDArray[np.float64]
    scores: dict[str, NDArray[np.float64]]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    correct: NDArray[np.bool_]


class Attacked(NamedTuple):
    """``fooled``: FGSM succeeds, bool (N,). ``smallest``: the smallest epsilon at which FMN does, float64 (N,), or inf."""

    fooled: NDArray[np.bool_]
    smallest: NDArray[np.float64]


class _Part(NamedTuple):
    """One batch: ``gradient`` by the name of a set of channels, (B, L); the rest (B,)."""

    gradient: dict[str, NDArray[np.float64]]
    margin: NDArray[np.float64]
    loss: NDArray[np.float64]
    correct: NDArray[np.bool_]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]


def hardness(gradient: NDArray[np.float64]) -> NDArray[np.float64]:
    """V (eq. 17, 18) from g, (N, L): sum over layers of the image's rank; the largest gradient has rank 1, ties share theirs."""
    return np.asarray(stats.rankdata(-gradient, axis=0)).sum(1)


def score(subject: Subject, route: RouteFrequency, width: float, on_progress: OnProgress) -> Scores:
    """Every image of the pairs, in their order, from one backward pass each. ``width``: that of the model-level route."""
    chosen = _channels(route, width, subject.seed)
    parts: list[_Part] = []
    done = 0
    for pair in subject.pairs:
        parts.append(_part(subject.classifier, pair, route.layers, chosen))
        done += len(pair.sample)
        on_progress(done / len(subject.pairs), "gradients on the route")
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
    subject: Subject,
    ids: NDArray[np.int64],
    labels: NDArray[np.int64],
    epsilon: float,
    steps: int,
    on_progress: OnProgress,
) -> Attacked:
    """FGSM within ``epsilon``, and FMN with so many steps (none: all NaN) for the smallest epsilon, both in L∞."""
    smallest = np.full(len(ids), np.nan)
    if not len(ids):
        return Attacked(np.zeros(0, bool), smallest)
    criterion = Misclassification(torch.from_numpy(labels).to(subject.classifier.device))

    def run(kind: str, values: dict[str, Any], limit: float, report: OnProgress) -> Any:
        return run_attack(
            subject.classifier, ATTACKS.build(kind, values), ThreatModel(norm=Norm.LINF, epsilon=limit), subject.dataset,
            ids, criterion, seed=subject.seed, batch_size=subject.batch_size, on_progress=report,
        )  # fmt: skip

    fooled = run("fgsm", {}, epsilon, part_of(on_progress, 0.0, 0.05)).fooled
    if steps:
        values = {"steps": steps, "budget": "minimal"}
        smallest = run("fmn", values, 1.0, part_of(on_progress, 0.05, 1.0)).closest
    return Attacked(fooled, smallest)


def ends(scores: Scores, extreme: float) -> dict[str, NDArray[np.int64]]:
    """Places of the hardest and of the easiest share of the images, most extreme first, ties by the earlier image."""
    vote = scores.scores["hardness"]
    count = max(1, int(extreme * len(vote)))
    return {
        "hardest": np.argsort(-vote, kind="stable")[:count], "easiest": np.argsort(vote, kind="stable")[:count],
    }  # fmt: skip


def gradients_by_outcome(
    layers: Sequence[str], scores: Scores, attacked: Attacked, extreme: float, seed: int
) -> list[dict[str, Any]]:
    """Table 4: mean g_l of the images on which FGSM failed or succeeded, and of the hardest and the easiest, for each layer."""
    right = np.flatnonzero(scores.correct)
    groups = {"failed": right[~attacked.fooled], "succeeded": right[attacked.fooled], **ends(scores, extreme)}
    return [
        {"layer": layer}
        | {name: bootstrap_mean(scores.gradient[rows, place], seed)._asdict() for name, rows in groups.items()}
        for place, layer in enumerate(layers)
    ]


def list_ends(scores: Scores, attacked: Attacked, extreme: float) -> list[dict[str, Any]]:
    """The first images of both ends with what is known of them; None for attacks on images that are misclassified anyway."""
    place = {int(row): at for at, row in enumerate(np.flatnonzero(scores.correct))}
    return [
        {
            "end": end,
            "sample": int(scores.ids[row]),
            "hardness": float(scores.scores["hardness"][row]),
            "margin": float(scores.scores["margin"][row]),
            "loss": -float(scores.scores["loss"][row]),
            "fooled": bool(attacked.fooled[place[row]]) if row in place else None,
            "smallest": _finite(attacked.smallest[place[row]]) if row in place else None,
        }
        for end, rows in ends(scores, extreme).items()
        for row in rows[:LISTED].tolist()
    ]


def tenths(name: str, values: NDArray[np.float64], stands: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Share that still stands in each tenth of the images, easy ones first; fewer parts where there are fewer images."""
    parts = np.array_split(np.argsort(values, kind="stable"), min(10, max(1, len(values))))
    return [{"score": name, "x": place, **Rate.of(stands[part]).model_dump()} for place, part in enumerate(parts, 1)]


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


def _part(classifier: Classifier, pair: Pair, layers: Sequence[str], chosen: Mapping[str, Sequence[Tensor]]) -> _Part:
    found = layer_gradients(classifier, pair.x, pair.labels, layers)
    sizes = [_size(found.layers[layer].gradient) for layer in layers]
    gradient = {
        name: torch.stack([size[:, mask.to(size.device)].sum(1) for size, mask in zip(sizes, masks, strict=True)], 1)
        for name, masks in chosen.items()
    }
    logits = found.logits.double()
    return _Part(
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


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
