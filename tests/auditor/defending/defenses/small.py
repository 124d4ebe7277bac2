"""A small network behind any defense of the catalogue, fitted on random images."""

from __future__ import annotations

from typing import Any

import numpy as np

from auditor.defending.defense import DEFENSES, Defense
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import DefendedClassifier, FittedState
from tests.nets import labelled, small_cnn

SHAPE = (3, 12, 12)
CHEAPER: dict[str, dict[str, Any]] = {
    "nip": {"inputs": 12, "quorum": 0.9},
    "nip-n": {"inputs": 12, "quorum": 0.9},
    "sparse-transformation": {"filters": 6, "side": 4, "images": 8, "epochs": 1, "steps": 20},
    "super-resolution": {"blocks": 1, "features": 8, "steps": 5, "batch": 4},
    "sap": {"passes": 3},
    "random-candidate": {"inputs": 12, "quorum": 0.9},
    "random-candidate-n": {"inputs": 12, "quorum": 0.9},
}
"""Other parameters for defenses that need more images or time by default."""


def network(shape: tuple[int, int, int] = SHAPE) -> Classifier:
    return Classifier(
        small_cnn(shape=shape), input_shape=shape, num_classes=5, normalization=NORMALIZATIONS["half"], name="small"
    )


def default(kind: str) -> Defense:
    return DEFENSES.build(kind, CHEAPER.get(kind, {}))


def images(classifier: Classifier, n: int = 24) -> ImageDataset:
    return labelled(classifier, n, wrong=2)


def fitted(defense: Defense, classifier: Classifier, seed: int = 3) -> FittedState:
    data = images(classifier)
    return defense.fit(classifier, data, np.arange(len(data)), seed=seed, batch_size=7)


def behind(defense: Defense, classifier: Classifier | None = None, seed: int = 3) -> DefendedClassifier:
    classifier = classifier or network()
    return defense.wrap(classifier, fitted(defense, classifier, seed), seed=seed)
