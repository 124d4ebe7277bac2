"""Indicator of attack failure 2."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from auditor.auditing.allowance import Allowance
from auditor.auditing.check import Check
from auditor.auditing.inquiry import Inquiry
from auditor.kit.flag import Flag, Opinion
from auditor.kit.randomness import RowRandom
from auditor.models.preflight import fixed_draw


class UnstablePredictions(Check):
    """Indicator 2 (Pintor et al. 2022, arXiv 2106.09947): the loss hardly changes within a tiny neighbourhood of an image.

    Mean over random neighbours of |loss(neighbour) - loss(image)| / |loss(image)|, at most 1, then the mean over the images;
    the loss is the margin of the logits. The paper looks up to 4/255 away, where a plain ResNet-20 (CIFAR-10) changes by 19 %
    and would be doubted; up to 0.004 (1/255) away smooth models hardly change, and shattered or random ones as much as before.
    """

    preflight: ClassVar[bool] = True
    title: ClassVar[str] = "Indicator 2: unstable predictions"
    kind: Literal["unstable_predictions"] = "unstable_predictions"
    images: int = Field(50, ge=1, le=1024, description="Number of images to check.")
    neighbours: int = Field(20, ge=1, le=1000, description="Random neighbours of each image.")
    radius: float = Field(0.004, gt=0, le=1, description="Largest change of a pixel in a neighbour.")
    threshold: float = Field(0.1, gt=0, le=1, description="Mean relative change that raises a doubt.")

    def cost(self, allowance: Allowance) -> float:
        return (1 + self.neighbours) * allowance.images(self.images)

    def run(self, inquiry: Inquiry) -> Opinion:
        images, wanted = inquiry.images(self.images)
        model = fixed_draw(inquiry.classifier)  # else one would see the draws change, not the loss
        reference = inquiry.margins(wanted, images, model)
        random = RowRandom(inquiry.seed, "neighbours", [(row,) for row in range(len(images))])
        total = torch.zeros_like(reference)
        for _ in range(self.neighbours):
            near = (images + self.radius * (2 * random.uniform(images) - 1)).clamp(0, 1)
            change = (inquiry.margins(wanted, near, model) - reference).abs()
            total += change / reference.abs().clamp_min(1e-12)
        indicator = float((total / self.neighbours).clamp_max(1).mean())
        evidence = (
            f"the margin changes by {100 * indicator:.1f} % on average over {len(images)} images and {self.neighbours} "
            "neighbours each"
        )
        if indicator <= self.threshold:
            return Opinion(evidence)
        flag = Flag(
            name="unstable predictions",
            severity="warning",
            message="The loss varies strongly in a tiny neighbourhood of the images.",
            evidence=evidence,
            remedy="Gradients then say little about the direction to take: average them over a neighbourhood or over "
            "answers (EOT).",
        )
        return Opinion(evidence, (flag,))
