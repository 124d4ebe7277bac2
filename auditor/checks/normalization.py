"""The declared normalisation and the order of the classes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.check import Check
from auditor.flag import Opinion
from auditor.inquiry import Inquiry
from auditor.vet import VET_SAMPLES, check_normalization


class NormalizationCheck(Check):
    """No other normalisation, and no other order of the classes, explains the model better."""

    preflight: ClassVar[bool] = True
    title: ClassVar[str] = "Normalisation and classes"
    kind: Literal["normalization"] = "normalization"
    images: int = Field(VET_SAMPLES, ge=1, le=1_000_000, description="Images to classify under each normalisation.")

    def run(self, inquiry: Inquiry) -> Opinion:
        ids = inquiry.ids if inquiry.answered is None else inquiry.ids[inquiry.answered]
        ids = ids[:: max(1, len(ids) // self.images)][: self.images]
        accuracy, candidates, flags = check_normalization(
            inquiry.classifier, inquiry.dataset, ids, batch_size=inquiry.batch_size, on_progress=inquiry.on_progress
        )
        best = max(candidates, key=lambda item: item.lead)
        evidence = (
            f"accuracy {accuracy} as declared; the best of {len(candidates)} others ({best.name}) differs by "
            f"{100 * best.lead:+.1f} points on the same {len(ids)} images"
        )
        return Opinion(evidence, tuple(flags))
