"""Robust accuracy against epsilon."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.attacking.criterion import Untargeted
from auditor.attacking.threat import Norm, ThreatModel, show_epsilon
from auditor.auditing.result import AuditResult
from auditor.kit.statistics.estimate import Rate, WithheldRate
from auditor.report.section import ReportSection
from auditor.show.blocks import AnyBlock, ChartOptions, Figure, Row, Section


class AccuracyCurve(ReportSection):
    """One curve per norm, from the clean accuracy at 0 upwards, worst case over all attacks."""

    kind: Literal["curve"] = "curve"
    order: ClassVar[int] = 30

    def build(self, result: AuditResult) -> Section | None:
        leading: dict[Norm, ThreatModel] = {}
        for threat in result.spec.threats:
            leading.setdefault(threat.norm, threat)
        figures: list[AnyBlock] = [
            Figure(
                chart="lines",
                title=f"Accuracy against {threat.norm.symbol} epsilon"
                + ("" if isinstance(result.spec.goal, Untargeted) else f", {result.goal}")
                + (" (robust accuracy not established)" if result.headline_withheld else ""),
                rows=tuple(curve_rows(result, threat, result.provenance.model.name)),
                options=curve_options(threat),
                reading=f"{_point(result)} within that epsilon; the band is the 95 % Wilson interval, the dashed rule the "
                "epsilon of the headline. A sound evaluation falls towards 0 as epsilon grows.",
            )
            for threat in leading.values()
        ]
        return Section(key=self.kind, title="Robust accuracy against epsilon", blocks=tuple(figures))


def _point(result: AuditResult) -> str:
    if result.random:
        return "Each point is the share of right answers, over fresh draws at the worst image of each sample that attacks found"
    return "Each point is the share of all samples classified correctly and fooled by no attack"


def curve_options(threat: ThreatModel) -> ChartOptions:
    """The axis of one curve: in 1/255 where the epsilon is given so."""
    unit = "in 1/255" if _scale(threat) != 1 else "pixels in [0, 1]"
    x = f"epsilon ({threat.norm.symbol}, {unit})"
    return {"x": x, "y": "accuracy", "share": True, "mark": threat.epsilon * _scale(threat)}


def _scale(threat: ThreatModel) -> float:
    return 255.0 if show_epsilon(threat.epsilon).endswith("/255") else 1.0


def curve_rows(result: AuditResult, threat: ThreatModel, series: str) -> list[Row]:
    """The points of one curve as rows of the chart ``lines``."""
    points: list[tuple[float, str, Rate]] = [(0.0, "0 (clean)", result.clean_accuracy)]
    points += [(item.epsilon, show_epsilon(item.epsilon), rate) for item, rate in result.curve(threat)]
    return [
        {
            "x": epsilon * _scale(threat),
            "label": label,
            "series": series,
            **rate.measured().model_dump(exclude={"hits"}),
        }
        | ({"established": "no"} if isinstance(rate, WithheldRate) else {})
        for epsilon, label, rate in points
    ]
