"""A small float64 network under attack, with every step run, for comparison with the formula in its plainest form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Criterion, Misclassification, TargetedMisclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.outcome import Finished, Outcome
from auditor.attacking.threat import ThreatModel
from auditor.models.classifier import Classifier
from tests.nets import labelled, small_classifier

SEED = 5


class Ran(NamedTuple):
    classifier: Classifier
    x: Tensor
    labels: Tensor
    targets: Tensor
    x_adv: Tensor
    outcome: Outcome


def ran(attack: str, threat: ThreatModel, *, targeted: bool = False, early_stop: bool = False, n: int = 12) -> Ran:
    """Every step of every row on one small network (unless told to stop early), and the last image of each."""
    classifier = small_classifier().double()
    data = labelled(small_classifier(), n=n, wrong=0)
    labels = torch.from_numpy(data.labels)
    targets = (labels + 1) % 5
    criterion: Criterion = TargetedMisclassification(targets) if targeted else Misclassification(labels)
    x_adv = torch.zeros(n, *classifier.input_shape, dtype=torch.float64)

    def keep(finished: Finished) -> None:
        x_adv[torch.from_numpy(finished.position)] = finished.x_adv

    outcome = run_attack(
        classifier, ATTACKS.parse(attack), threat, data, np.arange(n), criterion,
        seed=SEED, batch_size=5, early_stop=early_stop, on_finished=keep,
    )  # fmt: skip
    return Ran(classifier, data.images(np.arange(n)).double(), labels, targets, x_adv, outcome)


def slope(classifier: Classifier, x: Tensor, classes: Tensor) -> Tensor:
    """Gradient of the cross-entropy of these classes."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(classifier(x), classes, reduction="sum"), x)
    return gradient
