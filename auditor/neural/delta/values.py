"""Delta-values of the last layer's inputs (Suri and Evans 2020, arXiv 2003.09372), and the orderings of neurons by them.

The head is evaluated again in float64 from the features that the network gives: a Delta is a margin between two logits,
and float32 would leave nothing of a small one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.kit.statistics.association import spearman
from auditor.kit.statistics.moments import Moments
from auditor.models.classifier import Classifier, finite
from auditor.neural.analysis import Pairs
from auditor.neural.probes.head import Head, penultimate
from auditor.neural.ranking.agreement import shared_front

Ordering = Literal["abs_scaled", "code", "paper"]
Feasible = Literal["auto", "nonnegative", "any"]

ORDERINGS: dict[Ordering, str] = {
    "abs_scaled": "|Δ| / σ",
    "code": "(Δ − μ) / σ, signed",
    "paper": "|(Δ − μ) / σ|",
}
"""The scores by which neurons are ordered, lowest (most sensitive) first; μ, σ: mean and deviation of the neuron's output."""


class Activations(NamedTuple):
    """Each neuron's output over the images, float64 (M,): mean, standard deviation (of the population), extremes, zeros.

    ``std`` is exactly zero where the output is the same on every image. ``zeros``: share of images with an output of zero.
    """

    images: int
    mean: Tensor
    std: Tensor
    lowest: Tensor
    highest: Tensor
    zeros: Tensor

    def floor(self, feasible: Feasible) -> float:
        """The lowest output that a neuron can have: 0 behind a ReLU (under "auto": where no output was ever negative)."""
        positive = feasible == "nonnegative" or (feasible == "auto" and bool((self.lowest >= 0).all()))
        return 0.0 if positive else -torch.inf


class Deltas(NamedTuple):
    """``value``: signed Delta of each image and neuron, float64 (B, M), inf where no class can be reached.

    ``target``: the class reached, int64 (B, M), -1 if there is none. ``tied``: images, bool (B,), whose two highest logits
    are equal: there is no predicted class to leave, and all their values are inf.
    """

    value: Tensor
    target: Tensor
    tied: Tensor


def head_logits(head: Head, features: Tensor) -> Tensor:
    """Logits in float64, (B, K), of features (B, M)."""
    return features.double() @ head.weight.double().T + head.bias.double()


def delta_values(features: Tensor, logits: Tensor, weight: Tensor, *, floor: float | Tensor = 0.0) -> Deltas:
    """The smallest change of each neuron alone that leaves the predicted class y (eq. 1), in closed form (eq. 2).

    Delta_c = (l_y - l_c) / (W[c, i] - W[y, i]); of the classes that keep z_i + Delta_c >= ``floor`` (a number, or one for each
    image, (B, 1)) the nearest counts, ties to the lower index. ``features``: (B, M). ``logits``: (B, K) in float64.
    ``weight``: (K, M). One class at a time: memory is a few times (B, M).
    """
    features, weight = features.double(), weight.double()
    top, predicted = logits.max(1)
    best = torch.full_like(features, torch.inf)
    target = torch.full_like(features, -1, dtype=torch.int64)
    for other in range(len(weight)):
        # A weight that is equal gives x / 0 = inf (or NaN for the class itself), which is never nearer.
        delta = (top - logits[:, other])[:, None] / (weight[other] - weight[predicted])
        nearer = (delta.abs() < best.abs()) & (features + delta >= floor) & (predicted != other)[:, None]
        best = torch.where(nearer, delta, best)
        target = target.masked_fill(nearer, other)
    tied = (logits == top[:, None]).sum(1) > 1
    return Deltas(best.masked_fill(tied[:, None], torch.inf), target.masked_fill(tied[:, None], -1), tied)


def leaves_prediction(logits: Tensor, weight: Tensor, change: Tensor) -> Tensor:
    """Whether adding ``change`` (B, M) to one neuron at a time puts another class above the predicted one, bool (B, M)."""
    weight = weight.double()
    top, predicted = logits.max(1)
    lead = torch.full_like(change, -torch.inf)
    for other in range(len(weight)):
        gain = (logits[:, other] - top)[:, None] + change * (weight[other] - weight[predicted])
        lead = torch.maximum(lead, gain.masked_fill((predicted == other)[:, None], -torch.inf))
    return lead > 0


def scores(delta: Tensor, activations: Activations, ordering: Ordering) -> Tensor:
    """What neurons are ordered by, (B, M), lowest first; inf where Delta is, and for neurons that never vary (σ = 0)."""
    shift = torch.zeros_like(activations.mean) if ordering == "abs_scaled" else activations.mean
    score = (delta - shift) / activations.std
    score = score if ordering == "code" else score.abs()
    return score.masked_fill(delta.isinf() | (activations.std == 0), torch.inf)


def ordered(score: Tensor) -> Tensor:
    """Neurons by score along the last dimension, most sensitive first, ties by the lower index."""
    return score.argsort(dim=-1, stable=True)


def order_agreement(
    one: NDArray[np.float64], other: NDArray[np.float64], *, top: int
) -> tuple[float, float, float] | None:
    """How far two scores (M,) order one image's neurons alike.

    Spearman's correlation over the neurons with finite scores (the same for every ordering), the share that the ``top`` lists
    have in common, and what random orders would have. None where the lists are longer than there are such neurons, or all
    scores are equal.
    """
    known = np.isfinite(one) & np.isfinite(other)
    count, top = int(known.sum()), min(top, len(one))
    correlation = spearman(one[known], other[known]).value
    if count < max(top, 3) or correlation is None:
        return None
    return correlation, shared_front(-one, -other, top), top / count


def activations_of(classifier: Classifier, head: Head, pairs: Pairs) -> Activations:
    """Statistics of the head's input over the clean images, in one pass."""
    moments, zeros = Moments(), torch.zeros(head.weight.shape[1], dtype=torch.float64, device=classifier.device)
    for pair in pairs:
        features = features_of(classifier, head, pair.x)
        moments.add(features.T)
        zeros += (features == 0).sum(0)
    return Activations(moments.count, moments.mean, moments.std, moments.lowest, moments.highest, zeros / moments.count)


def deltas_of(classifier: Classifier, head: Head, x: Tensor, floor: float) -> tuple[Tensor, Deltas]:
    """Logits in float64, (B, K), and Delta-values of some images."""
    features = features_of(classifier, head, x)
    logits = head_logits(head, features)
    return logits, delta_values(features, logits, head.weight, floor=floor)


def features_of(classifier: Classifier, head: Head, x: Tensor) -> Tensor:
    """The head's input for images of any float type, float64 (B, M), without a graph. Raises EvaluationError on NaN logits."""
    with torch.no_grad():
        features, logits = penultimate(classifier, head, x.to(classifier.dtype))
    finite(logits)
    return features.double()
