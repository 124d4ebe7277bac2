"""Importance and sensitivity of features against loops over images and features (Zhang et al. 2020, eq. 1, 3-8)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from auditor.attacking.criterion import TargetedMisclassification
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.neural.analyses.neuron_importance import NeuronImportance
from auditor.neural.analysis import Finding, Subject, measured, section_of
from auditor.neural.probes.head import head_of
from auditor.neural.ranking.importance import Importance, importance_of
from auditor.neural.twins.stored import make_twins
from auditor.neural.twins.targeted import aimed_at, papers_pgd, successful_twins
from auditor.show.blocks import Table, Text
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import attacked
from tests.narrow import sequence, typed
from tests.nets import SHAPE, labelled, random_images, small_classifier

EPSILON = 0.2


@pytest.fixture
def classifier() -> Classifier:
    return small_classifier().double()


@pytest.fixture
def subject(classifier: Classifier, tmp_path: Path) -> Subject:
    return attacked(classifier, labelled(classifier, n=24), tmp_path, epsilon=EPSILON)


def features_of_twins(subject: Subject, target: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of the images and of their twins that reach the target, by the layers before the head, (N, M) each."""
    ids = aimed_at(subject, target, most)
    criterion = TargetedMisclassification(torch.full((len(ids),), target))
    twins = make_twins(subject, papers_pgd(subject, 10), criterion, ids=ids)
    clean, moved = [], []
    for pair in twins:
        for i in range(len(pair.sample)):
            x, x_adv = pair.x[i : i + 1].double(), pair.x_adv[i : i + 1].double()
            if int(subject.classifier(x_adv).argmax()) == target:
                body = sequence(subject.classifier)[:-1]
                clean.append(body(subject.classifier.normalize(x))[0].numpy())
                moved.append(body(subject.classifier.normalize(x_adv))[0].numpy())
    return np.array(clean), np.array(moved)


def measured_alone(subject: Subject, target: int) -> Importance:
    """One class, up to 15 images, 6 important features."""
    twins = successful_twins(subject, papers_pgd(subject, 10), target, aimed_at(subject, target, 15))
    return importance_of(subject.classifier, head_of(subject.classifier), target, twins, 6)


def test_every_class_equals_the_restatement(subject: Subject) -> None:
    head = head_of(subject.classifier)
    seen = 0
    for target in range(5):
        found = measured_alone(subject, target)
        clean, moved = features_of_twins(subject, target, 15)
        assert found.images == len(clean)
        if not len(clean):
            continue
        seen += 1
        images, neurons = moved.shape
        phi, sigma, votes, borda = np.zeros((4, neurons))
        for i in range(images):
            parts = [moved[i, m] * float(head.weight[target, m]) for m in range(neurons)]
            for m in range(neurons):
                phi[m] += parts[m] / images
                sigma[m] += abs(clean[i, m] - moved[i, m]) / images
            for m in range(neurons):  # features that are alike share the votes of their places
                first = sum(part > parts[m] for part in parts)
                alike = parts.count(parts[m])
                borda[m] += sum(neurons - place for place in range(first, first + alike)) / alike
                votes[m] += sum(max(6 - place, 0) for place in range(first, first + alike)) / alike
        assert found.phi == pytest.approx(phi, rel=1e-9, abs=1e-12)
        assert found.sigma == pytest.approx(sigma, rel=1e-9, abs=1e-12)
        assert found.votes == pytest.approx(votes, rel=1e-12)
        assert found.borda == pytest.approx(borda, rel=1e-12)
    assert seen >= 3


def test_the_finding_holds_the_measures_of_each_class_and_their_mean(subject: Subject) -> None:
    analysis = NeuronImportance(images=15, k=6, fewest=2)
    finding = analysis.run(subject)
    values = []
    for row in finding.data.model_dump(mode="json")["classes"]:
        found = measured_alone(subject, row["class"])
        assert row["images"] == found.images
        if found.images >= 2:
            values.append(row["spearman"])
        if found.images:
            assert row["spearman"] == pytest.approx(stats.spearmanr(found.sigma, found.phi).statistic)
        if found.images:
            assert row["important"] == np.lexsort((np.arange(72), -found.votes))[:6].tolist()
            assert row["sensitive"] == np.lexsort((np.arange(72), -found.sigma))[:6].tolist()
    assert len(values) >= 3
    measure = measures(finding)[0]
    interval = stats.ttest_1samp(values, 0).confidence_interval()
    assert (measure.value, measure.low, measure.high) == pytest.approx((np.mean(values), interval.low, interval.high))
    assert measure.n == len(values)


def measures(finding: Finding) -> Any:
    return next(block.items for block in section_of(finding).blocks if block.type == "measures")


