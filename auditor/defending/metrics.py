"""Numbers that describe a defense: image quality, consistency of leading neurons, corrected paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.defending.nip.candidates import ObservedLayer, predicted_influence
from auditor.kit.errors import MismatchError
from auditor.models.classifier import Classifier
from auditor.neural.influence.influence import chosen_mask


def psnr(x: Tensor, y: Tensor, *, literal: bool = False) -> Tensor:
    """Peak signal-to-noise ratio of images (B, C, H, W) in [0, 1], in dB, float64 (B,): 10 log10(1 / MSE); inf for equal images.

    ``literal``: 20 log10(1 / MSE), as the NIP paper prints it, which is twice that.
    """
    error = (x.double() - y.double()).square().flatten(1).mean(1)
    return (20 if literal else 10) * (1 / error).log10()


def leading_in_common(classifier: Classifier, x: Tensor, y: Tensor, k: int) -> Tensor:
    """TKNC (eq. 13 of arXiv 2112.13060), float64 (B,): of the k neurons of largest influence before the head, those that two
    images have in common over those of either."""
    masks = []
    for images in (x, y):
        influence = predicted_influence(classifier, ObservedLayer.of(classifier, ""), images).influence
        order = influence.sort(dim=1, descending=True, stable=True).indices
        masks.append(chosen_mask(order[:, :k], influence.shape[1]))
    return (masks[0] & masks[1]).sum(1).double() / (masks[0] | masks[1]).sum(1).double()


class PairedTest(NamedTuple):
    """``difference``: mean of first minus second. ``t``, ``p``: two-sided paired t-test; ``adjusted``: p by Holm over all."""

    name: str
    difference: float
    t: float
    p: float
    adjusted: float


def paired_tests(rates: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> tuple[PairedTest, ...]:
    """For each (name, rates of one defense, rates of another), attack by attack: the paper's test, corrected.

    The attacks are no independent samples, so even these p are too small. Raises MismatchError for unequal lengths, or
    fewer than two attacks.
    """
    found = []
    for name, first, second in rates:
        if len(first) != len(second) or len(first) < 2:
            got = f"{len(first)} and {len(second)}"
            raise MismatchError(f"{name}: expected 2 or more attacks, the same for both, got {got}.")
        change = np.subtract(first, second)
        if np.ptp(change) == 0:  # the statistic is not defined
            t = math.copysign(math.inf, change[0]) if change[0] else 0.0
            p = 0.0 if change[0] else 1.0
        else:
            t, p = (float(value) for value in scipy.stats.ttest_rel(first, second))
        found.append((name, float(change.mean()), t, p))
    adjusted = holm(np.array([item[3] for item in found]))
    return tuple(PairedTest(*item, float(value)) for item, value in zip(found, adjusted, strict=True))


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted p of several tests (Holm 1979): the i-th smallest of n times n - i + 1, never falling, at most 1."""
    order = np.argsort(p, kind="stable")
    scaled = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p, dtype=float)
    adjusted[order] = np.minimum(scaled, 1.0)
    return adjusted


def mean_of_finite(values: Tensor) -> float | None:
    """Mean of the finite entries; None if there is none."""
    finite = values[torch.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
