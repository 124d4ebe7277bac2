"""Normalizations side by side: which of the likely ones explains a model best, by clean accuracy and, where that ties, by PGD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from auditor.attacking.attack import Query, Rows
from auditor.attacking.attacks.pgd import PGD
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.losses import margin
from auditor.attacking.harness.nominal import passes
from auditor.attacking.threat import Norm, ThreatModel
from auditor.kit.flag import Flag
from auditor.kit.progress import OnProgress, no_progress
from auditor.kit.statistics.estimate import Rate
from auditor.kit.statistics.paired import paired_difference
from auditor.models.classifier import NORMALIZATIONS, Classifier, Normalization, predicted
from auditor.models.dataset import ImageDataset

LEVEL = 0.01
"""Level of the paired tests of other normalizations, shared by all candidates (Bonferroni)."""

CLEARLY_BETTER, FAR_BETTER = 0.02, 0.10
"""Points of clean accuracy by which another normalization must lead for a warning, and for withholding a headline."""

MORE_ROBUST = 0.20
"""Points of accuracy under PGD by which another one of equal clean accuracy must lead for a warning, at the lower end of the
paired interval: a plain network, declared rightly, may lead by as much on 100 images."""

STEPS = 5
PIXELS, FEWEST, MOST = 200 * 64 * 64, 40, 200
"""Images under PGD: 200, of large images as many as have so many pixels, but not fewer than 40."""


class TrainedRadius(NamedTuple):
    """An L∞ epsilon for which networks are trained, and the share of their clean accuracy that these keep under PGD."""

    epsilon: float
    kept: float


BUDGETS = {
    1: (TrainedRadius(0.1, 0.75), TrainedRadius(0.3, 0.8)),
    3: (TrainedRadius(2 / 255, 0.6), TrainedRadius(8 / 255, 0.4)),
}
"""By channels. Published networks keep 0.9 at 0.1 (Fashion-MNIST), 0.85 to 0.95 at 0.3 (MNIST), 0.5 to 0.65 at 8/255 (CIFAR-10).

A wrong normalization moves a network's sharp edges to another epsilon, where it may seem more robust than it was trained
to be; only a network that keeps as much as trained ones do says anything about its normalization."""

_NAMES = {
    "none": "none",
    "imagenet": "ImageNet's",
    "cifar10": "CIFAR-10's",
    "cifar10-loose": "CIFAR's with std 0.2",
    "cifar100": "CIFAR-100's",
    "half": "0.5 / 0.5",
    "mnist": "MNIST's",
    "fashion-mnist": "Fashion-MNIST's",
}
_GREY = ("mnist", "fashion-mnist")


class Candidate(BaseModel):
    """A normalization, how it scores on the data, and how far it leads the declared one (paired, same samples).

    ``tied``: clean accuracy does not tell it from the best. ``robust``: accuracy under a five-step PGD, of those tied.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    normalization: Normalization
    accuracy: Rate
    lead: float
    lead_low: float
    lead_high: float
    p: float
    tied: bool = False
    robust: Rate | None = None


class Comparison(NamedTuple):
    """The declared normalization and the others on the same images.

    ``tied``: whether clean accuracy tells the declared one from the best. ``robust``: its accuracy under PGD at ``epsilon``;
    both None where nothing ties with the best.
    """

    candidates: tuple[Candidate, ...]
    tied: bool
    robust: Rate | None
    epsilon: float | None
    flags: tuple[Flag, ...]

    @property
    def ties(self) -> str:
        """Which ones clean accuracy does not tell apart, and what PGD leaves of each, as a sentence; or nothing."""
        return describe_ties(self.candidates, self.tied, self.robust, self.epsilon)


class MarginPGD(PGD):
    """PGD on the margin of the logits: unlike cross-entropy it sees through logits that a wrong scale has made huge."""

    def step(self, rows: Rows, query: Query) -> Tensor:
        step = self.step_size * rows.ball.epsilon * rows.ball.steepest(query.gradient(loss=margin).value, rows.x_adv)
        return rows.x_adv + step


