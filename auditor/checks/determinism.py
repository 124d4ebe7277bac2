"""The same image, several times."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.check import Check
from auditor.flag import Opinion
from auditor.inquiry import Inquiry
from auditor.preflight import random_output


class Determinism(Check):
    """The same image gets the same logits each time (AutoAttack's warning of randomised defences).

    Where it does not, attacks average over draws, and fresh draws judge.
    """

    preflight: ClassVar[bool] = True
    title: ClassVar[str] = "Determinism"
    kind: Literal["determinism"] = "determinism"
    images: int = Field(32, ge=1, le=1024, description="Images to ask about.")

    def run(self, inquiry: Inquiry) -> Opinion:
        return random_output(inquiry.classifier, inquiry.images(self.images)[0])
