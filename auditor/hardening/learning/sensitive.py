"""Sensitive neurons: which layers and channels a training goes by, found on images and their twins by PGD."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.outcome import Finished
from auditor.attacking.threat import ThreatModel
from auditor.hardening.learning.passes import Passes
from auditor.kit.errors import SpecError, known_names
from auditor.kit.progress import OnProgress, no_progress
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.neurons import list_layers
from auditor.models.preflight import drawn, fixed_draw
from auditor.neural.ranking.sensitivity import LayerSensitivity, SensitivityMeter

LAST_LAYERS = 6
"""Convolutions that count as the last ones: conv8 to conv13 of VGG-16 (Zhang et al. 2020); of small networks the later half."""


PROBED, DRAWN = 8, 5
"""Images on which it is found out whether the network has random outputs, and draws that the attack then averages over."""


class Sensitivities(NamedTuple):
    """Every layer's sensitivity to the attack, in the order of execution. What it cost."""

    layers: list[LayerSensitivity]
    passes: Passes


def sensitivities(
    classifier: Classifier,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    threat: ThreatModel,
    *,
    steps: int,
    step_size: float,
    random_start: bool = True,
    seed: int,
    batch_size: int,
    on_progress: OnProgress = no_progress,
) -> Sensitivities:
    """Of clean images and their twins by PGD, all steps on every image (Zhang et al. 2020, arXiv 1909.06978, eq. 1)."""
    few = dataset.images(ids[:PROBED]).to(classifier.device, classifier.dtype)
    classifier = drawn(classifier, few, seed, DRAWN)
    meter = SensitivityMeter(fixed_draw(classifier))

    def add(finished: Finished) -> None:
        meter.add(finished.x, finished.x_adv)

    outcome = run_attack(
        classifier,
        ATTACKS.build("pgd", {"steps": steps, "step_size": step_size, "random_start": random_start}),
        threat, dataset, ids,
        Misclassification(torch.from_numpy(dataset.labels[ids]).to(classifier.device)),
        seed=seed, batch_size=batch_size, early_stop=False, on_finished=add, on_progress=on_progress,
    )  # fmt: skip
    passes = Passes(int(outcome.forwards.sum()) + 2 * len(ids), int(outcome.backwards.sum()))
    return Sensitivities(meter.layers(), passes)


def late_convolutions(classifier: Classifier) -> tuple[str, ...]:
    """The last convolutions, in the order of execution. Raises SpecError for a network without any."""
    names = [layer.name for layer in list_layers(classifier) if layer.kind == "conv"]
    if not names:
        raise SpecError("The network has no convolution.", "Name the layers to work on.")
    return tuple(names[-min(LAST_LAYERS, -(-len(names) // 2)) :])


def in_order(classifier: Classifier, names: Sequence[str]) -> tuple[str, ...]:
    """The layers named, in the order of execution. Raises SpecError for one that is not there."""
    known = [layer.name for layer in list_layers(classifier)]
    if missing := [name for name in names if name not in known]:
        raise SpecError(f"There is no layer {missing[0]!r} in the network.", known_names(missing[0], known))
    return tuple(name for name in known if name in names)


def neurons_of(classifier: Classifier, layers: Collection[str]) -> dict[str, int]:
    """How many neurons each of these layers has."""
    return {layer.name: layer.neurons for layer in list_layers(classifier) if layer.name in layers}
