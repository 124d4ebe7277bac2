"""Hardening: a way to train a classifier for robustness; it gives the loss of a batch, the loop (training.py) does the rest."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from auditor.attacking.threat import ThreatModel
from auditor.hardening.learning.passes import Passes
from auditor.hardening.learning.trainee import Trainee
from auditor.kit import plugins
from auditor.kit.capability import Capability, Catalog
from auditor.kit.flag import Flag
from auditor.kit.progress import OnProgress, no_progress
from auditor.kit.randomness import BatchRandom
from auditor.models.architecture import Architecture
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset

Memory = Mapping[str, Tensor]
"""What a method has found out and goes by (chosen neurons, ...): tensors by name, kept with every checkpoint."""


@dataclass(frozen=True)
class Ground:
    """What a method may look at outside a batch. ``ids``: the training samples; the others are not for it.

    ``epoch``: epochs done.
    """

    trainee: Trainee
    dataset: ImageDataset
    ids: NDArray[np.int64]
    seed: int
    batch_size: int
    epoch: int = 0
    on_progress: OnProgress = no_progress


@dataclass(frozen=True)
class TrainingStep:
    """One batch. ``x``: (B, C, H, W) in [0, 1], augmented; ``labels``: (B,). ``start``: the network as it was at the start.

    ``number``: steps done before this one.
    """

    trainee: Trainee
    start: Classifier
    x: Tensor
    labels: Tensor
    memory: Memory
    seed: int
    number: int
    label_smoothing: float = 0.0

    def random(self, scope: str) -> BatchRandom:
        """Random numbers that depend on the seed, the scope and the step alone."""
        return BatchRandom(self.seed, scope, self.number, device=self.x.device)

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """With the true labels, smoothed as the training says: mean over the batch."""
        return cross_entropy(logits, self.labels, label_smoothing=self.label_smoothing)


class Terms(NamedTuple):
    """``loss``: what is descended, a scalar. ``parts``: what it is made of, scalars by name, before their weights."""

    loss: Tensor
    parts: Mapping[str, Tensor]


class Hardening(Capability):
    """A training method. One subclass per file in ``auditor.hardening.hardenings``. The loop extends the network,
    freezes layers, calls ``prepare`` once, then ``loss`` for every batch and ``renew`` after every epoch.
    """

    train_from: str = Field(
        "",
        description="Train only this layer and the layers after it; the layers before it stay unchanged, to the bit. "
        "Empty: train all.",
    )

    @property
    @abstractmethod
    def cost(self) -> Passes:
        """Passes of one image in one step."""

    @property
    def attacked_at(self) -> float | None:
        """The epsilon that the training attacks with; None if it does not attack."""
        return None if self.attacks_within is None else self.attacks_within.epsilon

    @property
    def attacks_within(self) -> ThreatModel | None:
        """The ball that the training attacks in; None if it does not attack."""
        return None

    @property
    def freezes(self) -> bool:
        """Whether some layers do not learn."""
        return bool(self.train_from)

    def extended(self, classifier: Classifier) -> nn.Module:
        """A copy of the network to train, with the modules that the method adds."""
        return copy.deepcopy(classifier.network)

    def child(self, architecture: Architecture) -> Architecture:
        """The architecture of the trained network, from that of the network before."""
        return architecture

    def first_layer(self, classifier: Classifier) -> str:
        """The first layer that learns; empty for all."""
        return self.train_from

    def prepare(self, ground: Ground) -> Memory:
        """What the method needs, found on the network at the start."""
        return {}

    def renew(self, ground: Ground, memory: Memory) -> Memory:
        """The same after an epoch."""
        return memory

    @abstractmethod
    def loss(self, step: TrainingStep) -> Terms:
        """The loss of a batch; means over the batch, so it does not grow with it."""

    def watched(self, memory: Memory) -> tuple[str, ...]:
        """The layers that the method works on; empty if it prefers none."""
        return ()

    def flags(self, classifier: Classifier, memory: Memory) -> tuple[Flag, ...]:
        """What a reader should know about this method on this network."""
        return ()


HARDENINGS: Catalog[Hardening] = Catalog("auditor.hardening.hardenings", Hardening, entry_points=plugins.HARDENINGS)
