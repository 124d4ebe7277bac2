"""Sensitivity of every layer's neurons on the images that an attack drove to one class, and on two halves of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from auditor.models.classifier import Classifier
from auditor.neural.analysis import Pair
from auditor.neural.ranking.sensitivity import LayerSensitivity, SensitivityMeter


class ClassSensitivity(NamedTuple):
    """One target class: how many images reached it, and the sensitivity (eq. 1) of each layer's neurons on them.

    ``halves``: the same on every other of these images, and on the rest.
    """

    images: int
    layers: list[LayerSensitivity]
    halves: tuple[list[LayerSensitivity], list[LayerSensitivity]]


def class_sensitivity(classifier: Classifier, pairs: Iterable[Pair]) -> ClassSensitivity:
    """Every layer in the order of execution; no layers if there is no pair."""
    meters, images = (SensitivityMeter(classifier), SensitivityMeter(classifier)), 0
    for pair in pairs:
        second = (images + torch.arange(len(pair.sample), device=pair.x.device)) % 2 == 1
        for meter, rows in zip(meters, (~second, second), strict=True):
            if rows.any():
                meter.add(pair.x[rows], pair.x_adv[rows])
        images += len(pair.sample)
    halves = meters[0].layers(), meters[1].layers()
    return ClassSensitivity(images, _joined(halves, [meter.images for meter in meters]), halves)


def _joined(halves: tuple[list[LayerSensitivity], list[LayerSensitivity]], images: list[int]) -> list[LayerSensitivity]:
    """Sensitivity over both halves, from their own and their numbers of images."""
    if not images[1]:
        return halves[0]
    shares = np.array(images) / sum(images)
    return [
        one.model_copy(
            update={
                key: shares[0] * getattr(one, key) + shares[1] * getattr(other, key)
                for key in ("sensitivity", "ratio", "zero_share")
            }
        )
        for one, other in zip(*halves, strict=True)
    ]
