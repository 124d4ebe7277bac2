"""The audit job."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from auditor.auditing import audit
from auditor.auditing.result import AuditResult, Headline
from auditor.auditing.spec import AuditSpec
from auditor.kit.provenance import revision
from auditor.models.own_code import OwnCode, facts_of
from worker.job import Context, Job, Output
from worker.models import ModelRow
from worker.queues import CPU, GPU


class AuditJob(Job):
    """Attack a model on a data set and profile its neurons."""

    title: ClassVar[str] = "Audit"
    noun: ClassVar[str] = "audit"
    kind: Literal["audit"] = "audit"
    runs_code: ClassVar[bool] = True
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
            architecture=facts_of(row.architecture),
            trained_on=context.registry.trained_on(row.id),
            examples=context.folder,
        )
        return Output(result.model_dump_json().encode(), summarize(result), tuple(sorted(context.folder.iterdir())))

    def adopted(self, content: bytes, model: ModelRow, code: OwnCode) -> Output:
        result = AuditResult.load(content)
        known = {"name": model.name, "sha256": model.weights, "architecture": code.facts()}
        facts = result.provenance.model.model_copy(update=known)
        provenance = result.provenance.model_copy(update={"model": facts, "revision": revision()})
        said = {"flags": (code.flag(), *result.flags), "provenance": provenance, "spec": self.audit}
        result = result.model_copy(update=said)
        return Output(result.model_dump_json().encode(), summarize(result))


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
