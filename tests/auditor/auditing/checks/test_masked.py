"""Masked gradients and fake attacks around the shipped networks: caught, and the headline is withheld in every form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from auditor.attacking.attacks.fgsm import FGSM
from auditor.attacking.attacks.pgd import PGD
from auditor.auditing import audit
from auditor.auditing.check import CHECKS
from auditor.auditing.result import AuditResult
from auditor.auditing.spec import AuditSpec
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.report import html
from auditor.report.comparison import compare
from auditor.report.section import document
from auditor.report.sections.verdict import sentences
from auditor.show.blocks import Measures, Table
from tests.auditor.auditing.checks.models import Cut, Noise, Quantized, Saturated, Unasked
from tests.narrow import typed
from worker.jobs.audit import summarize

SPEC: dict[str, Any] = {
    "threats": [{"epsilon": 0.1}],
    "samples": 60,
    "curve": [],
    "analyses": [],
    "curve_to_zero": False,
}
QUICKER = SPEC | {"checks": [{"kind": kind} for kind in CHECKS.members if kind != "normalization"]}
"""Without the check that takes half of the time and looks at no attack: for audits of which others are to be caught."""


def around(classifier: Classifier, wrapper: Any) -> Classifier:
    network = wrapper(classifier.network, 10) if wrapper is Saturated else wrapper(classifier.network)
    return Classifier(network, input_shape=classifier.input_shape, num_classes=10)


def flagged(result: AuditResult) -> dict[str, str]:
    return {check.kind: check.status for check in result.checks if check.status != "passed"}


@pytest.mark.parametrize(
    ("wrapper", "attacks"),
    [
        (Saturated, [FGSM(), PGD()]), (Quantized, [FGSM(), PGD()]), (Cut, [FGSM(), PGD()]),
        (Saturated, [PGD(random_start=False)]), (Quantized, [FGSM()]),
    ],
)  # fmt: skip
def test_masked_gradients_are_caught(sample: tuple[Classifier, ImageDataset], wrapper: Any, attacks: list[Any]) -> None:
    """True robust accuracy of the plain network is 0 here; under masked gradients the attacks leave most of it standing."""
    classifier, data = sample
    result = audit.run(AuditSpec.load(QUICKER | {"attacks": attacks}), around(classifier, wrapper), data)
    assert (result.robust_accuracy(result.spec.threats[0]).measured().value or 0) > 0.6
    assert flagged(result).items() >= {
        "blind_gradients": "severe", "unavailable_gradients": "severe", "random_noise_weaker": "severe",
    }.items()  # fmt: skip
    withheld_everywhere(result)


@pytest.mark.parametrize(
    ("fake", "others", "epsilon"),
    [(Noise, [], 0.1), (Noise, [FGSM()], 0.1), (Noise, [], 0.01), (Unasked, [], 0.1)],
)
def test_random_noise_called_pgd_is_caught(
    sample: tuple[Classifier, ImageDataset], fake: Any, others: list[Any], epsilon: float
) -> None:
    spec = QUICKER | {"attacks": [*others, fake()], "threats": [{"epsilon": epsilon}]}
    result = audit.run(AuditSpec.load(spec), *sample)
    assert flagged(result)["random_noise_weaker"] == "severe"
    assert (flagged(result).get("blind_gradients") == "severe") == (fake is Unasked)
    withheld_everywhere(result)


def withheld_everywhere(result: AuditResult) -> None:
    """In the result, its JSON, its summary, the report, and in a comparison."""
    rate = str(result.robust_accuracy(result.spec.threats[0]).measured())
    assert result.headline_withheld
    stored = json.loads(result.model_dump_json())
    assert stored["headlines"][0]["robust_accuracy"] is None
    assert stored["headlines"][0]["said"] == f"not established: {result.headline_withheld}"
    assert stored["headline_withheld"] == result.headline_withheld
    assert AuditResult.model_validate_json(result.model_dump_json()).headlines == result.headlines
    assert (summarize(result)["robust"], summarize(result)["withheld"]) == ([], result.headline_withheld)
    sections = {section.key: section for section in document(result)}
    assert "Robust accuracy is not established" in str(sections["verdict"])
    assert rate not in " ".join(sentences(result))
    measures = sections["verdict"].blocks[0]
    assert isinstance(measures, Measures)
    assert [item.value for item in measures.items if "obust" in item.title] == [None]
    table = sections["attacks"].blocks[1]
    assert isinstance(table, Table)
    assert table.rows[-1]["accuracy"] == "not established"
    assert sections["validity"].title == "Can these numbers be trusted?"
    assert {row["outcome"] for row in typed(sections["validity"].blocks[1], Table).rows} >= {"severe", "passed"}
    assert "Not established" in str(compare(result, result)[0])


def test_the_report_withholds_it_too(sample: tuple[Classifier, ImageDataset]) -> None:
    classifier, data = sample
    result = audit.run(AuditSpec.load(QUICKER), around(classifier, Quantized), data)
    page = html.render(result)
    assert "Robust accuracy is not established" in page
    assert "Can these numbers be trusted?" in page
    assert "keeps the right class on at most" not in page


def test_a_sound_audit_has_its_headline_in_the_json(sample: tuple[Classifier, ImageDataset]) -> None:
    result = audit.run(AuditSpec.load(SPEC), *sample)
    (headline,) = json.loads(result.model_dump_json())["headlines"]
    assert headline["robust_accuracy"] == result.robust_accuracy(result.spec.threats[0]).model_dump()
    assert headline["said"].startswith("at most ")
    section = next(item for item in document(result) if item.key == "validity")
    rows = typed(section.blocks[1], Table).rows
    assert len(rows) == len(result.checks)
    for row, check in zip(rows, result.checks, strict=False):
        assert row["outcome"] in ("passed", "not applicable")
        assert check.evidence
