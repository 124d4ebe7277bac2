"""The declared normalization and the order of the classes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.auditing.allowance import Allowance
from auditor.auditing.check import Check
from auditor.auditing.declaration import check_declaration
from auditor.auditing.inquiry import Inquiry
from auditor.auditing.normalizations import comparison_cost
from auditor.auditing.vet import VET_SAMPLES
from auditor.kit.flag import Opinion


class NormalizationCheck(Check):
    """No other normalization, and no other order of the classes, explains the model better; it is as accurate as declared."""

    preflight: ClassVar[bool] = True
    title: ClassVar[str] = "Normalization and classes"
    kind: Literal["normalization"] = "normalization"
    images: int = Field(VET_SAMPLES, ge=1, le=1_000_000, description="Images to classify under each normalization.")

    def cost(self, allowance: Allowance) -> float:
        return comparison_cost(allowance.images(self.images), allowance.shape, random=allowance.random)

    def run(self, inquiry: Inquiry) -> Opinion:
        ids = inquiry.ids if inquiry.answered is None else inquiry.ids[inquiry.answered]
        ids = ids[:: max(1, len(ids) // self.images)][: self.images]
        seen = check_declaration(
            inquiry.classifier,
            inquiry.dataset,
            ids,
            batch_size=inquiry.batch_size,
            seed=inquiry.seed,
            on_progress=inquiry.on_progress,
        )
        compared = seen.normalizations
        best = max(compared.candidates, key=lambda item: item.lead)
        evidence = (
            f"accuracy {seen.accuracy} as declared; the best of {len(compared.candidates)} others ({best.name}) differs by "
            f"{100 * best.lead:+.1f} points on the same {len(ids)} images"
        )
        ties = compared.ties.removesuffix(".")
        return Opinion(f"{evidence}. {ties}" if ties else evidence, seen.flags)
