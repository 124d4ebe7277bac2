"""What the model returns."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.check import Check
from auditor.flag import Opinion
from auditor.inquiry import Inquiry
from auditor.preflight import probabilities


class LogitsNotProbabilities(Check):
    """The model returns logits, not probabilities (AutoAttack warns of these, too)."""

    preflight: ClassVar[bool] = True
    title: ClassVar[str] = "Logits, not probabilities"
    kind: Literal["logits_not_probabilities"] = "logits_not_probabilities"
    images: int = Field(32, ge=1, le=1024, description="Images to ask about.")

    def run(self, inquiry: Inquiry) -> Opinion:
        return probabilities(inquiry.classifier, inquiry.images(self.images)[0])
