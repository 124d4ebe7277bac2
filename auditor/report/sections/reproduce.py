"""How to get the same numbers again."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.auditing.result import AuditResult
from auditor.report.section import ReportSection
from auditor.show.blocks import Column, Section, Table, Text


class Reproduce(ReportSection):
    """The whole specification, the versions, the machine, and the command."""

    kind: Literal["reproduce"] = "reproduce"
    order: ClassVar[int] = 90

    def build(self, result: AuditResult) -> Section:
        made = result.provenance.lines()
        seconds = made.pop("seconds")
        rows = made | {"started (UTC)": result.provenance.started, "seconds": seconds}
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
    """A network with random outputs draws its numbers for a batch as a whole."""
    return (
        f" with {result.provenance.batch_size} images to a pass"
        if result.random
        else ", up to rounding in other batches"
    )
