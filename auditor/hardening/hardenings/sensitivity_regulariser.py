"""The regularizer of "One Neuron to Fool Them All"."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.hardening.hardening import Ground, Hardening, Memory, Terms, TrainingStep
from auditor.hardening.learning.passes import Passes
from auditor.hardening.learning.trainee import full
from auditor.kit.flag import Flag
from auditor.models.classifier import Classifier
from auditor.neural.probes.head import head_of, penultimate

SMALL = 1e-6
"""Added to the sum of an image's features, which may be zero."""

PIECE = 2**24
"""Numbers to work on at a time where all pairs of classes are compared."""

LOWEST = "lowest feature"


class SensitivityRegularizer(Hardening):
    """Sensitivity regularizer (Suri and Evans 2020, arXiv 2003.09372): penalizes large head weights and contributions,
    so no single feature decides.

    CE + first_weight T1 + second_weight T2, with T1 the mean of the k largest |W[a] - W[b]| and T2 that of the k largest
    |z (W[y] - W[c])| / sum of z, for W the last layer's weights and z >= 0 its inputs. ``code``, to which the default weights
    belong: T1 of the pair of classes where it is largest, T2 averaged over all classes c, y among them, where it is 0. ``eq5``:
    both averaged over the classes c other than the label y. ``eq4``, given up by the authors: the smallest scaled change of one
    feature that changes the class is made larger.
    """

    title: ClassVar[str] = "Sensitivity regularizer (One Neuron)"
    kind: Literal["sensitivity_regulariser"] = "sensitivity_regulariser"
    form: Literal["code", "eq5", "eq4"] = Field("code", description="The authors' code, or an equation of the paper.")
    k: int = Field(16, ge=1, le=1_000_000, description="Number of features that count, the largest ones.")
    first_weight: float = Field(10.0, ge=0, le=1e6, description="Weight of the term on the last layer's weights.")
    second_weight: float = Field(100.0, ge=0, le=1e6, description="Weight of the term on features times weights.")
    delta_weight: float = Field(1.0, ge=0, le=1e6, description="Weight of the equation 4 term, used instead.")

    @property
    def cost(self) -> Passes:
        return Passes(1, 1)

    def prepare(self, ground: Ground) -> Memory:
        """Whether features are negative, on the first images."""
        classifier = ground.trainee.snapshot()
        ids = ground.ids[: ground.batch_size]
        with torch.no_grad():
            x = ground.dataset.images(ids).to(classifier.device, classifier.dtype)
            features = penultimate(classifier, head_of(classifier), x).features
        ground.trainee.count(forwards=len(ids))
        return {LOWEST: features.amin().reshape(1)}

    def loss(self, step: TrainingStep) -> Terms:
        head = step.trainee.fact("head", head_of)
        kept: list[Tensor] = []
        handle = head.layer.register_forward_pre_hook(lambda _layer, inputs: kept.append(inputs[0]))
        try:
            logits = step.trainee.logits(step.x)
        finally:
            handle.remove()
        natural, features = step.cross_entropy(logits), full(kept[-1])
        if self.form == "eq4":
            delta = -smallest_change(features, logits, head.weight)
            return Terms(natural + self.delta_weight * delta, {"clean": natural, "delta": delta})
        k = min(self.k, features.shape[1])
        first = widest(head.weight, k) if self.form == "code" else between_classes(head.weight, step.labels, k)
        second = weighed(features, head.weight, step.labels, k)
        if self.form == "eq5":
            second = second * len(head.weight) / (len(head.weight) - 1)
        loss = natural + self.first_weight * first + self.second_weight * second
        return Terms(loss, {"clean": natural, "weights": first, "features": second})

    def flags(self, classifier: Classifier, memory: Memory) -> tuple[Flag, ...]:
        found = []
        if self.form == "eq4":
            found.append(
                Flag(
                    name="equation 4 is unstable",
                    severity="warning",
                    message="The authors found equation 4 unstable and replaced it with equation 5.",
                    remedy="Set form = code, unless you want to study the instability.",
                )
            )
        if memory and float(memory[LOWEST]) < 0:
            found.append(
                Flag(
                    name="negative features",
                    severity="warning",
                    message="Some inputs of the last layer are negative; the regularizer is defined for inputs behind "
                    "a ReLU.",
                    evidence=f"an input of {float(memory[LOWEST]):.3g} at the start.",
                )
            )
        return tuple(found)


def widest(weight: Tensor, k: int) -> Tensor:
    """T1 of the code: the largest, over pairs of classes, of the mean of the k largest |W[a] - W[b]|. ``weight``: (K, M)."""
    piece = max(1, PIECE // weight.numel())
    with torch.no_grad():
        means = [_largest(part[:, None] - weight[None], k) for part in weight.split(piece)]
        a, b = divmod(int(torch.cat(means).argmax()), len(weight))
    return _largest(weight[a] - weight[b], k)


def between_classes(weight: Tensor, labels: Tensor, k: int) -> Tensor:
    """T1 of equation 5: the same between the label and each other class, mean over these and the images."""
    means = _largest(weight[labels][:, None] - weight[None], k)
    return means.sum(1).mean() / (len(weight) - 1)  # that of the label itself is 0


def weighed(features: Tensor, weight: Tensor, labels: Tensor, k: int) -> Tensor:
    """T2 of the code: mean over images and classes c of the mean of the k largest |z (W[y] - W[c])|, over the sum of z.

    ``features``: z, (B, M).
    """
    means = _largest(features[:, None] * (weight[labels][:, None] - weight[None]), k)
    return (means.mean(1) / (features.sum(1) + SMALL)).mean()


def smallest_change(features: Tensor, logits: Tensor, weight: Tensor) -> Tensor:
    """What equation 4 makes larger: min over features j of |(Delta_c(j) - mu_j) / sigma_j|, mean over classes c and images.

    Delta_c(j), the change of one feature that brings class c level with the predicted one, counts where it leaves the feature
    >= 0; mu and sigma are the batch's, held. Features that never vary, and classes out of reach, do not count.
    """
    top, predicted = logits.max(1)
    slope = weight[None] - weight[predicted][:, None]
    other = torch.arange(len(weight), device=weight.device) != predicted[:, None]
    mean, deviation = features.detach().mean(0), features.detach().std(0, correction=0)
    # Divisors of zero are replaced before the division, so no gradient passes through an infinite number.
    delta = (top[:, None] - logits)[:, :, None] / torch.where(slope == 0, 1.0, slope)
    possible = other[:, :, None] & (slope != 0) & (deviation > 0) & (features[:, None] + delta >= 0)
    scaled = ((delta - mean) / torch.where(deviation > 0, deviation, 1.0)).abs()
    nearest = torch.where(possible, scaled, torch.inf).amin(2)
    reached = possible.any(2)
    total = torch.where(reached, nearest, 0.0).sum(1)
    return (total / reached.sum(1).clamp_min(1)).mean()


def _largest(values: Tensor, k: int) -> Tensor:
    """Mean of the k largest sizes along the last dimension."""
    return values.abs().topk(k, dim=-1).values.mean(-1)