def compare_normalizations(
    classifier: Classifier,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    correct: NDArray[np.bool_],
    *,
    batch_size: int,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
) -> Comparison:
    """Accuracy on these samples under the likely mistakes, and the declared normalization's (``correct``, one per
    sample).

    Where clean accuracy does not tell the best of them apart, a five-step PGD is run under each of these, on at most ``MOST``
    images at two epsilons.
    """
    labels = dataset.labels[ids]
    choices = likely_mistakes(classifier)
    level = LEVEL / max(1, len(choices))
    right = [correct]
    for done, normalization in enumerate(choices.values(), 1):
        right.append(predictions(classifier.with_normalization(normalization), dataset, ids, batch_size) == labels)
        on_progress(0.5 * done / len(choices), "normalization")
    best = _best(right, level)
    tied = [not _clearly(one, right[best], CLEARLY_BETTER, level) for one in right]
    best_ones = [index for index, ties in enumerate(tied) if ties]
    robust: dict[int, Rate] = {}
    epsilon, decided = None, False
    if len(best_ones) > 1 and not classifier.random:  # which of them a model with random outputs prefers, is noise
        normalizations = [classifier.normalization, *choices.values()]
        among = {index: classifier.with_normalization(normalizations[index]) for index in best_ones}
        few = _some(ids, classifier.input_shape)
        epsilon, stands, telling = _attacked(among, dataset, few, batch_size, seed, on_progress)
        robust = {index: Rate.of(one) for index, one in stands.items()}
        # Where the declared one is out of the question, all that tie are named: which is meant, robustness does not say.
        decided = telling and tied[0]
        if decided:
            best_ones = _most_robust(stands)
    candidates = []
    for index, (name, normalization) in enumerate(choices.items(), 1):
        lead = paired_difference(correct, right[index])
        candidates.append(
            Candidate(
                name=name,
                normalization=normalization,
                accuracy=Rate.of(right[index]),
                lead=lead.value,
                lead_low=lead.low,
                lead_high=lead.high,
                p=lead.p,
                tied=tied[index],
                robust=robust.get(index),
            )
        )
    comparison = Comparison(tuple(candidates), tied[0], robust.get(0), epsilon, ())
    if 0 in best_ones:
        return comparison
    better = [candidates[index - 1] for index in best_ones]
    better.sort(key=lambda item: -(item.robust if decided and item.robust else item.accuracy).hits)
    return comparison._replace(flags=(_doubt(Rate.of(correct), comparison, better),))


def comparison_cost(count: int, shape: tuple[int, int, int], *, random: bool) -> float:
    """Forward passes over single images with which a declared normalization is compared with others, at most: where clean
    accuracy tells none apart, and PGD fools no image."""
    every = 1 + len(_choices(NORMALIZATIONS["none"], shape[0]))
    attacked = 0 if random else _few(count, shape)
    budgets = BUDGETS.get(shape[0], BUDGETS[3])
    return every * (count + attacked * (1 + len(budgets) * passes(MarginPGD(steps=STEPS))))


def likely_mistakes(classifier: Classifier) -> dict[str, Normalization]:
    """The normalizations that are commonly declared, or left out, by mistake; without the declared one."""
    declared, channels = classifier.normalization, classifier.input_shape[0]
    choices = _choices(declared, channels)
    return {title: item for title, item in choices.items() if item.for_channels(channels) != declared}


def _choices(declared: Normalization, channels: int) -> dict[str, Normalization]:
    """The common normalizations, and the declared one with a common mistake, by title."""
    choices = {
        title: NORMALIZATIONS[name]
        for name, title in _NAMES.items()
        if len(NORMALIZATIONS[name].mean) in (1, channels) and (channels != 3 or name not in _GREY)
    }
    if channels == 3:
        swapped = "RGB" if declared.channel_order == "BGR" else "BGR"
        choices[f"as declared, but {swapped}"] = declared.model_copy(update={"channel_order": swapped})
    other_range = "0-1" if declared.value_range == "0-255" else "0-255"
    choices[f"as declared, but pixels {other_range}"] = declared.model_copy(update={"value_range": other_range})
    return choices


def describe_ties(candidates: Sequence[Candidate], declared: bool, robust: Rate | None, epsilon: float | None) -> str:
    """Which normalizations clean accuracy does not tell apart, and what PGD leaves of each; empty where one stands out."""
    among = [("as declared", robust)] if declared else []
    among += [(item.name, item.robust) for item in candidates if item.tied]
    if len(among) < 2 or epsilon is None:
        return ""
    threat = ThreatModel(norm=Norm.LINF, epsilon=epsilon)
    left = "; ".join(f"{rate} {name if name == 'as declared' else f'under {name}'}" for name, rate in among)
    return f"Clean accuracy does not tell these apart; a {STEPS}-step PGD at {threat} leaves {left}."


def _best(right: list[NDArray[np.bool_]], level: float) -> int:
    """The one that scores best among those that clearly lead the declared one (0), which else is the best itself."""
    leading = [index for index in range(len(right)) if _clearly(right[0], right[index], CLEARLY_BETTER, level)]
    return max(leading, key=lambda index: int(right[index].sum()), default=0)


def _clearly(one: NDArray[np.bool_], other: NDArray[np.bool_], points: float, level: float) -> bool:
    """Does the other lead by so many points, and more than chance would have it?"""
    lead = paired_difference(one, other)
    return lead.value >= points and lead.p < level


