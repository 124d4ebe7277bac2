"""A doubt about one attack withholds what rests on that attack, and no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.harness.outcome import Outcome
from auditor.attacking.records import AttackRecord
from auditor.attacking.threat import ThreatModel
from auditor.auditing import audit
from auditor.auditing.allowance import Allowance
from auditor.auditing.check import CHECKS
from auditor.auditing.inquiry import Inquiry
from auditor.auditing.result import AuditResult
from auditor.auditing.spec import AuditSpec
from auditor.auditing.strength import about, can_carry, settled, weakness
from auditor.kit.flag import Flag
from auditor.models.classifier import Classifier
from auditor.report.sections.attacks import AttackTable
from auditor.show.blocks import Table
from tests.auditor.auditing.checks.models import EPSILON, made, plain
from tests.narrow import sequence
from tests.nets import SHAPE, labelled, small_classifier

THREAT = ThreatModel(epsilon=EPSILON)
PGD, DLR, FGSM, SQUARE, NOISE = (
    ATTACKS.parse(text)
    for text in ("pgd:random_start=false", "apgd-dlr:steps=20", "fgsm", "square:queries=20", "random-noise")
)


def hot() -> Classifier:
    """Logits times 100,000: the cross-entropy has no gradient, the ratio of logits has the plain network's."""
    classifier = made(plain())
    with torch.no_grad():
        sequence(classifier)[5].weight *= 1e5
        sequence(classifier)[5].bias *= 1e5
    return classifier


def audited(classifier: Classifier, *attacks: Any, **spec: Any) -> AuditResult:
    values = {
        "threats": [THREAT], "attacks": list(attacks), "analyses": [], "curve": [], "curve_to_zero": False, "samples": None,
    }  # fmt: skip
    return audit.run(AuditSpec.load(values | spec), classifier, labelled(classifier, n=80, wrong=0))


@pytest.fixture(scope="module")
def beside() -> AuditResult:
    return audited(hot(), PGD, DLR)


def test_a_blind_attack_beside_one_that_sees_leaves_the_headline(beside: AuditResult) -> None:
    blind, seeing = beside.headline_records(THREAT)
    assert sum(blind.fooled) < sum(seeing.fooled), "the case: the cross-entropy is blind here"
    assert beside.headline_withheld == ""
    assert beside.headlines[0].robust_accuracy == beside.attack_accuracy(seeing)
    about_pgd = [flag for flag in beside.flags if flag.about == PGD.describe()]
    assert {flag.name for flag in about_pgd} >= {"blind attack"}
    assert {flag.severity for flag in about_pgd} == {"warning"}
    assert all("the headline rests on APGD-DLR" in flag.message for flag in about_pgd)
    assert {verdict.status for verdict in beside.checks} <= {"passed", "doubt", "not applicable"}


def test_the_table_marks_the_attack_that_is_doubted_and_no_other(beside: AuditResult) -> None:
    section = AttackTable().build(beside)
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    titles = [PGD.display_title(), DLR.display_title()]
    assert [row["attack"] for row in table.rows] == [f"{titles[0]} †", titles[1], "worst case per sample"]
    assert "† A check doubts this attack" in table.caption
    sound = beside.model_copy(update={"flags": tuple(flag for flag in beside.flags if flag.about != PGD.describe())})
    (table,) = (block for block in AttackTable().build(sound).blocks if isinstance(block, Table))
    assert [row["attack"] for row in table.rows] == [*titles, "worst case per sample"]
    assert "†" not in table.caption


def test_it_equals_the_number_of_the_unscaled_network(beside: AuditResult) -> None:
    """The margin's order is that of the plain network, so that the ratio loss takes the same steps."""
    unscaled = audited(made(plain()), DLR, checks=[])
    assert beside.headlines[0].robust_accuracy == unscaled.headlines[0].robust_accuracy


@pytest.mark.parametrize(
    "attacks", [(PGD,), (PGD, FGSM), (PGD, NOISE)], ids=["alone", "with one step", "with a control"]
)
def test_a_headline_that_rests_on_blind_attacks_stays_withheld(attacks: tuple[Any, ...]) -> None:
    found = audited(hot(), *attacks)
    assert found.headline_withheld
    assert {flag.name for flag in found.flags if flag.severity == "severe"} >= {"blind attack", "blind attacks"}


def test_an_ensemble_is_blind_where_every_stage_was() -> None:
    found = audited(hot(), ATTACKS.parse("auto-attack"), checks=[CHECKS.build("blind_gradients", {})], samples=12)
    (record,) = found.headline_records(THREAT)
    assert not any(np.array(record.blind) & ~np.array(record.fooled))
    assert not found.headline_withheld


