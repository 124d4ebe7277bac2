"""Is what was declared of a model true? Its normalization, its accuracy and the order of its classes, seen on labelled images.

Vetting and the audit's own check both ask `check_declaration`, so they say the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from auditor.auditing.normalizations import Comparison, compare_normalizations, predictions
from auditor.kit.errors import SpecError
from auditor.kit.flag import Flag
from auditor.kit.progress import OnProgress, no_progress
from auditor.kit.statistics.estimate import Rate
from auditor.kit.statistics.paired import paired_difference
from auditor.models.classifier import NO_CLASS, Classifier
from auditor.models.dataset import ImageDataset

REORDERED, REORDERED_LEVEL = 0.02, 0.01 / 8
"""Points that another order of the classes must gain, and the level of its paired test."""

NEAR_CHANCE = 0.25
"""A model that covers less than this share of the way from guessing to perfect is doubted: 32.5 % of ten classes."""

FAR_SHORT, VERY_FAR_SHORT = 0.05, 0.20
"""Points by which the upper end of the accuracy's interval lies below the declared one: a warning, a severe flag."""


def parse_accuracy(text: str) -> float | None:
    """A share from ``92.5``, ``92.5 %`` or ``0.925``; None of an empty text. Raises SpecError."""
    if not text.strip():
        return None
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = -1.0
    share = value if value <= 1 and "%" not in text else value / 100
    if not 0 < share <= 1:
        raise SpecError(f"accuracy: expected percent of images, such as 92.5, got {text.strip()!r}.")
    return share


class DeclarationCheck(NamedTuple):
    """What the declaration looks like on the data: clean accuracy, normalizations side by side, and the doubts that follow."""

    accuracy: Rate
    normalizations: Comparison
    flags: tuple[Flag, ...]


def check_declaration(
    classifier: Classifier,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    *,
    batch_size: int,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
) -> DeclarationCheck:
    """Ask about these samples whether the declared normalization, accuracy and classes are right. Deterministic for a seed."""
    labels = dataset.labels[ids]
    predicted = predictions(classifier, dataset, ids, batch_size)
    accuracy = Rate.of(predicted == labels)
    comparison = compare_normalizations(
        classifier, dataset, ids, predicted == labels, batch_size=batch_size, seed=seed, on_progress=on_progress
    )
    flags = [*comparison.flags, *_short_of_declared(classifier, accuracy)]
    flags += _order_of_classes(classifier, predicted, labels) or _near_chance(classifier, accuracy)
    return DeclarationCheck(accuracy, comparison, tuple(flags))


def _order_of_classes(classifier: Classifier, predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> list[Flag]:
    """Would the model be right if its classes were named in another order?"""
    n = len(labels)
    renamed = _renamed(predicted, labels, classifier.num_classes)
    as_it_is, other = predicted == labels, renamed == labels
    gain = paired_difference(as_it_is, other)
    if gain.value < REORDERED or gain.p >= REORDERED_LEVEL or other.mean() <= 0.5:
        return []
    return [
        Flag(
            name="class order",
            severity="severe",
            message="The model separates the classes, but in another order than the data set's labels.",
            evidence=f"accuracy {Rate.of(as_it_is)}; {Rate.of(other)} if the classes are renamed by its predictions on "
            f"the other half of the {n} images (p = {gain.p:.1g})",
            remedy="Compare the model's list of classes with the data set's, and reorder the labels; where both have names, "
            "labels are matched by name.",
        )
    ]


def _renamed(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The predictions under the renaming of classes that suits the labels best. Each half of the images is renamed by the other
    half, so chance gains nothing by it."""
    renamed = predicted.copy()
    half, known = np.arange(len(labels)) % 2 == 0, predicted != NO_CLASS
    for mine, theirs in ((half, ~half), (~half, half)):
        seen, counts = theirs & known, np.zeros((classes, classes), np.int64)
        np.add.at(counts, (labels[seen], predicted[seen]), 1)
        # What is right as it is counts a little more, so classes without evidence stay where they are.
        rows, columns = scipy.optimize.linear_sum_assignment(counts + 0.5 * np.eye(classes), maximize=True)
        name = np.empty(classes, np.int64)
        name[columns] = rows
        renamed[mine & known] = name[predicted[mine & known]]
    return renamed


def _near_chance(classifier: Classifier, accuracy: Rate) -> list[Flag]:
    """Is the model no better than guessing, or little better?"""
    guessing = 1 / classifier.num_classes
    if accuracy.value is None or accuracy.low is None:
        return []
    evidence = f"accuracy {accuracy}, guessing {100 * guessing:.1f} %"
    if accuracy.low <= guessing:
        return [
            Flag(
                name="no better than chance",
                severity="severe",
                message="The model is no better than guessing on this data set.",
                evidence=evidence,
                remedy="Check the weights, the normalization and the order of the classes.",
            )
        ]
    declared = classifier.declared_accuracy
    if accuracy.value < guessing + NEAR_CHANCE * (1 - guessing) and (declared is None or declared > accuracy.value):
        return [
            Flag(
                name="near chance",
                severity="warning",
                message="The model is little better than guessing on this data set.",
                evidence=evidence,
                remedy="Check the weights, the normalization and the order of the classes. If the model is known to be "
                "this weak, declare its accuracy.",
            )
        ]
    return []


def _short_of_declared(classifier: Classifier, accuracy: Rate) -> list[Flag]:
    """Does the model fall far short of the accuracy that it was declared to have?"""
    declared = classifier.declared_accuracy
    if declared is None or accuracy.high is None or declared - accuracy.high < FAR_SHORT:
        return []
    return [
        Flag(
            name="short of its declared accuracy",
            severity="severe" if declared - accuracy.high >= VERY_FAR_SHORT else "warning",
            message=f"The model was declared to be right on {100 * declared:.1f} % of images; on this data set it is not.",
            evidence=f"accuracy {accuracy} on {accuracy.n} images",
            remedy="Check the weights, the normalization and the order of the classes, and whether these images are "
            "like those that it was measured on.",
        )
    ]
