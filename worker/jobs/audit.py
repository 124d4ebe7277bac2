"""The audit job."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from auditor import audit
from auditor.audit_spec import AuditSpec
from auditor.result import AuditResult, Headline
from worker.job import Context, Job, Output
from worker.lineage import Lineage
from worker.queues import CPU, GPU


class AuditJob(Job):
    """Attack a model on a data set and profile its neurons."""

    title: ClassVar[str] = "Audit"
    noun: ClassVar[str] = "audit"
    kind: Literal["audit"] = "audit"
    dataset_id: str = Field(min_length=1, description="The data set.")
    audit: AuditSpec = Field(default_factory=AuditSpec, description="What to run.")

    @property
    def queue(self) -> str:
        return GPU if self.audit.device == "cuda" else CPU

    def run(self, context: Context) -> Output:
        row = context.registry.model(self.model_id)
        result = audit.run(
            self.audit,
            context.classifier(self.model_id),
            context.dataset(self.dataset_id),
            on_progress=context.on_progress,
            model_sha256=row.weights,
            architecture=row.architecture,
            trained_on=Lineage(context.registry.database).trained_on(row.id),
            examples=context.folder,
        )
        return Output(result.model_dump_json().encode(), summarize(result), tuple(sorted(context.folder.iterdir())))


def _majority(headline: Headline) -> dict[str, Any]:
    return {} if headline.majority is None else {"majority": headline.majority.value}


def summarize(result: AuditResult) -> dict[str, Any]:
    """The numbers that a list of audits shows."""
    return {
        "samples": len(result.samples),
        "goal": result.goal,
        "clean": result.clean_accuracy.model_dump(),
        "robust": [
            {"threat": str(headline.threat), **headline.robust_accuracy.model_dump(), **_majority(headline)}
            for headline in result.headlines
            if headline.robust_accuracy is not None
        ],
        "withheld": result.headline_withheld,
        "flags": [flag.severity for flag in result.flags],
        "seconds": result.provenance.seconds,
    }
