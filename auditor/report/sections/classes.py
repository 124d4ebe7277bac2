"""Each class by itself: which ones fail, and into what."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Literal

import numpy as np

from auditor.attacking.threat import ThreatModel
from auditor.auditing.result import AuditResult
from auditor.report.section import ReportSection
from auditor.show.blocks import AnyBlock, Column, Row, Section, Table


class ClassesSection(ReportSection):
    """One row per class: clean and robust accuracy with intervals, and where its fooled samples go."""

    kind: Literal["classes"] = "classes"
    order: ClassVar[int] = 40

    def build(self, result: AuditResult) -> Section:
        blocks: list[AnyBlock] = [_table(result, threat) for threat in result.spec.threats]
        return Section(key=self.kind, title="Classes", blocks=tuple(blocks))


def _table(result: AuditResult, threat: ThreatModel) -> Table:
    labels, held = np.array(result.samples.labels), result.held(threat)
    model, destinations = result.provenance.model, _destinations(result, threat)
    rows: list[Row] = []
    for label in sorted(set(labels.tolist())):
        mine = labels == label
        most = Counter(
            destinations[position] for position in np.flatnonzero(mine).tolist() if position in destinations
        ).most_common(1)
        rows.append(
            {
                "class": model.class_name(label),
                "samples": int(mine.sum()),
                "clean": str(result.rate(result.clean_right[mine])),
                "robust": "not established" if result.headline_withheld else str(result.rate(held[mine])),
                "into": f"{model.class_name(most[0][0])} ({most[0][1]})" if most else None,
            }
        )
    return Table(
        title=str(threat),
        columns=(
            Column(key="class", title="Class"),
            Column(key="samples", title="Samples"),
            Column(key="clean", title="Clean accuracy [95 %]"),
            Column(key="robust", title="Robust accuracy [95 %]"),
            Column(key="into", title="Fooled most often into"),
        ),
        rows=tuple(rows),
        caption=(
            f"Means over {result.spec.draws} draws, robust at the worst image of each sample."
            if result.random
            else "Robust: correct and fooled by no attack."
        )
        + " The last column counts, over all attacks of this threat model, the "
        "wrong class at the first adversarial image of each sample.",
    )


def _destinations(result: AuditResult, threat: ThreatModel) -> dict[int, int]:
    """Sample -> the wrong class that the first attack to fool it reached."""
    found: dict[int, int] = {}
    for record in result.headline_records(threat):
        for position, fooled, predicted in zip(record.positions, record.fooled, record.prediction, strict=True):
            if fooled:
                found.setdefault(position, predicted)
    return found
