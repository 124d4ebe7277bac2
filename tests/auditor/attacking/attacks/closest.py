"""Distances to the closest adversarial image: ours, foolbox's, and on small networks in float64."""

from __future__ import annotations

from typing import NamedTuple

import foolbox
import numpy as np
import torch
from torch import Tensor

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Criterion, Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.outcome import Outcome
from auditor.attacking.threat import Norm, ThreatModel
from auditor.models.classifier import Classifier
from tests.auditor.real import Setting
from tests.nets import labelled, small_classifier


class Both(NamedTuple):
    """Distance of the closest adversarial image of each correctly classified sample, inf where there is none; (N,)."""

    ours: np.ndarray
    theirs: np.ndarray

    def ratio(self) -> float:
        """Median of ours over theirs, image by image, where either finds anything."""
        found = np.isfinite(self.ours) | np.isfinite(self.theirs)
        return float(np.median(self.ours[found] / self.theirs[found]))

    def medians(self) -> tuple[float, float]:
        return float(np.median(self.ours)), float(np.median(self.theirs))

    def within(self, epsilon: float) -> tuple[float, float]:
        return float((self.ours <= epsilon + 1e-6).mean()), float((self.theirs <= epsilon + 1e-6).mean())

    def __str__(self) -> str:
        found = [float(np.isfinite(values).mean()) for values in self]
        return f"n {len(self.ours)}, medians {self.medians()}, ratio {self.ratio():.4f}, found {found}"


def minimal(
    classifier: Classifier, spec: str, norm: Norm, setting: Setting, criterion: Criterion | None = None
) -> Outcome:
    """The attack under the minimal budget; epsilon does not matter."""
    attack = ATTACKS.parse(spec + ("," if ":" in spec else ":") + "budget=minimal")
    return run_attack(
        classifier, attack, ThreatModel(norm=norm, epsilon=1), setting.data, setting.ids,
        criterion or Misclassification(setting.y), seed=0, batch_size=125,
    )  # fmt: skip


def beside_foolbox(setting: Setting, n: int, norm: Norm, spec: str, attack: foolbox.attacks.base.Attack) -> Both:
    """Both on those of the first n samples that are classified correctly."""
    part = correct(setting, n)
    model = foolbox.PyTorchModel(setting.classifier, bounds=(0, 1))
    x_adv = attack(model, part.x, part.y, epsilons=None)[0]
    theirs = lengths(x_adv - part.x, norm)
    # Where it finds nothing foolbox gives back the clean image, in one attack a black one.
    failed = (setting.classifier.logits(x_adv).argmax(1) == part.y) | (x_adv == 0).flatten(1).all(1)
    return Both(minimal(setting.classifier, spec, norm, part).closest, np.where(failed.numpy(), np.inf, theirs.numpy()))


def correct(setting: Setting, n: int) -> Setting:
    """Those of the first n samples that are classified correctly."""
    kept = (setting.classifier.logits(setting.x[:n]).argmax(1) == setting.y[:n]).nonzero().squeeze(1)
    return Setting(setting.classifier, setting.data, setting.ids[kept.numpy()], setting.x[kept], setting.y[kept])


def lengths(delta: Tensor, norm: Norm) -> Tensor:
    if norm is Norm.L0:
        return (delta != 0).any(1).flatten(1).sum(1).float()
    return delta.flatten(1).norm({Norm.LINF: np.inf, Norm.L2: 2, Norm.L1: 1}[norm], dim=1)


def in_float64(n: int = 12) -> Setting:
    """A small network in float64 with images that it classifies correctly."""
    classifier = small_classifier()
    data = labelled(classifier, n=n, wrong=0)
    ids = np.arange(n)
    return Setting(classifier.double(), data, ids, data.images(ids).double(), torch.from_numpy(data.labels))
