"""The headline: robust accuracy under each threat model, and the doubts about it."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.attacking.criterion import Untargeted
from auditor.attacking.threat import ThreatModel
from auditor.auditing.result import AuditResult
from auditor.kit.statistics.estimate import Rate
from auditor.report.section import ReportSection
from auditor.show.blocks import AnyBlock, Measure, Measures, Section, Text

_TONES: dict[str, Literal["note", "warning", "bad"]] = {"info": "note", "warning": "warning", "severe": "bad"}


class VerdictSection(ReportSection):
    """What the audit found, in one line per threat model, with its interval, its scope and its doubts."""

    kind: Literal["verdict"] = "verdict"
    order: ClassVar[int] = 10

    def build(self, result: AuditResult) -> Section:
        blocks: list[AnyBlock] = [Measures(items=(_clean(result), *_robust(result)))]
        blocks += [Text(text=sentence) for sentence in sentences(result)]
        for flag in result.flags:
            blocks.append(Text(text=flag.text, tone=_TONES[flag.severity]))
        if not result.checks:
            blocks.append(Text(text="No check ran in this audit, so nothing confirms its numbers.", tone="warning"))
        elif not result.flags:
            blocks.append(Text(text="The checks of this audit raised no doubt about these numbers.", tone="good"))
        return Section(key=self.kind, title="Verdict", blocks=tuple(blocks))


def sentences(result: AuditResult) -> list[str]:
    """The verdict in one or two sentences per threat model, for people who must answer for it."""
    n = len(result.samples)
    if result.headline_withheld:
        return [f"Robust accuracy is not established: {result.headline_withheld}"]
    said = []
    for threat in result.spec.threats:
        attacks = ", ".join(dict.fromkeys(attack.display_title() for attack in result.spec.attacks_for(threat)))
        robust = result.robust_accuracy(threat)
        if result.random:
            said.append(_said_of_draws(result, threat, robust, attacks))
            continue
        kept = (
            "keeps the right class on"
            if isinstance(result.spec.goal, Untargeted)
            else "classifies right, and the attacks do not drive to the target class (another wrong class does not count),"
        )
        said.append(
            f"Within {threat}, goal {result.goal}, the model {kept} at most {robust} of {n} samples. The attacks tried "
            f"were {attacks}; a stronger attack can only lower this number."
        )
    return said


def _said_of_draws(result: AuditResult, threat: ThreatModel, robust: Rate, attacks: str) -> str:
    draws, majority = result.spec.draws, Rate.of(result.robust(threat))
    return (
        f"The model has random outputs. Within {threat}, goal {result.goal}, at most {robust} of its answers keep the "
        f"right class, on average over {len(result.samples)} samples and {draws} fresh draws of each; the answer that "
        f"most draws give stays right on {majority} of the samples. The attacks tried were {attacks}, each through the "
        f"mean of {draws} draws; a stronger attack can only lower these numbers."
    )


def _clean(result: AuditResult) -> Measure:
    if result.random:
        return result.clean_accuracy.measure(
            f"Clean accuracy, mean over {result.spec.draws} draws", higher_is_better=True,
            explanation="Share of the answers on the unperturbed samples that are right. By majority vote: "
            f"{Rate.of(result.samples.correct)}.",
        )  # fmt: skip
    return result.clean_accuracy.measure(
        "Clean accuracy", higher_is_better=True, explanation="Share of the unperturbed samples classified correctly."
    )


def _robust(result: AuditResult) -> list[Measure]:
    explanation = "Share of all samples that are classified correctly and that no attack of this audit fooled."
    if result.headline_withheld:
        return [
            Measure(
                title=f"Robust accuracy, {threat}: not established", value=None, explanation=result.headline_withheld
            )
            for threat in result.spec.threats
        ]
    untargeted = isinstance(result.spec.goal, Untargeted)
    against = "" if untargeted else f", {result.goal}"
    if result.random:
        return [
            result.robust_accuracy(threat).measure(
                f"Robust accuracy, mean over {result.spec.draws} draws, {threat}{against}", higher_is_better=True,
                explanation="Share of right answers, over fresh draws at the worst image of each sample that the attacks of this "
                f"audit found. By majority vote: {Rate.of(result.robust(threat))}.",
            )
            for threat in result.spec.threats
        ]  # fmt: skip
    if not untargeted:
        explanation = "Share of all samples that are classified correctly and that no attack drove to its target class."
    return [
        result.robust_accuracy(threat).measure(
            f"Robust accuracy, {threat}{against}", higher_is_better=True, explanation=explanation
        )
        for threat in result.spec.threats
    ]
