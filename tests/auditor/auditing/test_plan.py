"""The stages of an audit: each threat model's curve is there, nothing runs twice, and a check stays cheap."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.threat import Norm, ThreatModel
from auditor.auditing import audit
from auditor.auditing.allowance import FEWEST
from auditor.auditing.inquiry import Inquiry
from auditor.auditing.plan import allowance_of, plan, points
from auditor.auditing.spec import AuditSpec
from tests.nets import SHAPE, labelled, small_classifier

PIXEL = [f"{levels}/255" for levels in (1, 2, 4, 8, 16)]
RADII: dict[Norm, list[float | str]] = {
    Norm.LINF: [0.03, 0.05, 0.06, 0.1, 0.12, 0.2, 0.3, *PIXEL],
    Norm.L2: [0.25, 0.5, 0.75, 1.0, 1.5],
}
THREATS = st.sampled_from([{"norm": norm, "epsilon": epsilon} for norm, radii in RADII.items() for epsilon in radii])
CURVES = st.lists(st.sampled_from([0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]), max_size=4)
CLASSIFIER = small_classifier()


def spec_of(threats: list[dict[str, Any]], curve: list[float], **values: Any) -> AuditSpec:
    plain = {"attacks": [{"kind": "fgsm"}], "analyses": [], "checks": [], "samples": 4, "gallery": 0, "examples": 0}
    return AuditSpec.load(plain | {"threats": threats, "curve": curve} | values)


@given(threats=st.lists(THREATS, min_size=2, max_size=3, unique_by=str), curve=CURVES)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_threats_share_the_points_of_their_curves(threats: list[dict[str, Any]], curve: list[float]) -> None:
    """Pairs and triples, of one norm or several, points that meet headlines and each other: no point is lost, none is twice."""
    spec = spec_of(threats, curve)
    heard: list[float] = []
    result = audit.run(
        spec, CLASSIFIER, labelled(CLASSIFIER, n=8, wrong=1), on_progress=lambda share, what: heard.append(share)
    )
    ran = [(record.attack.kind, record.threat.norm, record.threat.epsilon) for record in result.records]
    for index, (kind, norm, epsilon) in enumerate(ran):
        assert not any(
            (kind, norm) == other[:2] and math.isclose(epsilon, other[2], rel_tol=1e-9) for other in ran[index + 1 :]
        )
    for threat in spec.threats:
        assert [record.role for record in result.records if record.threat == threat] == ["headline"]
        for multiple in curve:
            wanted = multiple * threat.epsilon
            assert any(norm is threat.norm and math.isclose(wanted, epsilon, rel_tol=1e-9) for _, norm, epsilon in ran)
        heights = [rate.hits for _, rate in result.curve(threat)]
        assert heights == sorted(heights, reverse=True)
    assert heard[-1] <= 1


@pytest.mark.parametrize(
    ("threats", "curve", "expected"),
    [
        ([("linf", 0.05), ("linf", 0.1)], [0.5, 2], [0.025, 0.2]),
        ([("linf", "4/255"), ("linf", "8/255")], [0.5, 2], [2 / 255, 16 / 255]),
        ([("linf", 0.05), ("linf", 0.2)], [0.5, 2], [0.025, 0.1, 0.4]),  # 0.1 twice
        ([("linf", 0.1), ("linf", 0.3)], [3], [0.9]),  # 3 * 0.1 is 0.30000000000000004
        ([("linf", 0.1), ("l2", 0.1)], [2], [0.2, 0.2]),
        ([("l0", 2), ("l0", 3)], [0.1, 1.5, 2], [1, 4, 6]),  # round(0.2), round(0.3); 1.5 * 2 is a headline, 4.5 is 4
    ],
)
def test_points_are_a_union_over_threats(
    threats: list[tuple[str, Any]], curve: list[float], expected: list[float]
) -> None:
    attacks = [{"kind": "jsma"}] if threats[0][0] == "l0" else [{"kind": "fgsm"}]
    spec = spec_of([{"norm": norm, "epsilon": epsilon} for norm, epsilon in threats], curve, attacks=attacks)
    assert [point.epsilon for point in points(spec)] == pytest.approx(expected)
    curves = [stage for stage in plan(spec, 10, SHAPE) if isinstance(stage, tuple) and stage[0] == "curve"]
    assert len(curves) == len(set(curves)) == len(expected)


def test_a_check_may_spend_three_percent_on_an_attack_of_its_own() -> None:
    """By hand: 200 samples pass once (200), FGSM takes 1 step of 3 passes and one pass more (200 * 4 = 800); 3 % of 1,000 is 30.

    PGD with 10 steps costs 31 passes an image, so that the least number of samples is what it gets; FGSM gets 7.
    """
    spec = spec_of([{"epsilon": 0.1}], [], curve_to_zero=False, samples=200)
    assert sum(plan(spec, 200, SHAPE).values()) == 1000
    assert allowance_of(spec, 200, SHAPE).budget == pytest.approx(30)
    two = spec_of([{"epsilon": 0.1}, {"epsilon": 0.2}], [], curve_to_zero=False, samples=200)
    assert allowance_of(two, 200, SHAPE).budget == pytest.approx(0.03 * (200 + 2 * 800) / 2)


def test_checks_take_a_small_part_of_an_audit() -> None:
    """What all checks of a default audit may spend at most, if nothing is fooled: eleven attacks of 3 %. Nine checks run one
    each, and noise is compared with both FGSM and PGD."""
    spec = AuditSpec()
    stages = plan(spec, 1000, SHAPE)
    attacking = [check for check in spec.checks if not check.preflight]
    whole = sum(stages.values()) - sum(stages[check] for check in spec.checks)
    assert allowance_of(spec, 1000, SHAPE).budget <= 0.03 * whole * (1 + 1e-9)
    assert sum(stages[check] for check in attacking) <= 11 * 0.03 * whole


def test_an_extra_attack_keeps_to_its_budget() -> None:
    """Of 400 samples a check attacks as many as 3 % of the audit's cost pay for, or the fewest that prove something."""
    data = labelled(CLASSIFIER, n=400, wrong=0)
    spec = spec_of([{"epsilon": 0.1}], [], curve_to_zero=False, samples=400, attacks=[{"kind": "pgd", "steps": 100}])
    inquiry = Inquiry(
        CLASSIFIER, data, np.arange(400), torch.from_numpy(data.labels), np.ones(400, bool),
        Misclassification(torch.from_numpy(data.labels)), False, (ThreatModel(epsilon=0.1),), [], 0, 50,
        allowance_of(spec, 400, SHAPE),
    )  # fmt: skip
    # The audit: 400 + 400 * 301 passes; 3 % of them are 3,624: 90 images of an attack that costs 40.
    assert len(inquiry.affordable(ATTACKS.parse("pgd:steps=13"))) == 3624 // 40 == 90
    assert len(inquiry.affordable(ATTACKS.parse("pgd:steps=1000"))) == FEWEST
    assert len(inquiry.affordable(ATTACKS.parse("fgsm"))) == 100
