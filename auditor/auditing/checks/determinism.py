"""The same image, several times."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.auditing.allowance import Allowance
from auditor.auditing.check import Check
from auditor.auditing.inquiry import Inquiry
from auditor.kit.flag import Opinion
from auditor.models.preflight import REPEATS, random_output


class Determinism(Check):
    """The same image gets the same logits each time (AutoAttack's warning of randomized defences).

    If it does not, attacks average over draws, and fresh draws judge.
    """

    preflight: ClassVar[bool] = True
    title: ClassVar[str] = "Determinism"
    kind: Literal["determinism"] = "determinism"
    images: int = Field(32, ge=1, le=1024, description="Number of images to check.")

    def cost(self, allowance: Allowance) -> float:
        return REPEATS * allowance.images(self.images)

    def run(self, inquiry: Inquiry) -> Opinion:
        return random_output(inquiry.classifier, inquiry.images(self.images)[0])
