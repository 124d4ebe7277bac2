"""The adaptive attacks that the NIP paper defines (Chen et al. 2021, arXiv 2112.13060, eq. 11, 12 and appendix B).

None of them looks at the defense: they attack the undefended network by way of its neuron influence. What they find is judged by
the defended one. SAA, which attacks the defended image once more, is in ``auditor.defending.measuring``, since it needs an
attack.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.attacking.threat import Ball
from auditor.models.classifier import Classifier, input_gradient
from auditor.neural.influence.influence import Parts, head_influence, split_parts
from auditor.neural.probes.head import Head, head_of, penultimate


class _Start(NamedTuple):
    """Of the clean images: influence (B, M) and parts."""

    influence: Tensor
    parts: Parts


class InfluenceAttack(BaseModel):
    """ALA, I-ALA, S-ALA or R-ALA, at the input of the last linear layer.

    ALA: one step, I-ALA: many, up the gradient of the tail neurons' outputs minus those of the front neurons, both of the clean
    image. S-ALA: up ``weight`` x cross-entropy minus the mean squared change of the influence on the confidence. R-ALA: up the
    same cross-entropy plus the mean squared change over the remaining neurons. The influence is taken in closed form (eq. 2 of
    the features), so its derivative is exact.

    ``literal``: the gradient itself times ``step``, without a ball, as ALA and I-ALA are printed; else ``step`` x epsilon along
    the steepest direction, projected into the ball. The paper gives no step and no ball for S-ALA and R-ALA.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["ala", "i-ala", "s-ala", "r-ala"]
    literal: bool = Field(False, description="Take the step as printed in the paper, without projection.")
    step: float = Field(0.1, gt=0, description="Share of epsilon; with literal, the factor of the gradient.")
    steps: int = Field(10, ge=1, le=10_000, description="Steps; ALA takes one.")
    weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy (lambda).")
    front: int = Field(3, ge=1, description="Front neurons (k1).")
    tail: int = Field(3, ge=1, description="Tail neurons (k2).")

    @property
    def passes(self) -> int:
        """Forward passes of the network for one image; a backward pass counts as two."""
        steps, forwards = (1 if self.kind == "ala" else self.steps), (1 if self.kind in ("ala", "i-ala") else 2)
        return 1 + steps * 3 * forwards

    def attack(self, classifier: Classifier, x: Tensor, labels: Tensor, ball: Ball) -> Tensor:
        """The adversarial images, (B, C, H, W) in [0, 1]. Raises EvaluationError if the network has no head."""
        head = head_of(classifier)
        with torch.no_grad():
            influence = self._influence(classifier, head, x)
        start = _Start(influence, split_parts(influence, self.front, self.tail))
        x_adv = x
        for _ in range(1 if self.kind == "ala" else self.steps):
            gradient = self._gradient(classifier, head, x_adv, labels, start)
            if self.literal:
                x_adv = (x_adv + self.step * gradient).clamp(0, 1)
            else:
                x_adv = ball.project(x_adv + self.step * ball.epsilon * ball.steepest(gradient, x_adv), x)
        return x_adv

    def _gradient(self, classifier: Classifier, head: Head, x_adv: Tensor, labels: Tensor, start: _Start) -> Tensor:
        points = x_adv.detach().requires_grad_()
        with torch.enable_grad():
            return input_gradient(self.objective(classifier, head, points, labels, start).sum(), points)

    def objective(self, classifier: Classifier, head: Head, x: Tensor, labels: Tensor, start: _Start) -> Tensor:
        """What is ascended, (B,)."""
        if self.kind in ("ala", "i-ala"):
            features = penultimate(classifier, head, x).features
            return features.gather(1, start.parts.tail).sum(1) - features.gather(1, start.parts.front).sum(1)
        change = (self._influence(classifier, head, x) - start.influence).square()
        loss = self.weight * cross_entropy(classifier(x), labels, reduction="none")
        if self.kind == "s-ala":
            return loss - change.mean(1)
        return loss + change.gather(1, start.parts.remaining).mean(1)

    def _influence(self, classifier: Classifier, head: Head, x: Tensor) -> Tensor:
        """On the softmax confidence in the predicted class (eq. 2), float64 (B, M): that on the log odds, times p (1 - p)."""
        features, logits = penultimate(classifier, head, x)
        classes = logits.argmax(1)
        probability = logits.double().softmax(1).gather(1, classes[:, None])
        return head_influence(features, logits, head.weight, classes) * probability * (1 - probability)


def paper_attacks() -> tuple[InfluenceAttack, ...]:
    """ALA and I-ALA as printed (s = 0.01, 20 steps, k = 3) and within a ball; S-ALA and R-ALA within a ball (10 steps)."""
    printed = tuple(
        InfluenceAttack(kind=kind, literal=True, step=0.01, steps=20) for kind in ("ala", "i-ala")
    )  # fmt: skip
    bounded = (InfluenceAttack(kind="ala", step=1.0), InfluenceAttack(kind="i-ala", steps=20))
    return (*printed, *bounded, InfluenceAttack(kind="s-ala"), InfluenceAttack(kind="r-ala"))
