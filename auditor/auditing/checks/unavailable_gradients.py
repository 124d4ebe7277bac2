"""Indicator of attack failure 1."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.auditing.allowance import Allowance
from auditor.auditing.check import Check
from auditor.auditing.inquiry import Inquiry
from auditor.kit.flag import Opinion
from auditor.models.preflight import dead_gradients, no_gradient


class UnavailableGradients(Check):
    """Indicator 1 (Pintor et al. 2022, arXiv 2106.09947): a usable gradient reaches the input.

    The paper counts images whose gradient of the attack's loss is zero. Here the doubt follows from the margin of the logits:
    the cross-entropy of a very sure model has a gradient of zero, and then it depends on the attack's own loss whether it is
    blind (see blind_gradients). Both numbers are given.
    """

    preflight: ClassVar[bool] = True
    title: ClassVar[str] = "Indicator 1: unavailable gradients"
    kind: Literal["unavailable_gradients"] = "unavailable_gradients"
    images: int = Field(100, ge=1, le=1024, description="Number of images to check.")

    def cost(self, allowance: Allowance) -> float:
        return 3 * (1 + allowance.answers) * allowance.images(self.images)

    def run(self, inquiry: Inquiry) -> Opinion:
        images, wanted = inquiry.images(self.images)
        dead = dead_gradients(inquiry.classifier, images, lambda logits, index: wanted[index].loss(logits))
        opinion = no_gradient(inquiry.classifier, images)
        return opinion._replace(evidence=f"{opinion.evidence}, that of the cross-entropy for {int(dead.sum())}")
