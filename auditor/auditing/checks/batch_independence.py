"""The same image alone, and among others."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.auditing.allowance import Allowance
from auditor.auditing.check import Check
from auditor.auditing.inquiry import Inquiry
from auditor.kit.flag import Opinion
from auditor.models.preflight import ALONE, REPEATS, batch_dependence, random_output


class BatchIndependence(Check):
    """An image gets the same logits alone and in any batch."""

    preflight: ClassVar[bool] = True
    title: ClassVar[str] = "Independence of the batch"
    kind: Literal["batch_independence"] = "batch_independence"
    images: int = Field(32, ge=2, le=1024, description="Number of images to check.")

    def cost(self, allowance: Allowance) -> float:
        count = allowance.images(self.images)
        return REPEATS * count + (0 if allowance.random else 2 * count + min(ALONE, count))

    def run(self, inquiry: Inquiry) -> Opinion:
        images, _ = inquiry.images(self.images)
        if random_output(inquiry.classifier, images).flags:
            return Opinion("the model has random outputs, so this cannot be checked", applies=False)
        return batch_dependence(inquiry.classifier, images)
