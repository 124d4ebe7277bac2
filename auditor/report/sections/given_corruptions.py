"""Accuracy by the corruption and severity that the images of the data set already carry, as in CIFAR-10-C and ImageNet-C."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from auditor.auditing.result import AuditResult
from auditor.report.section import ReportSection
from auditor.show.blocks import Column, Row, Section, Table, Text


class GivenCorruptions(ReportSection):
    """The accuracy without an attack by corruption and severity, with intervals, and the mean corruption accuracy."""

    kind: Literal["given_corruptions"] = "given_corruptions"
    order: ClassVar[int] = 41

    def build(self, result: AuditResult) -> Section | None:
        if not result.samples.groups:
            return None
        text = (
            "The images of this data set carry a corruption each. These are accuracies without an attack, on the samples of the "
            "audit. Where fewer than all images were audited, a cell has few of them, and its interval says how much it tells."
        )
        rows = given_rows(result)
        severities = sorted({group.severity for group in result.samples.groups})
        columns = (
            Column(key="corruption", title="Corruption"),
            *(
                Column(key=str(severity), title=f"Severity {severity} [95 %]" if severity else "Accuracy [95 %]")
                for severity in severities
            ),
            Column(key="mean", title="Mean", format=".1%"),
        )
        mean = {"corruption": "mean", "mean": float(np.mean([row["mean"] for row in rows]))}
        caption = (
            f"{len(result.samples)} samples, with the Wilson interval and the number of images. Mean: over the severities; in "
            "the last row over the corruptions, which is the mean corruption accuracy."
        )
        table = Table(columns=columns, rows=(*rows, mean), caption=caption)
        return Section(key=self.kind, title="Corruptions of the data set", blocks=(Text(text=text), table))


def given_rows(result: AuditResult) -> list[Row]:
    """One row per corruption: the accuracy with its interval by severity ("1" to "5"), and the mean over those with images."""
    group_of, right = np.array(result.samples.group_of, np.int64), result.clean_right
    rows: dict[str, Row] = {}
    values: dict[str, list[float]] = {}
    for number, group in enumerate(result.samples.groups):
        some = right[group_of == number]
        if not len(some):
            continue
        cells = rows.setdefault(group.corruption, {"corruption": group.corruption})
        cells[str(group.severity)] = f"{result.rate(some)} (n = {len(some)})"
        values.setdefault(group.corruption, []).append(float(some.mean()))
    return [row | {"mean": float(np.mean(values[name]))} for name, row in rows.items()]
