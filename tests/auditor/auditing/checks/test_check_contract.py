"""What every check keeps to: still on sound audits, of plain and of adversarially trained networks, and the same each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from auditor.attacking.attack import ATTACKS
from auditor.attacking.attacks.fgsm import FGSM
from auditor.attacking.attacks.pgd import PGD
from auditor.auditing import audit
from auditor.auditing.check import CHECKS, combined
from auditor.auditing.result import AuditResult
from auditor.auditing.spec import AuditSpec
from auditor.kit.flag import Flag, Opinion
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.report.section import document
from auditor.show.blocks import Text
from tests.auditor.real import Setting
from tests.narrow import typed
from tests.nets import labelled, small_classifier

THREATS = [{"norm": "linf", "epsilon": 0.04}, {"norm": "l2", "epsilon": 0.4}]
SMALL: dict[str, Any] = {"threats": THREATS, "curve": [], "analyses": [], "curve_to_zero": False}


@pytest.fixture(scope="module")
def sound() -> AuditResult:
    classifier = small_classifier()
    return audit.run(AuditSpec.load(SMALL), classifier, labelled(classifier, n=60, wrong=8))


@pytest.mark.parametrize("kind", list(CHECKS.members))
def test_it_keeps_still_on_a_sound_audit_and_says_what_it_saw(sound: AuditResult, kind: str) -> None:
    verdict = next(item for item in sound.checks if item.kind == kind)
    assert verdict.status in ("passed", "not applicable")
    assert verdict.evidence
    assert verdict.title == CHECKS[kind].display_title()


def test_most_checks_apply_to_a_common_audit(sound: AuditResult) -> None:
    assert {item.kind for item in sound.checks if item.status == "not applicable"} <= {"incomplete_optimization"}
    assert sound.flags == ()
    assert sound.headline_withheld == ""


def test_the_same_audit_gets_the_same_verdicts_whatever_the_batch_size(sound: AuditResult) -> None:
    classifier = small_classifier()
    data = labelled(classifier, n=60, wrong=8)
    again = audit.run(AuditSpec.load(SMALL | {"batch_size": 17}), classifier, data)
    for one, other in zip(sound.checks, again.checks, strict=True):
        assert (one.kind, one.status) == (other.kind, other.status)


@pytest.mark.parametrize(
    "attack", ["apgd-ce:steps=6", "fab:steps=6", "deepfool", "square:queries=30", "pgd:budget=minimal,steps=3"]
)
def test_every_kind_of_attack_can_be_checked(attack: str) -> None:
    """Those that plan their steps ahead, that look for the closest image themselves, that see no gradient."""
    classifier = small_classifier()
    spec = SMALL | {"attacks": [ATTACKS.parse(attack)], "samples": 25}
    result = audit.run(AuditSpec.load(spec), classifier, labelled(classifier, n=60, wrong=8))
    assert len(result.checks) == len(CHECKS)


def test_checks_can_be_left_out() -> None:
    classifier = small_classifier()
    result = audit.run(AuditSpec.load(SMALL | {"checks": []}), classifier, labelled(classifier))
    assert (result.checks, result.flags) == ((), ())
    sections = {section.key: section for section in document(result)}
    assert "validity" not in sections
    assert "nothing confirms its numbers" in typed(sections["verdict"].blocks[-1], Text).text


def test_a_model_that_is_never_right_leaves_nothing_to_check() -> None:
    classifier = small_classifier()
    data = labelled(classifier, n=30, wrong=30)
    result = audit.run(AuditSpec.load(SMALL), classifier, data)
    late = [item for item in result.checks if not CHECKS[item.kind].preflight]
    assert late
    assert {item.status for item in late} == {"not applicable"}


@pytest.mark.parametrize(
    ("severities", "applies", "status"),
    [
        ((), True, "passed"), (("info",), True, "passed"), (("info", "warning"), True, "doubt"),
        (("warning", "severe"), True, "severe"), ((), False, "not applicable"),
    ],
)  # fmt: skip
def test_a_verdict_is_as_bad_as_its_worst_doubt(severities: tuple[Any, ...], applies: bool, status: str) -> None:
    check = CHECKS.build("determinism", {})
    flags = tuple(Flag(name="x", severity=severity, message="x") for severity in severities)
    assert check.verdict(Opinion("seen", flags, applies), 0.0).status == status


def test_opinions_on_several_threats_become_one() -> None:
    doubt = Flag(name="x", severity="warning", message="x")
    parts = [("A", Opinion("one", (doubt,))), ("B", Opinion("two", applies=False)), ("C", Opinion("three"))]
    assert combined(parts) == Opinion("A: one; C: three", (doubt,), True)
    assert combined(parts[:1]).evidence == "one"
    assert combined(parts[1:2]) == Opinion("two", (), False)


@pytest.mark.parametrize("attacks", [[PGD()], [FGSM()], [FGSM(), PGD()]], ids=["PGD", "FGSM", "both"])
@pytest.mark.parametrize("epsilon", [0.01, 0.1])
def test_the_sample_raises_no_severe_doubt(
    sample: tuple[Classifier, ImageDataset], attacks: list[Any], epsilon: float
) -> None:
    spec = SMALL | {"threats": [{"epsilon": epsilon}], "attacks": attacks, "samples": 100}
    if len(attacks) == 1 or epsilon == 0.01:  # the normalization takes half of the time and is the same for all of them
        spec["checks"] = [{"kind": kind} for kind in CHECKS.members if kind != "normalization"]
    result = audit.run(AuditSpec.load(spec), *sample)
    assert result.headline_withheld == "", result.flags
    if PGD() in attacks:
        assert result.flags == ()


@pytest.mark.parametrize(
    "threat", [{"epsilon": "8/255"}, {"epsilon": "1/255"}, {"norm": "l2", "epsilon": 0.5}], ids=str
)
def test_networks_trained_by_others_raise_no_severe_doubt(setting: Setting, threat: dict[str, Any]) -> None:
    data = ImageDataset(setting.data._images[:100], setting.data.labels[:100])
    spec = SMALL | {"threats": [threat], "attacks": [PGD()]}
    result = audit.run(AuditSpec.load(spec), setting.classifier, data)
    assert result.headline_withheld == "", result.flags
    assert np.sum([item.status == "passed" for item in result.checks]) >= 17