def inquiry(*fooled: tuple[Any, list[int]], n: int = 100) -> Inquiry:
    """Made-up records: each attack, and the samples that it fooled."""
    records = []
    for attack, hit in fooled:
        mask = np.isin(np.arange(n), hit)
        zero, many = np.zeros(n), np.zeros(n, np.int64)
        outcome = Outcome(mask, many, zero, zero, np.where(mask, 0.0, np.inf), many, many, np.zeros(n, bool), 0.0)
        records.append(AttackRecord.of(attack, THREAT, "headline", np.arange(n), outcome))
    classifier = small_classifier()
    data = labelled(classifier, n=n, wrong=0)
    labels = torch.from_numpy(data.labels)
    return Inquiry(
        classifier, data, np.arange(n), labels, np.ones(n, bool), Misclassification(labels), False, (THREAT,), records,
        0, 50, Allowance({THREAT: ()}, SHAPE, n, most=50, budget=1000),
    )  # fmt: skip


def doubt(attack: Any, name: str = "a doubt", severity: Any = "severe") -> Flag:
    text = {"about": attack.describe(), "within": str(THREAT)} if attack is not None else {}
    return Flag(name=name, severity=severity, message="It may be weak.", **text)


FEW, MANY = list(range(10)), list(range(40))


@pytest.mark.parametrize(
    ("records", "doubted", "severity"),
    [
        ([(PGD, FEW), (DLR, MANY)], [PGD], "warning"),
        ([(PGD, MANY), (DLR, MANY)], [PGD], "warning"),
        ([(PGD, MANY), (DLR, FEW)], [PGD], "severe"),  # what is not in doubt found less
        ([(PGD, [*MANY, 99]), (DLR, MANY)], [PGD], "warning"),  # one of 100 may be chance
        ([(PGD, FEW), (DLR, MANY)], [PGD, DLR], "severe"),
        ([(PGD, FEW), (FGSM, MANY)], [PGD], "severe"),  # one step carries nothing
        ([(PGD, FEW), (NOISE, MANY)], [PGD], "severe"),
        ([(PGD, FEW), (SQUARE, MANY)], [PGD], "severe"),  # nor does one without gradients, where gradients hide
        ([(SQUARE, FEW), (DLR, MANY)], [SQUARE], "warning"),
        ([(PGD, FEW)], [PGD], "severe"),
    ],
)
def test_what_carries_a_headline(records: list[tuple[Any, list[int]]], doubted: list[Any], severity: str) -> None:
    flags = [doubt(attack) for attack in doubted]
    assert {flag.severity for flag in settled(inquiry(*records), flags, flags)} == {severity}


def test_doubts_of_other_checks_count_too() -> None:
    """Each of two attacks is doubted by a check of its own: neither carries the other's headline."""
    asked, every = [doubt(PGD)], [doubt(PGD), doubt(DLR, "another")]
    seen = inquiry((PGD, FEW), (DLR, MANY))
    assert settled(seen, asked, every)[0].severity == "severe"
    assert settled(seen, asked, [*asked, doubt(DLR, severity="warning")])[0].severity == "warning"


def test_doubts_about_the_model_stay() -> None:
    flags = [doubt(None), doubt(PGD)]
    assert [flag.severity for flag in settled(inquiry((PGD, FEW), (DLR, MANY)), flags, flags)] == ["severe", "warning"]


def test_within_another_threat_model_an_attack_is_not_in_doubt() -> None:
    elsewhere = doubt(DLR).model_copy(update={"within": "L2 ε = 1"})
    flags = [doubt(PGD), elsewhere]
    assert settled(inquiry((PGD, FEW), (DLR, MANY)), flags, flags)[0].severity == "warning"


def test_an_attack_that_fails_where_all_is_allowed_is_replaced_by_one_that_does_not() -> None:
    """PGD ties with the ratio attack but fails in the whole box; the check goes on to the other, which does not fail."""
    found = audited(hot(), PGD, DLR, checks=[CHECKS.build("unconstrained_attack_failure", {})])
    assert not found.headline_withheld
    alone = audited(hot(), PGD, checks=[CHECKS.build("unconstrained_attack_failure", {})])
    assert "does not succeed even when every image is allowed" in alone.headline_withheld


def test_samples_that_others_fooled_withhold_nothing() -> None:
    """20 of 100 samples were missed by an attack; the headline is too high by those alone that nothing else fooled."""
    missed = np.arange(100) < 20
    (alone,) = weakness("missed", missed, "m", "r")
    (beside,) = weakness("missed", missed, "m", "r", unknown=np.arange(100) >= 18)
    assert (alone.severity, beside.severity) == ("severe", "warning")
    assert "20 of 100" in beside.evidence
    assert weakness("missed", np.arange(100) < 1, "m", "r") == ()


def test_a_carrier_is_named_in_the_flag_and_survives_the_file(beside: AuditResult) -> None:
    again = AuditResult.model_validate_json(beside.model_dump_json())
    assert [flag.about for flag in again.flags] == [flag.about for flag in beside.flags]
    record = beside.headline_records(THREAT)[0]
    assert about(record) == {"about": "pgd:" + PGD.describe().partition(":")[2], "within": str(THREAT)}
    assert not can_carry(inquiry((FGSM, FEW)), inquiry((FGSM, FEW)).headline(THREAT)[0], [])