def test_features_whose_change_is_their_importance_agree_fully(tmp_path: Path) -> None:
    """Logit of the target = sum of the pixels that one step of FGSM raises from 0 by epsilon times their own weight's size:
    here features are w * x (identity weights in the head), so what changes most also adds most."""
    scale = torch.arange(1.0, 13.0)
    body = nn.Linear(12, 12, bias=False)
    head = nn.Linear(12, 2)
    with torch.no_grad():
        body.weight.copy_(torch.diag(scale))
        head.weight.copy_(torch.stack([-torch.ones(12), torch.ones(12)]))
        head.bias.copy_(torch.tensor([0.5, 0.0]))
    network = nn.Sequential(nn.Flatten(), body, head)
    classifier = Classifier(network, input_shape=(3, 2, 2), num_classes=2)
    data = ImageDataset(np.zeros((6, 2, 2, 3), np.uint8), np.zeros(6, np.int64))
    subject = attacked(classifier, data, tmp_path, epsilon=EPSILON)
    finding = NeuronImportance(k=4, fewest=1).run(subject)
    nothing, row = finding.data.model_dump(mode="json")["classes"]
    assert (nothing["tried"], nothing["images"]) == (0, 0)
    assert (row["tried"], row["images"]) == (6, 6)
    assert (row["spearman"], row["similarity"]) == (1.0, 1.0)
    assert row["important"] == row["sensitive"] == [11, 10, 9, 8]
    assert {flag.name for flag in finding.flags} == {"few targeted successes"}
    literal = NeuronImportance(k=4, fewest=1, substitution=1, ranking="borda").run(subject)
    assert (
        literal.data.model_dump(mode="json")["classes"][1]["spearman"],
        literal.data.model_dump(mode="json")["classes"][1]["similarity"],
    ) == (1.0, 1.0)
    assert literal.data.model_dump(mode="json")["random_similarity"][0] >= 0.5


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_nothing(subject: Subject, batch_size: int) -> None:
    analysis = NeuronImportance(images=8, classes=2, k=6, fewest=1)
    whole, parts = analysis.run(subject), analysis.run(replace(subject, batch_size=batch_size))
    for one, other in zip(
        whole.data.model_dump(mode="json")["classes"], parts.data.model_dump(mode="json")["classes"], strict=True
    ):
        assert one["images"] == other["images"]
        assert one["important"] == other["important"]
        assert one["spearman"] == pytest.approx(other["spearman"], abs=1e-9)
        assert one["similarity"] == pytest.approx(other["similarity"], abs=1e-9)


def test_few_successes_are_flagged(subject: Subject) -> None:
    finding = NeuronImportance(images=6, fewest=1000).run(subject)
    names = [flag.name for flag in finding.flags]
    assert "few targeted successes" in names
    assert "5 of 5 classes have fewer than 1000" in finding.flags[0].evidence
    assert measures(finding)[0].value is None


def test_features_that_never_move_are_no_agreement(subject: Subject) -> None:
    """Six of eight channels are dead: 54 of 72 features are always zero, in both rankings."""
    with torch.no_grad():
        sequence(subject.classifier)[1].bias[:6] = -100
    analysis = NeuronImportance(images=15, k=30, fewest=1)
    seen = 0
    for row in analysis.run(subject).data.model_dump(mode="json")["classes"]:
        if row["images"]:
            seen += 1
            found = measured_alone(subject, row["class"])
            assert (found.sigma == 0).sum() >= 54
            assert row["spearman"] == pytest.approx(stats.spearmanr(found.sigma, found.phi).statistic)
            # At least 12 of the 30 are drawn from 54 that are alike: by index all of them would be in both.
            assert row["shared"] < 18 / 30 + 12 / 30 * 0.6
    assert seen


def test_a_result_from_before_says_so(subject: Subject) -> None:
    finding = NeuronImportance(images=8, k=6).run(subject)
    assert "An older result" not in typed(section_of(finding).blocks[0], Text).text
    data = finding.data.model_dump(mode="json")
    for row in data["classes"]:
        del row["shared"]
    stored = Finding.model_validate({**finding.model_dump(), "data": data | {"tied": 0.3}, "revision": 0})
    section = section_of(stored)
    said = typed(section.blocks[0], Text)
    assert said.text.startswith("An older result. Features with equal values were ranked by index")
    assert said.tone == "warning"
    assert section.blocks[1:-1] == section_of(finding).blocks[:-1]
    shares = [row["shared"] for row in typed(section.blocks[-1], Table).rows]
    today = typed(section_of(finding).blocks[-1], Table)
    assert shares == pytest.approx([row["shared"] for row in today.rows])


def test_nothing_reached_is_declined(classifier: Classifier, tmp_path: Path) -> None:
    subject = attacked(classifier, labelled(classifier, n=6, wrong=0), tmp_path, epsilon=1e-6)
    assert "reached no target class" in measured(NeuronImportance(images=3), subject).declined


def test_a_network_without_a_linear_head_is_declined(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 6), nn.Flatten())
    classifier = Classifier(network, input_shape=SHAPE, num_classes=4)
    data = ImageDataset(random_images(4), np.zeros(4, np.int64))
    assert "no linear layer" in measured(NeuronImportance(), attacked(classifier, data, tmp_path)).declined


def test_the_section_builds_from_stored_data_and_draws(subject: Subject) -> None:
    heard: list[float] = []
    watched = replace(subject, on_progress=lambda share, _: heard.append(share))
    finding = NeuronImportance(images=8, k=6).run(watched)
    assert heard == sorted(heard)
    assert heard[-1] <= 1
    again = Finding.model_validate_json(finding.model_dump_json())
    section = section_of(again)
    figures = [block for block in section.blocks if block.type == "figure"]
    assert len(figures) == 2
    for figure in figures:
        assert draw(figure).to_dict()["layer"]
    table = typed(section.blocks[-1], Table)
    for row, stored in zip(table.rows, finding.data.model_dump(mode="json")["classes"], strict=True):
        if stored["images"]:
            assert row["shared"] == len(set(stored["important"]) & set(stored["sensitive"])) / 6
