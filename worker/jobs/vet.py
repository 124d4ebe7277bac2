"""The vet job."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.vet import VET_SAMPLES, vet
from worker.job import Context, Job, Output
from worker.queues import SHORT


class VetJob(Job):
    """Look a model over before anything is built on it: does it run as declared, and is the normalisation right?"""

    title: ClassVar[str] = "Vet"
    noun: ClassVar[str] = "vetting"
    kind: Literal["vet"] = "vet"
    samples: int = Field(VET_SAMPLES, ge=1, le=100_000, description="Samples on which accuracy is compared.")

    @property
    def queue(self) -> str:
        return SHORT

    def run(self, context: Context) -> Output:
        dataset = context.dataset(self.dataset_id) if self.dataset_id is not None else None
        card = vet(context.classifier(self.model_id), dataset, samples=self.samples, on_progress=context.on_progress)
        summary = {"flags": [flag.severity for flag in card.flags], "samples": card.samples}
        if card.accuracy is not None:
            summary["accuracy"] = card.accuracy.model_dump()
        return Output(card.model_dump_json().encode(), summary)
