"""The job that fits a defense."""

from __future__ import annotations

import json
from typing import ClassVar, Literal

from pydantic import Field

from auditor.defending.fit import FitSpec, fit
from worker.defending import stored
from worker.job import Context, Job, Output
from worker.queues import CPU, GPU


class FitDefenseJob(Job):
    """Fit a defense to a model with training images, and keep it."""

    title: ClassVar[str] = "Fit a defense"
    noun: ClassVar[str] = "fit of a defense"
    kind: Literal["fit-defense"] = "fit-defense"
    dataset_id: str = Field(min_length=1, description="The data set to learn from.")
    name: str = Field(min_length=1, max_length=200, description="Name of the defense.")
    fit: FitSpec = Field(description="What to fit, and how.")

    @property
    def queue(self) -> str:
        return GPU if self.fit.device == "cuda" else CPU

    def run(self, context: Context) -> Output:
        fitted = fit(
            self.fit,
            context.classifier(self.model_id),
            context.dataset(self.dataset_id),
            on_progress=context.on_progress,
        )
        made = stored(self.fit, fitted, self.name, self.model_id, self.dataset_id, context.blobs)
        content = json.dumps({"spec": made.spec, "sha256": made.content, **made.manifest})
        summary = {"defense": self.fit.title, "samples": fitted.lineage.count, "sha256": made.content}
        summary["flags"] = [flag.severity for flag in fitted.flags]
        return Output(content.encode(), summary, defense=made)