def _most_robust(under_attack: dict[int, NDArray[np.bool_]]) -> list[int]:
    """The most robust one, and those that are not clearly less robust."""
    top = max(under_attack, key=lambda index: int(under_attack[index].sum()))
    leads = {index: paired_difference(stands, under_attack[top]) for index, stands in under_attack.items()}
    return [index for index, lead in leads.items() if lead.low < MORE_ROBUST]


def _some(ids: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """As many of the images as PGD is run on, evenly spread."""
    return ids[np.linspace(0, len(ids) - 1, _few(len(ids), shape)).round().astype(np.int64)]


def _few(count: int, shape: tuple[int, int, int]) -> int:
    """On how many of so many images PGD is run."""
    return min(count, max(FEWEST, min(MOST, PIXELS // (shape[1] * shape[2]))))


def _attacked(
    among: dict[int, Classifier],
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    batch_size: int,
    seed: int,
    on_progress: OnProgress,
) -> tuple[float, dict[int, NDArray[np.bool_]], bool]:
    """The largest of the ``BUDGETS`` at which some candidate keeps what networks trained for it keep (else the smallest), for
    each candidate which of these images are right under PGD there, and whether there is such a candidate.
    """
    labels = torch.from_numpy(dataset.labels[ids])
    clean = {i: predictions(each, dataset, ids, batch_size) == dataset.labels[ids] for i, each in among.items()}
    stands = {index: right.copy() for index, right in clean.items()}
    channels = next(iter(among.values())).input_shape[0]
    found: tuple[float, dict[int, NDArray[np.bool_]], bool] | None = None
    budgets = BUDGETS.get(channels, BUDGETS[3])
    for number, budget in enumerate(budgets):
        threat = ThreatModel(norm=Norm.LINF, epsilon=budget.epsilon)
        for done, (index, classifier) in enumerate(among.items()):
            places = np.flatnonzero(stands[index])
            if len(places):
                wanted = Misclassification(labels[torch.from_numpy(places)].to(classifier.device))
                outcome = run_attack(
                    classifier, MarginPGD(steps=STEPS), threat, dataset, ids[places], wanted,
                    seed=seed, batch_size=batch_size,
                )  # fmt: skip
                stands[index][places[outcome.fooled]] = False
            share = (number + (done + 1) / len(among)) / len(budgets)
            on_progress(0.5 + 0.5 * share, "PGD under normalizations that tie")
        holds = any(right.sum() >= budget.kept * clean[index].sum() > 0 for index, right in stands.items())
        if found is None or holds:
            found = budget.epsilon, {index: right.copy() for index, right in stands.items()}, holds
        if not holds:
            break
    assert found is not None
    return found


def _doubt(accuracy: Rate, comparison: Comparison, better: list[Candidate]) -> Flag:
    """``better``: the others that explain the model best, by clean accuracy, or by PGD where the declared one ties."""
    names = " or ".join(item.name for item in better)
    values = "; ".join(f"{item.name}: {item.normalization}" for item in better)
    scores = ", ".join(f"{item.name} {item.accuracy}" for item in better)
    evidence = f"declared {accuracy}, {scores} on the same {accuracy.n} images"
    if comparison.tied:
        severity, message = (
            "warning",
            f"Another normalization ({names}) keeps the clean accuracy and is far more robust.",
        )
        wrong = "Robustness numbers under a wrong normalization are wrong, even if the clean accuracy is right."
    else:
        lead = max(item.lead for item in better)
        severity = "severe" if lead >= FAR_BETTER else "warning"
        message = f"Another normalization ({names}) scores clearly better than the declared one."
        evidence += f" (lead {100 * lead:.1f} points, p = {max(item.p for item in better):.1g})"
        wrong = "Robustness numbers under a wrong normalization are wrong."
    return Flag(
        name="normalization",
        severity=severity,
        message=message,
        evidence=f"{evidence}. {comparison.ties}" if comparison.ties else evidence,
        remedy=f"Check how the model was trained; if it was with {names} ({values}), declare that: add the model again with "
        f"`--normalization` on the command line, 'Normalization' on the page. {wrong}",
    )


def predictions(
    classifier: Classifier, dataset: ImageDataset, ids: NDArray[np.int64], batch_size: int
) -> NDArray[np.int64]:
    """The class that the model gives each of these images, (N,)."""
    parts = []
    with torch.no_grad():
        for batch in dataset.batches(ids, batch_size):
            parts.append(predicted(classifier(batch.images.to(classifier.device, classifier.dtype))).cpu().numpy())
    return np.concatenate(parts)
