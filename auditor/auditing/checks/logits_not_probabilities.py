"""What the model returns."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.auditing.allowance import Allowance
from auditor.auditing.check import Check
from auditor.auditing.inquiry import Inquiry
from auditor.kit.flag import Opinion
from auditor.models.preflight import probabilities


class LogitsNotProbabilities(Check):
    """The model returns logits, not probabilities (AutoAttack warns of these, too)."""

    preflight: ClassVar[bool] = True
    title: ClassVar[str] = "Logits, not probabilities"
    kind: Literal["logits_not_probabilities"] = "logits_not_probabilities"
    images: int = Field(32, ge=1, le=1024, description="Number of images to check.")

    def cost(self, allowance: Allowance) -> float:
        return allowance.images(self.images)

    def run(self, inquiry: Inquiry) -> Opinion:
        return probabilities(inquiry.classifier, inquiry.images(self.images)[0])
