"""The same image alone, and among others."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.check import Check
from auditor.flag import Opinion
from auditor.inquiry import Inquiry
from auditor.preflight import batch_dependence, random_output


class BatchIndependence(Check):
    """An image gets the same logits alone and in any batch."""

    preflight: ClassVar[bool] = True
    title: ClassVar[str] = "Independence of the batch"
    kind: Literal["batch_independence"] = "batch_independence"
    images: int = Field(32, ge=2, le=1024, description="Images to ask about.")

    def run(self, inquiry: Inquiry) -> Opinion:
        images, _ = inquiry.images(self.images)
        if random_output(inquiry.classifier, images).flags:
            return Opinion("the model answers at random, so this cannot be told", applies=False)
        return batch_dependence(inquiry.classifier, images)
