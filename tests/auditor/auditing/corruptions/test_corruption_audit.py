"""Corruptions as part of an audit: the records, the section, the comparison, the refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from auditor.auditing import audit
from auditor.auditing.corruption import CORRUPTIONS
from auditor.auditing.result import AuditResult
from auditor.auditing.spec import AuditSpec
from auditor.kit.errors import SpecError
from auditor.kit.statistics.estimate import Rate
from auditor.kit.statistics.paired import paired_difference
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.report.comparison import compare
from auditor.report.section import document
from auditor.show.blocks import Figure, Table
from tests.narrow import known, typed
from tests.nets import labelled, small_classifier, small_cnn

SPEC: dict[str, Any] = {
    "samples": 50, "analyses": [], "checks": [], "curve": [], "gallery": 0, "seed": 5,
    "attacks": [{"kind": "fgsm"}], "corruptions": [{"kind": "fog"}, {"kind": "jpeg", "severity": 5}],
}  # fmt: skip


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return small_classifier()


@pytest.fixture(scope="module")
def result(classifier: Classifier) -> AuditResult:
    return audit.run(AuditSpec.load(SPEC), classifier, labelled(classifier, n=60, wrong=8))


def test_every_sample_is_judged_under_every_severity(result: AuditResult, classifier: Classifier) -> None:
    data = labelled(classifier, n=60, wrong=8)
    ids = np.array(result.samples.ids)
    named = [record.corruption.describe() for record in result.corruptions]
    assert named == [*(f"fog:severity={severity}" for severity in (1, 2, 3, 4, 5)), "jpeg:severity=5"]
    for record in result.corruptions:
        predicted = classifier(record.corruption.corrupt(data.images(ids), ids, seed=5)).argmax(1).numpy()
        assert record.predictions == predicted.tolist()
        assert result.corrupted(record).tolist() == (predicted == data.labels[ids]).tolist()


def test_the_batch_size_changes_nothing_and_old_results_can_be_read(
    result: AuditResult, classifier: Classifier
) -> None:
    other = audit.run(AuditSpec.load(SPEC | {"batch_size": 7}), classifier, labelled(classifier, n=60, wrong=8))
    assert [record.predictions for record in other.corruptions] == [record.predictions for record in result.corruptions]
    assert AuditResult.model_validate_json(result.model_dump_json()) == result
    old = result.model_dump(mode="json")
    del old["corruptions"], old["spec"]["corruptions"]
    assert AuditResult.model_validate(old).corruptions == ()


def test_the_section_says_what_the_records_say(result: AuditResult) -> None:
    section = next(item for item in document(result) if item.key == "corruptions")
    _, figure, table = section.blocks
    assert isinstance(figure, Figure)
    assert isinstance(table, Table)
    rates = {
        (record.corruption.display_title(), record.corruption.severity): Rate.of(result.corrupted(record))
        for record in result.corruptions
    }
    for row in figure.rows:
        expected = rates.get((row["row"], row["column"]), result.clean_accuracy)
        assert (row["value"], row["low"], row["n"]) == (expected.value, expected.low, 50)
    assert len(figure.rows) == 6 + 2
    fog, jpeg, mean = table.rows
    assert [fog[str(severity)] for severity in (1, 2, 3, 4, 5)] == [
        str(rates["Fog", severity]) for severity in (1, 2, 3, 4, 5)
    ]
    assert set(jpeg) == {"corruption", "5", "mean"}
    values = [known(rates["Fog", severity].value) for severity in (1, 2, 3, 4, 5)]
    assert fog["mean"] == pytest.approx(sum(values) / 5)
    assert mean["mean"] == pytest.approx((fog["mean"] + known(rates["JPEG", 5].value)) / 2)


def test_without_corruptions_there_is_no_section(classifier: Classifier) -> None:
    plain = audit.run(AuditSpec.load(SPEC | {"corruptions": []}), classifier, labelled(classifier, n=60))
    assert plain.corruptions == ()
    assert "corruptions" not in {section.key for section in document(plain)}


def test_two_audits_are_compared_on_the_same_corrupted_images(result: AuditResult, classifier: Classifier) -> None:
    second = small_classifier(seed=1)
    change = {"corruptions": [{"kind": "fog", "severity": 2}, {"kind": "frost"}]}
    other = audit.run(AuditSpec.load(SPEC | change), second, labelled(classifier, n=60, wrong=8))
    section = next(item for item in compare(result, other) if item.key == "corruptions")
    (row,) = typed(section.blocks[-1], Table).rows
    assert row["what"] == "accuracy, Fog, severity 2"
    expected = paired_difference(result.corrupted(result.corruptions[1]), other.corrupted(other.corruptions[0]))
    assert (row["only_first"], row["only_second"]) == (expected.only_a, expected.only_b)
    reseeded = audit.run(AuditSpec.load(SPEC | {"seed": 6}), classifier, labelled(classifier, n=60, wrong=8))
    assert "corruptions" not in {item.key for item in compare(result, reseeded)}, "other images"


def test_what_cannot_be_run_is_refused_before_anything_runs() -> None:
    network = small_cnn(shape=(1, 8, 8))
    grey = Classifier(network, input_shape=(1, 8, 8), num_classes=5, normalization=NORMALIZATIONS["half"])

    def no_step(share: float, what: str) -> None:
        raise AssertionError(what)

    spec = AuditSpec.load(SPEC | {"corruptions": [{"kind": "saturate"}]})
    with pytest.raises(SpecError, match=r"saturate takes images with 3 channels, these have 1\. Leave it out\."):
        audit.run(spec, grey, labelled(grey), on_progress=no_step)
    with pytest.raises(SpecError, match="fog:severity=3 is named twice"):
        AuditSpec.load(SPEC | {"corruptions": [{"kind": "fog"}, {"kind": "fog", "severity": 3}]})


def test_every_corruption_runs_in_one_audit(classifier: Classifier) -> None:
    spec = AuditSpec.load(SPEC | {"samples": 10, "corruptions": [{"kind": kind} for kind in CORRUPTIONS.members]})
    seen: list[float] = []
    found = audit.run(spec, classifier, labelled(classifier), on_progress=lambda share, what: seen.append(share))
    assert len(found.corruptions) == 5 * len(CORRUPTIONS)
    assert seen == sorted(seen)
