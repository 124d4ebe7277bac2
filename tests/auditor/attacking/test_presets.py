"""Presets run as they are, and the plan of an audit is what it then costs at most."""

from __future__ import annotations

import pytest

from auditor.attacking.presets import PRESETS, find_preset
from auditor.auditing import audit
from auditor.auditing.plan import plan
from auditor.auditing.spec import AuditSpec
from auditor.kit.errors import SpecError
from tests.nets import labelled, small_classifier


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_makes_a_spec(name: str) -> None:
    threats, attacks = find_preset(name).build()
    spec = AuditSpec.load({"threats": threats, "attacks": attacks, "analyses": []})
    assert {attack for threat in threats for attack in spec.attacks_for(threat)} == set(attacks)


def test_a_preset_that_is_not_there_is_named() -> None:
    with pytest.raises(SpecError, match=r"There is no preset .nonsense.\. There are: quick, standard"):
        find_preset("nonsense")


def test_the_plan_bounds_what_the_attacks_cost() -> None:
    """Forward passes plus twice the backward passes of all records, against the weights of their stages."""
    classifier = small_classifier()
    spec = AuditSpec.load({"threats": [{"epsilon": 0.02}], "samples": 40, "checks": [], "analyses": [], "curve": [0.5]})
    found = audit.run(spec, classifier, labelled(classifier, n=40, wrong=0))
    stages = plan(spec, 40, (3, 32, 32))
    for record in found.records:
        spent = sum(record.forwards) + 2 * sum(record.backwards)
        key = (record.role, record.threat, record.attack)
        if key in stages:
            bound = stages[key] * (
                2 if record.role == "curve" else 1
            )  # a curve's stage counts on half the samples standing
            assert 0 < spent <= bound + 40
    assert sum(plan(spec, 80, (3, 32, 32)).values()) == pytest.approx(2 * sum(stages.values()))
