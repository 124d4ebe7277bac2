"""Can these numbers be trusted?"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Literal

from auditor.auditing.result import AuditResult
from auditor.kit.flag import Status
from auditor.report.section import ReportSection
from auditor.show.blocks import Column, Section, Table, Text

_ORDER: tuple[Status, ...] = ("severe", "doubt", "passed", "not applicable")


class Validity(ReportSection):
    """One row per check of the evaluation: what it looked for, its outcome, and what it saw."""

    kind: Literal["validity"] = "validity"
    order: ClassVar[int] = 15

    def build(self, result: AuditResult) -> Section | None:
        if not result.checks:
            return None
        counts = Counter(check.status for check in result.checks)
        summary = ", ".join(f"{counts[status]} {status}" for status in _ORDER if counts[status])
        outcome = Text(text=f"{len(result.checks)} checks looked for faults of this evaluation: {summary}.")
        if result.headline_withheld:
            outcome = Text(
                text=f"{outcome.text} Robust accuracy is not established while a severe doubt stands.", tone="bad"
            )
        checks = sorted(result.checks, key=lambda check: _ORDER.index(check.status))
        rows = tuple(
            {"check": check.title, "outcome": check.status, "asks": check.asks, "evidence": check.evidence}
            for check in checks
        )
        return Section(
            key=self.kind,
            title="Can these numbers be trusted?",
            blocks=(
                outcome,
                Table(
                    columns=(
                        Column(key="check", title="Check"),
                        Column(key="outcome", title="Outcome"),
                        Column(key="asks", title="What should hold"),
                        Column(key="evidence", title="What was seen"),
                    ),
                    rows=rows,
                    caption="Doubt: read this before you quote a number. Severe: the number is probably wrong, and is withheld. "
                    f"Checks that attack again do so on up to {result.spec.check_samples} of the audited samples, so a weakness "
                    "that shows on few samples may escape them; passing all checks does not prove the numbers.",
                ),
            ),
        )
