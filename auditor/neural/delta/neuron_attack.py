"""The attack on one neuron: move the features to where that neuron alone would change the prediction (2003.09372, 2.2)."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.attacking.harness.fast import fast_copy
from auditor.attacking.threat import ThreatModel
from auditor.models.classifier import Classifier, finite, input_gradient
from auditor.neural.probes.head import head_of, penultimate
from auditor.neural.probes.identity_relu import IdentityRelu, last_relu

OWN_WEIGHT = 10.0
"""Weight of the attacked neuron's own error, relative to that of all features (the authors' code)."""
STEP = 2.5
"""Length of a step, as a multiple of epsilon / iterations (the authors' code)."""
TINY = 1e-9
SURE = 1e-3
"""A cross-entropy is beyond log K when it exceeds it by more than rounding could."""

Best = Literal["output", "loss"]


class Targets(NamedTuple):
    """What R attacks want, one row each, all (R,): the ``neuron`` of the head's input and the ``change`` of it to reach, the
    class ``predicted`` to leave, and which rows let gradients through the last ReLU (``passing``)."""

    neuron: Tensor
    change: Tensor
    predicted: Tensor
    passing: Tensor

    def part(self, rows: Tensor) -> Targets:
        """Those of some rows."""
        return Targets(*(values[rows] for values in self))


class BestIterates(NamedTuple):
    """The best iterate of each row, (R, C, H, W), and whether its prediction is another, bool (R,)."""

    x_adv: Tensor
    changed: Tensor


def target_loss(features: Tensor, goal: Tensor, neuron: Tensor) -> Tensor:
    """||z - t|| / ||t|| + 10 |z_i - t_i| / |t_i|, (R,): the feature-space form of eq. 3 in the authors' code.

    ``features``, ``goal``: z and t, (R, M). ``neuron``: i, (R,).
    """
    distance = (features - goal).norm(dim=1) / (goal.norm(dim=1) + TINY)
    own, own_goal = (values.gather(1, neuron[:, None])[:, 0] for values in (features, goal))
    return distance + OWN_WEIGHT * (own - own_goal).abs() / (own_goal.abs() + TINY)


class NeuronAttack:
    """Projected gradient descent on ``target_loss`` from the image, each row with a target of its own.

    The best of all iterates, the image itself included, is the one with the highest cross-entropy of the predicted class
    ("output") or the lowest loss ("loss"), the first where they are equal. Iterates come from a fast copy of the network, the
    verdict on the best one from the network itself. ``relu``: see ``identity_relu``; 0 unless ``fake_relu``.
    """

    def __init__(
        self, classifier: Classifier, threat: ThreatModel, *, iterations: int, best: Best, fake_relu: bool
    ) -> None:
        self.classifier, self.fast = classifier, fast_copy(classifier)
        self.head = head_of(self.fast)
        self.relu = last_relu(self.fast) if fake_relu else 0
        self.threat, self.iterations, self.best = threat, iterations, best

    def __call__(self, x: Tensor, targets: Targets) -> BestIterates:
        """``x``: (R, C, H, W), one image for each target."""
        x_best, highest = x.clone(), x.new_full((len(x),), -torch.inf)
        rows, x_adv, goal = torch.arange(len(x), device=x.device), x, torch.empty(0)
        for iteration in range(self.iterations + 1):
            last, wanted = iteration == self.iterations, targets.part(rows)
            points = x_adv.detach().requires_grad_(not last)
            with torch.set_grad_enabled(not last), IdentityRelu(self.relu, wanted.passing):
                features, logits = penultimate(self.fast, self.head, points)
                if iteration == 0:
                    # From this very pass: another one's rounding would be a difference to reach, and its sign a step.
                    goal = features.detach().scatter_add(1, wanted.neuron[:, None], wanted.change[:, None].to(features))
                loss = target_loss(features, goal[rows], wanted.neuron)
            score = self._score(finite(logits).detach(), loss.detach(), wanted.predicted)
            better = score > highest[rows]
            highest[rows[better]], x_best[rows[better]] = score[better], x_adv[better]
            standing = ~self._settled(highest[rows])
            rows = rows[standing]
            if last or not len(rows):
                break
            gradient = input_gradient(loss[standing].sum(), points).nan_to_num(0.0, 0.0, 0.0)[standing]
            x_adv = self._step(x_adv[standing], gradient, x[rows])
        return BestIterates(x_best, self.classifier.logits(x_best).argmax(1) != targets.predicted)

    def _score(self, logits: Tensor, loss: Tensor, predicted: Tensor) -> Tensor:
        """What the best iterate has most of, (R,)."""
        return cross_entropy(logits, predicted, reduction="none") if self.best == "output" else -loss

    def _step(self, x_adv: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
        ball = self.threat.ball(x)
        step = STEP * ball.epsilon / self.iterations
        return ball.project(x_adv - step * ball.steepest(gradient, x_adv), x)

    def _settled(self, highest: Tensor) -> Tensor:
        """Which rows cannot fail any more: the predicted class has less than 1 / K, and every better iterate gives it less."""
        if self.best == "loss":
            return torch.zeros_like(highest, dtype=torch.bool)
        return highest > math.log(self.classifier.num_classes) + SURE
