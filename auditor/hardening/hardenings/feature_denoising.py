"""Feature denoising."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from auditor.hardening.hardening import Terms, TrainingStep
from auditor.hardening.learning.mixture import Mixture
from auditor.kit.series import Names
from auditor.models.architecture import ARCHITECTURES, Architecture
from auditor.models.classifier import Classifier
from auditor.models.layers.denoising import Filter
from auditor.models.layers.extended import Extended, extended_copy, frame_of


class FeatureDenoising(Mixture):
    """Feature denoising (Xie et al. 2019, arXiv 1812.03411): blocks that filter the features, under adversarial training.

    A block adds BN(conv(filter(x))) to x and changes nothing at first. The training is that of PAT, so the two compare; the
    paper's own attack has targets at random, and a fifth of the images start clean.
    """

    title: ClassVar[str] = "Feature denoising"
    kind: Literal["feature_denoising"] = "feature_denoising"
    pairs_sides: ClassVar[bool] = False
    filter: Filter = Field("median", description="Filter that denoises the features.")
    layers: Names = Field(
        (),
        max_length=100,
        description="Modules to put a block after; empty: the last activation at each size of map.",
    )
    targeted: bool = Field(
        False, description="Attack towards a wrong class drawn at random, instead of away from the label."
    )
    clean_start: float = Field(
        0.0, ge=0, le=1, description="Share of the images whose attack starts at the clean image."
    )

    def extended(self, classifier: Classifier) -> nn.Module:
        return extended_copy(classifier, self._extension(num_classes=classifier.num_classes))

    def child(self, architecture: Architecture) -> Architecture:
        return self._extension(base=architecture, **frame_of(architecture))

    def start(self, step: TrainingStep) -> Tensor:
        moved = super().start(step)
        stays = step.random("clean start").uniform(step.x[:, 0, 0, 0]) < self.clean_start
        return torch.where(stays.view(-1, 1, 1, 1), step.x, moved)

    def loss(self, step: TrainingStep) -> Terms:
        if not self.targeted:
            return self.trained(step, self.adversarial(step))
        classes = step.start.num_classes
        shift = 1 + (step.random("targets").uniform(step.x[:, 0, 0, 0]) * (classes - 1)).long().clamp_max(classes - 2)
        targets = (step.labels + shift) % classes

        def towards(points: Tensor) -> Tensor:
            return -cross_entropy(step.trainee.run(points), targets, reduction="sum")

        return self.trained(step, self.adversarial(step, towards))

    def _extension(self, **values: Any) -> Extended:
        found = ARCHITECTURES.build("feature-denoised", {"layers": self.layers, "filter": self.filter, **values})
        assert isinstance(found, Extended)
        return found
