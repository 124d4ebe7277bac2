"""Importance of features: what each adds to the logit of an attack's target class (Zhang et al. 2020, arXiv 1909.06978)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from auditor.models.classifier import Classifier
from auditor.neural.analysis import Pair
from auditor.neural.probes.head import Head, penultimate
from auditor.neural.ranking.agreement import Floats, weighted_votes


class Importance(NamedTuple):
    """What the successful twins of one target class say of each of M features, float64 (M,); zeros where there are no images.

    ``phi``: mean importance (eq. 3). ``votes``: weighted votes of the k most important on each image (eq. 4, 5).
    ``borda``: the same with k = M. ``sigma``: sensitivity (eq. 1).
    """

    images: int
    phi: Floats
    votes: Floats
    borda: Floats
    sigma: Floats


def importance_of(classifier: Classifier, head: Head, target: int, pairs: Iterable[Pair], k: int) -> Importance:
    """Importance and sensitivity of the head's features on these pairs, whose twins the model takes for ``target``.

    Importance is signed and leaves the bias out.
    """
    neurons = head.layer.in_features
    weight = head.weight[target].detach().double().cpu().numpy()
    phi, votes, borda, sigma = np.zeros((4, neurons))
    images = 0
    for pair in pairs:
        with torch.no_grad():
            clean, moved = (
                penultimate(classifier, head, side.to(classifier.dtype)).features.double().cpu().numpy()
                for side in (pair.x, pair.x_adv)
            )
        parts = moved * weight
        phi += parts.sum(0)
        votes += weighted_votes(parts, min(k, neurons))
        borda += weighted_votes(parts, neurons)
        sigma += np.abs(moved - clean).sum(0)
        images += len(pair.sample)
    return Importance(images, phi / max(images, 1), votes, borda, sigma / max(images, 1))
