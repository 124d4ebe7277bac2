"""The attack on one neuron: move the features to where that neuron alone would change the prediction (2003.09372, 2.2)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.classifier import Classifier, finite, input_gradient
from auditor.probes.head import Head, penultimate
from auditor.probes.identity_relu import IdentityRelu
from auditor.threat import ThreatModel

OWN_WEIGHT = 10.0
"""Weight of the attacked neuron's own error, beside that of all features (the authors' code)."""
STEP = 2.5
"""Length of a step, as a multiple of epsilon / iterations (the authors' code)."""
TINY = 1e-9

Best = Literal["output", "loss"]


class Targets(NamedTuple):
    """What R attacks want, one row each: ``features`` (R, M) to reach, the ``neuron`` (R,) that differs from the image's own
    features, the class ``predicted`` (R,) to leave, and which rows let gradients ``pass`` through the last ReLU (R,)."""

    features: Tensor
    neuron: Tensor
    predicted: Tensor
    passing: Tensor

    def part(self, rows: slice) -> Targets:
        """Those of some rows."""
        return Targets(self.features[rows], self.neuron[rows], self.predicted[rows], self.passing[rows])


class Attacked(NamedTuple):
    """The best iterate of each row, (R, C, H, W), and whether its prediction is another, bool (R,)."""

    x_adv: Tensor
    changed: Tensor


def target_loss(features: Tensor, targets: Targets) -> Tensor:
    """||z - t|| / ||t|| + 10 |z_i - t_i| / |t_i|, (R,): the feature-space form of eq. 3 in the authors' code."""
    goal = targets.features.to(features.dtype)
    distance = (features - goal).norm(dim=1) / (goal.norm(dim=1) + TINY)
    own, own_goal = (values.gather(1, targets.neuron[:, None])[:, 0] for values in (features, goal))
    return distance + OWN_WEIGHT * (own - own_goal).abs() / (own_goal.abs() + TINY)


def attack_neurons(
    classifier: Classifier,
    head: Head,
    x: Tensor,
    targets: Targets,
    threat: ThreatModel,
    *,
    iterations: int,
    best: Best,
    relu: int,
) -> Attacked:
    """Projected gradient descent on ``target_loss`` from ``x`` (R, C, H, W), each row with a target of its own.

    The best of all iterates, the image itself included, is the one with the highest cross-entropy of the predicted class
    ("output") or the lowest loss ("loss"), the first where they are equal. ``relu``: see ``identity_relu``.
    """
    ball = threat.ball(x)
    step = STEP * ball.epsilon / iterations
    x_adv, x_best = x, x
    highest, answer = x.new_full((len(x),), -torch.inf), targets.predicted
    for iteration in range(iterations + 1):
        points = x_adv.detach().requires_grad_()
        with torch.enable_grad(), IdentityRelu(relu, targets.passing):
            features, logits = penultimate(classifier, head, points)
            loss = target_loss(features, targets)
        finite(logits)
        score = cross_entropy(logits, targets.predicted, reduction="none") if best == "output" else -loss
        better = score.detach() > highest
        highest = torch.where(better, score.detach(), highest)
        answer = torch.where(better, logits.detach().argmax(1), answer)
        x_best = torch.where(better.view(-1, 1, 1, 1), points.detach(), x_best)
        if iteration < iterations:
            gradient = input_gradient(loss.sum(), points).nan_to_num(0.0, 0.0, 0.0)
            x_adv = ball.project(x_adv - step * ball.steepest(gradient, x_adv), x)
    return Attacked(x_best, answer != targets.predicted)
