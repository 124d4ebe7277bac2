"""A small network with data to train it on, and one batch of it as a method sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from auditor.hardening.hardening import HARDENINGS, Ground, Hardening, TrainingStep
from auditor.hardening.learning.trainee import Trainee, before
from auditor.kit.randomness import seeded
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from tests.nets import deeper_classifier, labelled

CHEAPER: dict[str, dict[str, Any]] = {}
"""Parameters that fit a network of two convolutions and six-pixel images, beside fewer steps of the attack."""


def method(kind: str, **more: Any) -> Hardening:
    """A member with few steps and a large epsilon."""
    fields = HARDENINGS[kind].model_fields
    few = {name: value for name, value in {"steps": 3, "epsilon": 0.1}.items() if name in fields}
    return HARDENINGS.build(kind, few | CHEAPER.get(kind, {}) | more)


def data(classifier: Classifier | None = None, n: int = 40) -> ImageDataset:
    return labelled(classifier or deeper_classifier(), n=n)


def trainee_of(hardening: Hardening, classifier: Classifier, **more: Any) -> Trainee:
    """The network as the method wants it, float64 where the classifier is."""
    with seeded(0, classifier.device):
        network = hardening.extended(classifier).to(classifier.dtype)
    first = hardening.first_layer(classifier.with_network(network))
    frozen = before(classifier.with_network(network), first) if first else ()
    return Trainee(classifier, network, frozen=frozen, **more)


def ground_of(trainee: Trainee, dataset: ImageDataset) -> Ground:
    return Ground(trainee, dataset, np.arange(len(dataset)), seed=3, batch_size=16)


def step_of(
    hardening: Hardening, *, rows: int = 8, twice: bool = False, double: bool = True, classifier: Classifier | None = None,
    number: int = 0, label_smoothing: float = 0.0, **more: Any,
) -> TrainingStep:  # fmt: skip
    """The first images as a batch of the method, all of them ``twice`` if wanted; in float64 unless not ``double``."""
    classifier = classifier or deeper_classifier()
    dataset = data(classifier)
    classifier = classifier.double() if double else classifier
    trainee = trainee_of(hardening, classifier, **more)
    memory = hardening.prepare(ground_of(trainee, dataset))
    ids = np.tile(np.arange(rows), 1 + twice)
    x, labels = dataset.images(ids).to(classifier.dtype), torch.from_numpy(dataset.labels[ids])
    start = trainee.snapshot()
    return TrainingStep(trainee, start, x, labels, memory, 3, number, label_smoothing)
