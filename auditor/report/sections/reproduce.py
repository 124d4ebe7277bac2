"""How to get the same numbers again."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.report.blocks import Column, Section, Table, Text
from auditor.report.section import ReportSection
from auditor.result import AuditResult


class Reproduce(ReportSection):
    """The whole specification, the versions, the machine, and the command."""

    kind: Literal["reproduce"] = "reproduce"
    order: ClassVar[int] = 90

    def build(self, result: AuditResult) -> Section:
        source = result.provenance
        rows = {**source.versions, "revision": source.revision or "installed package", "device": source.device}
        rows |= {"threads": str(source.threads), "batch size": str(source.batch_size)}
        rows |= {"started (UTC)": source.started, "seconds": f"{source.seconds:.1f}"}
        return Section(
            key=self.kind,
            title="How to reproduce",
            blocks=(
                Text(
                    text="Save the specification below as spec.json, add the model and the data set whose hashes stand above, "
                    "and run: auditor audit run MODEL DATASET --spec spec.json. The same specification on the same kind of "
                    f"device gives the same verdicts{_batches(result)}."
                ),
                Text(text=result.spec.model_dump_json(indent=2), tone="code"),
                Table(
                    title="Made with",
                    columns=(Column(key="name", title="What"), Column(key="value", title="Value")),
                    rows=tuple({"name": name, "value": value} for name, value in rows.items()),
                ),
            ),
        )


def _batches(result: AuditResult) -> str:
    """A network that answers at random draws its numbers for a batch as a whole."""
    return (
        f" with {result.provenance.batch_size} images to a pass"
        if result.random
        else ", up to rounding in other batches"
    )
