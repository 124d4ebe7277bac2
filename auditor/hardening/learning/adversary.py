"""The attack of adversarial training: projected gradient ascent within a ball, on the network in eval mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.attacking.threat import Ball, Epsilon, Norm, ThreatModel
from auditor.hardening.hardening import Hardening, TrainingStep
from auditor.hardening.learning.passes import Passes
from auditor.models.classifier import input_gradient

Objective = Callable[[Tensor], Tensor]
"""From images (B, C, H, W) to what the attacker ascends, summed over them."""


def ascend(objective: Objective, x: Tensor, start: Tensor, ball: Ball, *, steps: int, step_size: float) -> Tensor:
    """Images in the ball around ``x`` and in [0, 1] after so many steps from ``start`` (Madry et al. 2018, arXiv 1706.06083).

    ``step_size``: length of one step, as a fraction of epsilon. No gradient flows through the result.
    """
    points = ball.project(start, x).detach()
    for _ in range(steps):
        points.requires_grad_()
        gradient = input_gradient(objective(points), points)
        points = points.detach()
        points = ball.project(points + step_size * ball.epsilon * ball.steepest(gradient, points), x)
    return points


class Adversarial(Hardening):
    """What trainings on adversarial images have in common: the attack's budget and its steps."""

    norm: Literal["linf", "l2"] = Field("linf", description="Norm of the perturbation.")
    epsilon: Epsilon = Field(8 / 255, description="Radius of the training attack.")
    steps: int = Field(10, ge=1, le=1000, description="Steps of the training attack.")
    step_size: float = Field(10**-0.5, gt=0, le=10, description="Length of one step, as a fraction of epsilon.")
    random_start: bool = Field(True, description="Start from a random point of the ball instead of the clean image.")

    @property
    def attacks_within(self) -> ThreatModel | None:
        return self.threat

    @property
    def threat(self) -> ThreatModel:
        return ThreatModel(norm=Norm(self.norm), epsilon=self.epsilon)

    @property
    def attack_cost(self) -> Passes:
        """Of one image in one step."""
        return Passes(self.steps, self.steps)

    def start(self, step: TrainingStep) -> Tensor:
        """Where the attack begins: a point uniform in the ball, or the image."""
        return self.threat.ball(step.x).sample(step.x, step.random("start")) if self.random_start else step.x

    def adversarial(
        self, step: TrainingStep, objective: Objective | None = None, *, start: Tensor | None = None
    ) -> Tensor:
        """Adversarial images of a batch against the network as it is, in eval mode; by default its cross-entropy ascends."""

        def against_label(points: Tensor) -> Tensor:
            return cross_entropy(step.trainee.run(points), step.labels, reduction="sum")

        step.trainee.count(self.attack_cost.forwards * len(step.x), self.attack_cost.backwards * len(step.x))
        return ascend(
            objective or against_label,
            step.x,
            self.start(step) if start is None else start,
            self.threat.ball(step.x),
            steps=self.steps,
            step_size=self.step_size,
        )


class NearStart(Adversarial):
    """Trainings whose attack begins close to the image: where it ascends a distance from it, the gradient there is
    zero."""

    step_size: float = Field(0.25, gt=0, le=10, description="Length of one step, as a fraction of epsilon.")
    random_start: bool = Field(True, description="Start from the image with a little Gaussian noise (deviation 0.001).")

    def start(self, step: TrainingStep) -> Tensor:
        return step.x + 0.001 * step.random("start").normal(step.x) if self.random_start else step.x
