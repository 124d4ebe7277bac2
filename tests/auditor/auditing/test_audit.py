"""A whole audit: its numbers recomputed from its own records and from the model, its doubts, its memory, its invariances."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.threat import Norm, ThreatModel
from auditor.auditing import audit
from auditor.auditing.result import AuditResult
from auditor.auditing.spec import AuditSpec
from auditor.kit.errors import MismatchError, SpecError
from auditor.kit.statistics.estimate import Rate
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.neural.analyses.neuron_sensitivity import Sensitivity
from tests.narrow import sequence, typed
from tests.nets import labelled, small_classifier

THREATS = [{"norm": "linf", "epsilon": 0.04}, {"norm": "l2", "epsilon": 0.4}]
SMALL: dict[str, Any] = {"threats": THREATS, "samples": 50, "curve": [0.5, 2], "gallery": 6, "analysis_samples": 20}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return small_classifier()


@pytest.fixture(scope="module")
def result(classifier: Classifier) -> AuditResult:
    return audit.run(AuditSpec.load(SMALL), classifier, labelled(classifier, n=60, wrong=8), model_sha256="m" * 64)


def test_clean_numbers_are_the_models(result: AuditResult, classifier: Classifier) -> None:
    data = labelled(classifier, n=60, wrong=8)
    ids = np.array(result.samples.ids)
    assert len(ids) == 50
    predicted = classifier(data.images(ids)).argmax(1).numpy()
    assert result.samples.predictions == predicted.tolist()
    assert result.samples.labels == data.labels[ids].tolist()
    assert result.clean_accuracy == Rate.count(int((predicted == data.labels[ids]).sum()), 50)


def test_a_headline_record_is_the_attack_run_by_itself(result: AuditResult, classifier: Classifier) -> None:
    data = labelled(classifier, n=60, wrong=8)
    for record in (record for record in result.records if record.role == "headline"):
        positions = np.flatnonzero(result.samples.correct)
        assert record.positions == positions.tolist(), "every correctly classified sample, and no other"
        ids = np.array(result.samples.ids)[positions]
        alone = run_attack(
            classifier, record.attack, record.threat, data, ids, Misclassification(torch.from_numpy(data.labels[ids])),
            seed=0, batch_size=9,
        )  # fmt: skip
        assert record.fooled == alone.fooled.tolist()
        assert record.forwards == alone.forwards.tolist()


def test_robust_accuracy_is_the_worst_case_per_sample(result: AuditResult) -> None:
    for threat in result.spec.threats:
        standing = []
        for position in range(len(result.samples)):
            fooled = any(
                record.fooled[record.positions.index(position)]
                for record in result.records
                if record.threat.norm == threat.norm
                and record.threat.epsilon <= threat.epsilon
                and position in record.positions
            )
            standing.append(result.samples.labels[position] == result.samples.predictions[position] and not fooled)
        assert result.robust(threat).tolist() == standing
        assert result.robust_accuracy(threat) == Rate.of(np.array(standing))
        for record in result.headline_records(threat):
            assert result.robust_accuracy(threat).hits <= result.attack_accuracy(record).hits


def test_the_curve_falls_from_the_clean_accuracy_and_meets_the_headline(result: AuditResult) -> None:
    for threat in result.spec.threats:
        curve = result.curve(threat)
        multiples = [point.epsilon / threat.epsilon for point, _ in curve]
        assert multiples == pytest.approx([0.5, 1, 2, 4, 8, 16, 32, 64][: len(curve)]), "and on until nothing stands"
        assert curve[-1][1].hits == 0 or len(curve) == 8
        assert all(rate.hits for _, rate in curve[2:-1])
        hits = [result.clean_accuracy.hits] + [rate.hits for _, rate in curve]
        assert hits == sorted(hits, reverse=True)
        assert {point.epsilon: rate for point, rate in curve}[threat.epsilon] == result.robust_accuracy(threat)


def test_no_pass_is_spent_on_samples_already_fooled(result: AuditResult) -> None:
    """On the curve, a sample fooled at a smaller epsilon, or by an earlier attack, is not attacked again."""
    for threat in result.spec.threats:
        known: set[int] = set()
        records = [record for record in result.records if record.threat.norm == threat.norm]
        for record in sorted(records, key=lambda record: (record.threat.epsilon, record.role == "curve")):
            if record.role == "curve":
                assert not known & set(record.positions)
            known |= {position for position, fooled in zip(record.positions, record.fooled, strict=True) if fooled}
    wrong = set(np.flatnonzero(~result.samples.correct).tolist())
    assert not any(wrong & set(record.positions) for record in result.records)


@pytest.mark.parametrize("batch_size", [1, 13])
def test_the_batch_size_changes_no_verdict(result: AuditResult, classifier: Classifier, batch_size: int) -> None:
    spec = AuditSpec.load(SMALL | {"batch_size": batch_size})
    other = audit.run(spec, classifier, labelled(classifier, n=60, wrong=8))
    assert other.samples.model_copy(update={"confidence": []}) == result.samples.model_copy(update={"confidence": []})
    assert other.samples.confidence == pytest.approx(result.samples.confidence)
    for one, two in zip(result.records, other.records, strict=True):
        assert (one.positions, one.fooled, one.prediction) == (two.positions, two.fooled, two.prediction)
    assert [row.title for row in other.gallery] == [row.title for row in result.gallery]
    mine, theirs = (typed(item.findings[0].data, Sensitivity).layers for item in (result, other))
    for first, second in zip(mine, theirs, strict=True):
        assert np.allclose(first.sensitivity, second.sensitivity, rtol=1e-4)


def test_it_survives_its_json(result: AuditResult) -> None:
    text = result.model_dump_json()
    assert AuditResult.model_validate_json(text) == result
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


def test_it_says_where_it_comes_from(result: AuditResult) -> None:
    source = result.provenance
    assert source.model.sha256 == "m" * 64
    assert source.dataset.sha256 == "d" * 64
    assert source.versions["torch"] == torch.__version__.split("+")[0] or source.versions["torch"] == torch.__version__
    assert source.model.parameters == 605
    assert result.spec.seed == 0


def test_the_gallery_shows_the_first_fooled_and_the_first_resisting(result: AuditResult) -> None:
    strongest = max(result.headline_records(result.spec.threats[0]), key=lambda record: sum(record.fooled))
    fooled = [position for position, yes in zip(strongest.positions, strongest.fooled, strict=True) if yes][:4]
    standing = [position for position, yes in zip(strongest.positions, strongest.fooled, strict=True) if not yes][:2]
    assert [row.title for row in result.gallery] == [
        f"#{result.samples.ids[position]}: kind {result.samples.labels[position]}, {outcome}"
        for positions, outcome in ((fooled, "fooled"), (standing, "not fooled"))
        for position in positions
    ]
    for row in result.gallery[:4]:
        assert row.images[0].caption.split("(")[0].removeprefix("clean") != row.images[1].caption.split("(")[
            0
        ].removeprefix("adversarial")


def test_progress_grows_to_one_and_may_stop_the_audit(classifier: Classifier) -> None:
    seen: list[float] = []
    audit.run(
        AuditSpec.load(SMALL), classifier, labelled(classifier), on_progress=lambda share, what: seen.append(share)
    )
    assert seen == sorted(seen)
    assert 0 < seen[0] < 0.2
    assert seen[-1] == pytest.approx(1, abs=0.02)

    class Enough(Exception):
        pass

    def stop(share: float, what: str) -> None:
        if share > 0.3:
            raise Enough

    with pytest.raises(Enough):
        audit.run(AuditSpec.load(SMALL), classifier, labelled(classifier), on_progress=stop)


def test_a_targeted_audit_counts_the_target(classifier: Classifier) -> None:
    data = labelled(classifier, n=60, wrong=0)
    spec = AuditSpec.load(SMALL | {"goal": {"kind": "targeted", "rule": "class", "target_class": 2}, "samples": None})
    found = audit.run(spec, classifier, data)
    assert len(found.samples) == int((data.labels != 2).sum())
    assert all(
        (predicted == 2) == fooled
        for record in found.records
        for predicted, fooled in zip(record.prediction, record.fooled, strict=True)
    )
    everything = labelled(classifier, n=10, wrong=0)
    everything.labels[:] = 2
    with pytest.raises(MismatchError, match="No sample is left"):
        audit.run(spec, classifier, everything)


def test_a_blind_attack_withholds_the_headline() -> None:
    """float32 softmax saturates: the loss is 0, its gradient too, and PGD without a random start stands still."""
    sure = small_classifier()
    with torch.no_grad():
        sequence(sure)[5].weight *= 1e5
        sequence(sure)[5].bias *= 1e5
    spec = AuditSpec.load(SMALL | {"attacks": [ATTACKS.parse("pgd:random_start=false")], "analyses": []})
    found = audit.run(spec, sure, labelled(sure, wrong=0))
    assert {"blind attack", "blind attacks"} <= {flag.name for flag in found.flags}
    assert "gave no attack a gradient to follow" in found.headline_withheld


def test_a_wrong_normalization_withholds_the_headline() -> None:
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))
    right = Classifier(linear, input_shape=(3, 6, 6), num_classes=5, normalization=NORMALIZATIONS["half"])
    wrong = right.with_normalization(NORMALIZATIONS["none"])
    found = audit.run(AuditSpec.load(SMALL | {"samples": None}), wrong, labelled(right, n=200, wrong=0))
    assert "normalization" in {flag.name for flag in found.flags if flag.severity == "severe"}
    assert found.headline_withheld


def test_a_sound_audit_raises_no_doubt(result: AuditResult) -> None:
    assert result.flags == ()
    assert result.headline_withheld == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attacks": []}, "attacks: expected"),
        ({"attacks": [{"kind": "nonsense"}]}, "attacks.0"),
        ({"attacks": [{"kind": "fgsm"}, {"kind": "fgsm"}]}, "fgsm:budget=fixed is named twice"),
        ({"threats": []}, "threats: expected"),
        ({"threats": [{"epsilon": -1}]}, r"epsilon: expected greater than 0, got -1"),
        ({"threats": [{"norm": "l7"}]}, "norm: expected"),
        ({"samples": 0}, "samples: expected greater than or equal to 1, got 0"),
        ({"seed": "x"}, "seed: expected a valid integer"),
        ({"analysis_attack": {"kind": "pgd", "restarts": 2}}, "single run"),
        ({"nonsense": 1}, "nonsense is not a parameter"),
    ],
)
def test_a_wrong_spec_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        AuditSpec.load(SMALL | change)


def test_a_gpu_that_is_not_there_is_named(classifier: Classifier) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SpecError, match="PyTorch finds no GPU"):
        audit.run(AuditSpec.load(SMALL | {"device": "cuda"}), classifier, labelled(classifier))


def test_an_audit_leaves_nothing_on_disk(
    classifier: Classifier, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    audit.run(AuditSpec.load(SMALL), classifier, labelled(classifier))
    assert list(tmp_path.iterdir()) == []


def test_a_dead_model_is_measured_not_crashed_on() -> None:
    """All logits equal: the model is right on class 0 only, and nothing can fool it there."""
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(108, 5)))
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    dead = Classifier(network, input_shape=(3, 6, 6), num_classes=5)
    found = audit.run(AuditSpec.load(SMALL), dead, labelled(small_classifier(), n=60))
    assert found.headline_withheld
    assert ThreatModel(norm=Norm.LINF, epsilon=0.04) in found.spec.threats
