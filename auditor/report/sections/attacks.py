"""The table of attacks: what each did, with every parameter, and the worst case over all."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from auditor.attacking.criterion import Untargeted
from auditor.attacking.records import AttackRecord
from auditor.attacking.threat import ThreatModel
from auditor.auditing.result import AuditResult
from auditor.kit.statistics.estimate import Rate
from auditor.report.section import ReportSection
from auditor.show.blocks import AnyBlock, Column, Row, Section, Table, Text

MINIMAL_NORM = (
    "Median minimal norm: distance of the closest adversarial image found, within epsilon or not, over all attacked "
    "samples; an upper bound on the true one."
)

SIGN = "†"
DOUBTED = f"{SIGN} A check doubts this attack: read the doubts about it before you quote its row."

_FIXED = (
    "Each attack ran on every sample that the model classifies correctly. Success counts an image as soon as the model {seen} "
    "within the budget, at any step and restart; the harness, not the attack, projects and judges."
)
_RANDOM = (
    "The model has random outputs: each attack ran on every sample that any of {draws} draws classifies correctly, "
    "saw the mean of {draws} draws in every answer, and made all its steps. Of the images that its runs left, {draws} "
    "draws chose one, and {draws} fresh draws judged it. Success: the attack works on most of these draws. Accuracy "
    "left: the mean over them."
)


class AttackTable(ReportSection):
    """One row per attack and threat model: success, accuracy left, distance, cost."""

    kind: Literal["attacks"] = "attacks"
    order: ClassVar[int] = 20

    def build(self, result: AuditResult) -> Section:
        blocks: list[AnyBlock] = [
            Text(
                text=f"Goal of the attacker: {result.goal}. "
                + (_RANDOM.format(draws=result.spec.draws) if result.random else _FIXED.format(seen=_seen(result)))
            )
        ]
        blocks += [_table(result, threat) for threat in result.spec.threats]
        return Section(key=self.kind, title="Attacks", blocks=tuple(blocks))


def _seen(result: AuditResult) -> str:
    return "sees it misclassified" if isinstance(result.spec.goal, Untargeted) else "takes it for the target class"


def _table(result: AuditResult, threat: ThreatModel) -> Table:
    records = [record for record in result.records if record.role == "headline" and record.threat == threat]
    rows = [_row(result, record) for record in records]
    doubted = any(_doubted(result, record) for record in records)
    smallest = any(record.attack.budget == "minimal" for record in records)
    worst = result.robust_accuracy(threat)
    attackable = int((result.samples.correct | (result.clean_right > 0)).sum())
    fooled = int(((result.samples.correct | result.random) & result.fooled(threat)).sum())
    if result.random:
        rows.append(
            {
                "attack": "worst case per sample, majority vote",
                "attacked": attackable,
                "accuracy": "not established" if result.headline_withheld else str(Rate.of(result.robust(threat))),
            }
        )
    rows.append(
        {"attack": "worst case per sample", "attacked": attackable, "success": str(Rate.count(fooled, attackable))}
        | {"accuracy": "not established" if result.headline_withheld else str(worst)}
    )
    return Table(
        title=str(threat),
        columns=(
            Column(key="attack", title="Attack"),
            Column(key="parameters", title="Parameters"),
            Column(key="attacked", title="Attacked"),
            Column(key="success", title="Success [95 %]"),
            Column(key="accuracy", title=f"Accuracy left, mean over {result.spec.draws} draws [95 %]")
            if result.random
            else Column(key="accuracy", title="Accuracy left [95 %]"),
            Column(key="distance", title="Median distance", format=".4g"),
            *([Column(key="minimal", title="Median minimal norm", format=".4g")] if smallest else []),
            Column(key="forwards", title="Forwards / image", format=".1f"),
            Column(key="backwards", title="Backwards / image", format=".1f"),
            Column(key="blind", title="No gradient"),
            Column(key="seconds", title="Seconds", format=".1f"),
        ),
        rows=tuple(rows),
        caption="Success: share of the attacked samples. Accuracy left: share of all samples. Median distance: norm of the "
        "perturbation over the successes. No gradient: attacked samples whose gradient was zero or not finite at some step. "
        "The worst case also counts images found under a smaller epsilon."
        + (" " + MINIMAL_NORM if smallest else "")
        + (" " + DOUBTED if doubted else ""),
    )


def _row(result: AuditResult, record: AttackRecord) -> Row:
    fooled = np.array(record.fooled, bool)
    distances = np.array(record.distance)[fooled]
    settings = ", ".join(f"{name} {_shown(value)}" for name, value in record.attack.settings().items())
    return {
        "attack": record.attack.display_title() + (f" {SIGN}" if _doubted(result, record) else ""),
        "parameters": settings or "none",
        "attacked": len(record.positions),
        "success": str(record.success),
        "accuracy": str(result.attack_accuracy(record)),
        "distance": float(np.median(distances)) if len(distances) else None,
        "minimal": _median_minimal_norm(record) if record.attack.budget == "minimal" else None,
        "forwards": float(np.mean(record.forwards)) if record.forwards else None,
        "backwards": float(np.mean(record.backwards)) if record.backwards else None,
        "blind": sum(record.blind),
        "seconds": record.seconds,
    }


def _doubted(result: AuditResult, record: AttackRecord) -> bool:
    """Whether a check doubts this attack within this threat model."""
    return any(
        (flag.about, flag.within) == (record.attack.describe(), str(record.threat))
        for flag in result.flags
        if flag.severity != "info"
    )


def _median_minimal_norm(record: AttackRecord) -> float | str:
    closest = [np.inf if value is None else value for value in record.closest]
    median = float(np.median(closest)) if closest else np.inf
    return median if np.isfinite(median) else "not reached"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
