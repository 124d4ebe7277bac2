"""Images on which the network answers NaN, and images that hold NaN: named, counted as wrong, and the audit goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification, TargetedMisclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.threat import ThreatModel
from auditor.auditing import audit
from auditor.auditing.result import AuditResult
from auditor.auditing.spec import AuditSpec
from auditor.auditing.vet import vet
from auditor.defending.defense import DEFENSES
from auditor.defending.measuring import measure_table
from auditor.defending.spec import TableSpec
from auditor.kit.errors import EvaluationError
from auditor.models.classifier import NO_CLASS, Classifier, predicted
from auditor.models.dataset import ImageDataset
from auditor.report.html import render
from tests.narrow import typed
from tests.nets import SHAPE, labelled, small_cnn

BRIGHT = 0.995
"""A pixel above this makes the network divide by zero."""
SILENT = [3, 17]


class Fragile(nn.Module):
    """Answers NaN where the first pixel is nearly white."""

    def __init__(self, limit: float = BRIGHT) -> None:
        super().__init__()
        self.inner, self.limit = small_cnn(), limit

    def forward(self, x: Tensor) -> Tensor:
        broken = torch.where(x[:, :1, 0, 0] > self.limit, torch.nan, 0.0)
        logits: Tensor = self.inner(x) + broken
        return logits


def fragile(limit: float = BRIGHT) -> Classifier:
    return Classifier(Fragile(limit), input_shape=SHAPE, num_classes=5)


def data_for(classifier: Classifier, n: int = 60) -> ImageDataset:
    """Labelled by the model; the first pixel is far from white, but for the two samples above."""
    plain = labelled(Classifier(small_cnn(), input_shape=SHAPE, num_classes=5), n=n, wrong=0)
    images = plain._images.copy()
    images[:, 0, 0, 0] = images[:, 0, 0, 0] // 4
    images[SILENT, 0, 0, 0] = 255
    x = ImageDataset(images, plain.labels).images(np.arange(n))
    labels = typed(classifier.network, Fragile).inner(x).argmax(1).numpy()
    return ImageDataset(images, labels, plain.class_names, names=[f"picture-{index}.png" for index in range(n)])


SPEC: dict[str, Any] = {
    "threats": [{"epsilon": 0.03}],
    "attacks": [{"kind": "fgsm"}, {"kind": "pgd"}],
    "corruptions": [{"kind": "brightness", "severity": 1}],
    "samples": 60,
    "curve": [],
    "curve_to_zero": False,
    "analysis_samples": 60,
}


@pytest.fixture(scope="module")
def result() -> AuditResult:
    classifier = fragile()
    return audit.run(AuditSpec.load(SPEC), classifier, data_for(classifier))


def test_they_are_named_and_count_as_wrong(result: AuditResult) -> None:
    assert [result.samples.ids[place] for place, said in enumerate(result.samples.predictions) if said < 0] == SILENT
    assert (result.clean_accuracy.hits, result.clean_accuracy.n) == (58, 60)
    (flag,) = [flag for flag in result.flags if flag.name == "no answer"]
    assert (flag.severity, flag.evidence) == ("warning", "picture-3.png, picture-17.png")
    assert "2 of 60 samples" in flag.message
    assert not result.headline_withheld
    assert all(not set(SILENT) & set(record.positions) for record in result.records)
    assert [result.corruptions[0].predictions[place] for place in SILENT] == [NO_CLASS, NO_CLASS]
    assert not [finding.kind for finding in result.findings if "NaN" in finding.declined]


def test_the_report_and_the_stored_result_say_so(result: AuditResult) -> None:
    again = AuditResult.model_validate_json(result.model_dump_json())
    assert again == result
    assert "picture-17.png" in render(again)
    assert again.provenance.model.class_name(NO_CLASS) == "no class (NaN)"


def test_the_rest_is_measured_as_without_them(result: AuditResult) -> None:
    """The same audit of the 58 others: the same samples resist."""
    classifier = fragile()
    data = data_for(classifier)
    rest = np.setdiff1d(np.arange(60), SILENT)
    alone = ImageDataset(data._images[rest], data.labels[rest], data.class_names)
    spec = AuditSpec.load(SPEC | {"analyses": [], "checks": [], "attacks": [{"kind": "fgsm"}]})
    other = audit.run(spec, classifier, alone)
    threat = spec.threats[0]
    mine = result.headline_records(threat)[0].fooled
    assert other.headline_records(threat)[0].fooled == mine


def test_an_image_that_is_nan_itself_is_said_to_be() -> None:
    classifier = fragile()
    data = data_for(classifier)
    images = data._images.astype(np.float32) / 255
    images[17] = np.nan
    held = ImageDataset.__new__(ImageDataset)
    held.__dict__.update(data.__dict__ | {"_images": images})
    found = audit.run(AuditSpec.load(SPEC | {"analyses": []}), classifier, held)
    said = {flag.name: flag.evidence for flag in found.flags}
    assert said["no answer"] == "picture-3.png"
    assert said["images not finite"] == "picture-17.png"
    assert found.corruptions[0].predictions[17] == NO_CLASS
    assert {flag.name for flag in vet(classifier, held).flags} >= {"no answer", "images not finite"}


def test_a_network_that_never_answers_is_refused() -> None:
    classifier = fragile(limit=-1)
    with pytest.raises(EvaluationError, match=r"NaN or infinite logits for all 60 images.*Check the weights"):
        audit.run(AuditSpec.load(SPEC), classifier, data_for(classifier))


def test_many_samples_without_an_answer_withhold_the_headline() -> None:
    classifier = fragile(limit=0.12)  # a pixel of 31 of 255; half of the images have one
    found = audit.run(AuditSpec.load(SPEC | {"analyses": []}), classifier, data_for(classifier))
    (flag,) = [flag for flag in found.flags if flag.name == "no answer"]
    assert flag.severity == "severe"
    assert " more" in flag.evidence
    assert found.headline_withheld


def test_nan_under_attack_counts_as_fooled_and_is_said() -> None:
    """An attacker who brightens the first pixel by 0.06 crosses the limit from 0.95: PGD finds it wherever it goes up."""
    classifier = fragile(limit=0.27)
    data = data_for(classifier)
    spec = AuditSpec.load(SPEC | {"threats": [{"epsilon": 0.05}], "checks": []})
    found = audit.run(spec, classifier, data)
    (flag,) = [flag for flag in found.flags if flag.name == "no answer under attack"]
    record = found.headline_records(spec.threats[0])[1]
    silent = [place for place, said in zip(record.positions, record.prediction, strict=True) if said == NO_CLASS]
    assert silent
    assert all(record.fooled[record.positions.index(place)] for place in silent)
    assert f"picture-{found.samples.ids[silent[0]]}.png" in flag.evidence
    assert "picture-" in render(found)


@pytest.mark.parametrize(
    "attack", ["pgd:steps=3", "square:queries=20", "deepfool", "apgd-dlr:steps=5", "hop-skip-jump:steps=2"]
)
def test_every_way_to_ask_survives_it(attack: str) -> None:
    classifier = fragile(limit=0.2)
    data = data_for(classifier)
    ids = np.setdiff1d(np.flatnonzero(data._images[:, 0, 0, 0] <= 50), SILENT)
    criterion = Misclassification(torch.from_numpy(data.labels[ids]))
    run_attack(classifier, ATTACKS.parse(attack), ThreatModel(epsilon=0.1), data, ids, criterion, seed=0, batch_size=16)


def test_no_answer_is_wrong_but_not_the_target() -> None:
    logits = torch.tensor([[torch.nan, 1.0], [0.0, torch.inf], [2.0, 1.0]])
    assert predicted(logits).tolist() == [NO_CLASS, NO_CLASS, 0]
    zeros = torch.zeros(3, dtype=torch.int64)
    assert Misclassification(zeros).is_adversarial(logits).tolist() == [True, True, False]
    assert TargetedMisclassification(zeros).is_adversarial(logits).tolist() == [False, False, True]


def test_vetting_names_them_and_goes_on() -> None:
    classifier = fragile()
    card = vet(classifier, data_for(classifier))
    assert {flag.name: flag.evidence for flag in card.flags}["no answer"] == "picture-3.png, picture-17.png"
    assert card.accuracy is not None
    assert (card.accuracy.hits, card.accuracy.n) == (58, 60)


def test_an_evaluation_of_a_defense_counts_them_as_wrong() -> None:
    classifier = fragile()
    data = data_for(classifier)
    defense = DEFENSES.build("bit-depth", {"bits": 8})
    spec = TableSpec(
        threat=ThreatModel(epsilon=0.03),
        steps=2,
        restarts=1,
        queries=5,
        decision_steps=20,
        static=(),
        influence=(),
        published=(),
    )
    found = measure_table(
        classifier, [defense], [defense.fit(classifier, data, np.arange(4), seed=0)], data, np.arange(20), spec
    )
    assert (found.benign_undefended.hits, found.benign_undefended.n) == (18, 20)
    assert "picture-3.png, picture-17.png" in " ".join(flag.text for flag in found.flags)
