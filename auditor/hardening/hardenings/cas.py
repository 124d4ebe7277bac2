"""Channel-wise activation suppressing."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from auditor.hardening.hardening import Memory, Terms, TrainingStep
from auditor.hardening.learning.adversary import Adversarial
from auditor.hardening.learning.passes import Passes
from auditor.hardening.learning.trainee import full
from auditor.kit.flag import Flag
from auditor.kit.series import Names
from auditor.models.architecture import ARCHITECTURES, Architecture
from auditor.models.classifier import Classifier
from auditor.models.layers.extended import Extended, extended_copy, frame_of
from auditor.models.layers.suppression import auxiliary


class CAS(Adversarial):
    """Channel-wise activation suppressing (Bai et al. 2021, arXiv 2103.08307): reduces the weight of channels that the
    class does not need.

    After some layers, a linear classifier on the channels' means weights each channel by its weight for the label, or
    at inference for the class that it predicts. CE(x') + beta times the mean of these classifiers' own; the attack
    ascends the same, in eval mode.
    """

    title: ClassVar[str] = "Channel-wise activation suppressing (CAS)"
    kind: Literal["cas"] = "cas"
    step_size: float = Field(0.25, gt=0, le=10, description="Length of one step, as a fraction of epsilon.")
    beta: float = Field(
        2.0, ge=0, le=1e6, description="Weight of the added classifiers' losses, in training and attack."
    )
    layers: Names = Field(
        (),
        max_length=100,
        description="Modules to put a block after; empty: the last three activations of one size.",
    )

    @property
    def cost(self) -> Passes:
        return self.attack_cost.plus(1, 1)

    def extended(self, classifier: Classifier) -> nn.Module:
        return extended_copy(classifier, self._extension(num_classes=classifier.num_classes))

    def child(self, architecture: Architecture) -> Architecture:
        return self._extension(base=architecture, **frame_of(architecture))

    def loss(self, step: TrainingStep) -> Terms:
        network = step.trainee.network

        def both_losses(points: Tensor) -> Tensor:
            with auxiliary(network) as logits:
                main = cross_entropy(step.trainee.run(points), step.labels, reduction="sum")
            return main + self.beta * _mean_loss(logits, step.labels, "sum")

        x_adv = self.adversarial(step, both_losses)
        with auxiliary(network, step.labels) as logits:
            main = step.cross_entropy(step.trainee.logits(x_adv))
        added = _mean_loss(logits, step.labels, "mean")
        return Terms(main + self.beta * added, {"adversarial": main, "channels": added})

    def flags(self, classifier: Classifier, memory: Memory) -> tuple[Flag, ...]:
        flag = Flag(
            name="attack the added classifiers too",
            severity="warning",
            message="At inference, channels are weighted for the predicted class, a choice that passes no gradient.",
            remedy="Attacks on the logits alone may fall short: attack the added classifiers as well.",
        )
        return (flag,)

    def _extension(self, **values: Any) -> Extended:
        found = ARCHITECTURES.build("channel-suppressed", {"layers": self.layers, **values})
        assert isinstance(found, Extended)
        return found


def _mean_loss(logits: list[Tensor], labels: Tensor, reduction: str) -> Tensor:
    return torch.stack([cross_entropy(full(item), labels, reduction=reduction) for item in logits]).mean()
