"""Accuracy under common corruptions."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from auditor.auditing.corruption import SEVERITIES, is_small
from auditor.auditing.result import AuditResult
from auditor.report.section import ReportSection
from auditor.show.blocks import Column, Figure, Row, Section, Table, Text


class Corruptions(ReportSection):
    """Accuracy on every sample under each corruption and severity."""

    kind: Literal["corruptions"] = "corruptions"
    order: ClassVar[int] = 40

    def build(self, result: AuditResult) -> Section | None:
        if not result.corruptions:
            return None
        height, width = result.provenance.dataset.shape[1:]
        made_for = "CIFAR-10-C, made for 32 x 32" if is_small(height, width) else "ImageNet-C, made for 224 x 224"
        text = (
            f"Noise, blur, weather and digital loss as in Hendrycks and Dietterich (2019), with the constants of {made_for} "
            f"pixels (these images: {height} x {width}). The corrupted images are made here, so the numbers are close to those "
            "on the published sets, not equal to them."
        )
        rows = accuracy_rows(result)
        chart = Figure(
            chart="grid",
            title="Accuracy under corruptions",
            rows=tuple(rows),
            options={
                "x": "severity (0: uncorrupted)",
                "value": "accuracy",
                "domain": [0, 1],
                "format": ".0%",
                "height": 26 * len({row["row"] for row in rows}),
            },
            reading="Each cell is the share of all samples classified correctly under that corruption; severity 0 is the "
            "unperturbed accuracy. Darker is better.",
        )
        return Section(key=self.kind, title="Common corruptions", blocks=(Text(text=text), chart, _table(result)))


def accuracy_rows(result: AuditResult) -> list[Row]:
    """The cells of the chart ``grid``, the clean accuracy in front of each row."""
    rates = [
        (record.corruption.display_title(), record.corruption.severity, result.rate(result.corrupted_right(record)))
        for record in result.corruptions
    ]
    titles = dict.fromkeys(title for title, _, _ in rates)
    cells = [(title, 0, result.clean_accuracy) for title in titles] + rates
    return [
        {"row": title, "column": severity, **rate.model_dump(exclude={"hits"})}
        for title, severity, rate in sorted(cells, key=lambda cell: cell[1])
    ]


def accuracy_table(result: AuditResult) -> list[Row]:
    """One row per corruption: the accuracy with its interval by severity ("1" to "5"), and the mean over those measured."""
    rows: dict[str, Row] = {}
    values: dict[str, list[float]] = {}
    for record in result.corruptions:
        title, right = record.corruption.display_title(), result.corrupted_right(record)
        rows.setdefault(title, {"corruption": title})[str(record.corruption.severity)] = str(result.rate(right))
        values.setdefault(title, []).append(float(right.mean()))
    return [row | {"mean": float(np.mean(values[title]))} for title, row in rows.items()]


def _table(result: AuditResult) -> Table:
    rows = accuracy_table(result)
    rows.append({"corruption": "mean", "mean": float(np.mean([row["mean"] for row in rows]))})
    return Table(
        columns=(
            Column(key="corruption", title="Corruption"),
            *(Column(key=str(severity), title=f"Severity {severity} [95 %]") for severity in SEVERITIES),
            Column(key="mean", title="Mean", format=".1%"),
        ),
        rows=tuple(rows),
        caption=(f"Mean over {result.spec.draws} draws of all" if result.random else "Share of all")
        + f" {len(result.samples)} samples, with the Wilson interval; unperturbed {result.clean_accuracy}. "
        "Mean: over the severities measured; in the last row over the corruptions.",
    )
