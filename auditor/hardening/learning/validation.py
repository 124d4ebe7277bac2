"""Validation: how the network does on images held out from the training, clean and under attack; which weights are best."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import clean_pass, run_attack
from auditor.attacking.threat import ThreatModel
from auditor.hardening.learning.passes import Passes
from auditor.hardening.result import BestWeights
from auditor.hardening.spec import TrainingSpec
from auditor.kit.errors import MismatchError
from auditor.kit.flag import Flag
from auditor.kit.progress import OnProgress, no_progress, part_of
from auditor.kit.statistics.estimate import Rate
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.preflight import drawn

PROBED, VALIDATION_DRAWS = 8, 5
"""Images that show whether the network has random outputs, and draws for one that does: it is asked every epoch."""


class Validation(NamedTuple):
    """Accuracy on clean images; and, of all of them, how many are right whatever the attack does. What it cost."""

    clean: Rate
    robust: Rate
    passes: Passes


def validate(
    classifier: Classifier,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    threat: ThreatModel,
    *,
    steps: int,
    seed: int,
    batch_size: int,
    on_progress: OnProgress = no_progress,
) -> Validation:
    """PGD with so many steps on every image that is classified correctly (by any draw, where the network has random outputs; the
    accuracies are means over draws then). Raises EvaluationError on NaN logits."""
    few = dataset.images(ids[:PROBED]).to(classifier.device, classifier.dtype)
    classifier = drawn(classifier, few, seed, VALIDATION_DRAWS)
    clean = clean_pass(classifier, dataset, ids, batch_size=batch_size, on_progress=part_of(on_progress, 0, 0.1))
    labels = dataset.labels[ids]
    right = (clean.prediction == labels).astype(np.float64) if clean.right is None else clean.right
    correct = np.flatnonzero(right > 0)
    outcome = run_attack(
        classifier, ATTACKS.build("pgd", {"steps": steps, "step_size": step_size(steps)}), threat, dataset, ids[correct],
        Misclassification(torch.from_numpy(labels[correct]).to(classifier.device)),
        seed=seed, batch_size=batch_size, on_progress=part_of(on_progress, 0.1, 1),
    )  # fmt: skip
    passes = Passes(len(ids) + int(outcome.forwards.sum()), int(outcome.backwards.sum()))
    held = np.zeros(len(ids))
    held[correct] = 1 - outcome.won
    if clean.right is None:
        return Validation(Rate.of(right > 0), Rate.of(held > 0), passes)
    return Validation(Rate.mean(right), Rate.mean(held), passes)


def at_random(classifier: Classifier, dataset: ImageDataset, ids: NDArray[np.int64], seed: int) -> tuple[Flag, ...]:
    """What must be said where the network has random outputs also when it does not learn."""
    few = dataset.images(ids[:PROBED]).to(classifier.device, classifier.dtype)
    if not drawn(classifier, few, seed).random:
        return ()
    flag = Flag(
        name="random output",
        severity="info",
        message="The network has random outputs: its validation accuracies are means over draws.",
        evidence=f"{VALIDATION_DRAWS} draws of each image; the attack averages over as many.",
        remedy="Audit the trained model with more draws before you quote a number.",
    )
    return (flag,)


def step_size(steps: int) -> float:
    """Length of a step that lets PGD cross the ball, as a fraction of epsilon: 2.5 / steps (Madry et al. 2018), at most 1."""
    return min(1.0, 2.5 / steps)


def hold_out(
    spec: TrainingSpec, dataset: ImageDataset, processes: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids for validation and for training, both ascending; drawn by the seed. Raises MismatchError if too few are left."""
    order = dataset.order(spec.seed)
    count = spec.validation_count(len(dataset))
    if len(dataset) - count < 2 * processes:
        raise MismatchError(
            f"The data set {dataset.name} has {len(dataset)} images, of which {count} are for validation: too few are "
            "left for training.",
            "Add more training images.",
        )
    return np.sort(order[:count]), np.sort(order[count:])


def selection_score(best: BestWeights, select: Literal["robust", "clean", "last"]) -> tuple[int, ...]:
    """By what weights are chosen: the larger one wins, the earlier one of equals."""
    assert best.clean is not None
    assert best.robust is not None
    scores = {
        "robust": (best.robust.hits, best.clean.hits),
        "clean": (best.clean.hits, best.robust.hits),
        "last": (best.epoch,),
    }
    return scores[select]
