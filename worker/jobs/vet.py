"""The vet job."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from auditor.auditing.vet import VET_SAMPLES, ClassifierCard, vet
from auditor.kit.document import nothing
from auditor.models.own_code import OwnCode
from worker.job import Context, Job, Output
from worker.models import ModelRow
from worker.queues import SHORT


class VetJob(Job):
    """Look a model over before anything is built on it: does it run as declared, and is the normalization right?"""

    title: ClassVar[str] = "Vet"
    noun: ClassVar[str] = "vetting"
    kind: Literal["vet"] = "vet"
    runs_code: ClassVar[bool] = True
    match: dict[str, int | str | None] = Field(
        {}, exclude_if=nothing, description="The model's class of classes of the data, by hand, as in an audit."
    )
    samples: int = Field(VET_SAMPLES, ge=1, le=100_000, description="Samples on which accuracy is compared.")

    @property
    def queue(self) -> str:
        return SHORT

    def run(self, context: Context) -> Output:
        dataset = context.dataset(self.dataset_id) if self.dataset_id is not None else None
        card = vet(
            context.classifier(self.model_id),
            dataset,
            samples=self.samples,
            on_progress=context.on_progress,
            match=self.match,
            other=context.registry.model(self.model_id).manifest.get("other") or {},
        )
        return _output(card)

    def adopted(self, content: bytes, model: ModelRow, code: OwnCode) -> Output:
        card = ClassifierCard.load(content)
        return _output(card.model_copy(update={"flags": (code.flag(), *card.flags)}))


def _output(card: ClassifierCard) -> Output:
    summary = {"flags": [flag.severity for flag in card.flags], "samples": card.samples}
    if card.accuracy is not None:
        summary["accuracy"] = card.accuracy.model_dump()
    return Output(card.model_dump_json().encode(), summary)
