"""Suppression curves against networks that have the suppression built in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.attacking.criterion import Misclassification
from auditor.attacking.threat import Norm, ThreatModel
from auditor.kit.statistics.estimate import Estimate, Rate
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.neural.analyses.suppression import Suppression
from auditor.neural.analysis import Finding, Subject, measured, section_of
from auditor.neural.ranking.sensitivity import LayerSensitivity
from auditor.neural.ranking.suppressed import most_sensitive, others
from auditor.neural.twins.stored import make_twins
from auditor.neural.twins.targeted import papers_pgd
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import attacked, plain
from tests.auditor.neural.probes.test_altered import with_scale
from tests.narrow import sequence
from tests.nets import SHAPE, labelled, random_images, small_classifier

SMALL: dict[str, Any] = {
    "betas": (1.0, 0.6, 0.0),
    "white_box_betas": (1.0, 0.6),
    "images": 20,
    "top": 0.25,
    "draws": 2,
    "multiple": 1.0,
}


@pytest.fixture
def classifier() -> Classifier:
    return small_classifier().double()


@pytest.fixture
def subject(classifier: Classifier, tmp_path: Path) -> Subject:
    return attacked(classifier, labelled(classifier, n=30), tmp_path, epsilon=0.05)


def activations_change(subject: Subject) -> np.ndarray:
    """Eq. 1 at the ReLU, image by image."""
    body = sequence(subject.classifier)[:3]
    sigma = np.zeros(8)
    for pair in subject.pairs:
        for x, x_adv in zip(pair.x.double(), pair.x_adv.double(), strict=True):
            clean, moved = (body(subject.classifier.normalize(image[None]))[0] for image in (x, x_adv))
            sigma += (clean - moved).abs().mean((1, 2)).numpy() / len(subject.pairs)
    return sigma


def accuracy(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    return float((classifier.logits(images.double()).argmax(1) == labels).double().mean())


def test_every_curve_equals_a_network_with_the_suppression_built_in(subject: Subject) -> None:
    analysis = Suppression(**SMALL)
    finding = analysis.run(subject)
    (layer,) = plain(finding)["layers"]
    assert layer["name"] == "2"
    assert layer["suppressed"] == np.argsort(-activations_change(subject))[:2].tolist()
    found = {(item["model"], item["images"], item["beta"]): item for item in plain(finding)["points"]}

    part = analysis._part(subject)
    assert len(part.ids) == 20
    images = subject.dataset.images(part.ids)
    labels = torch.from_numpy(subject.dataset.labels[part.ids])
    attack = papers_pgd(subject, 10)
    layers = analysis.sensitivity(subject)
    masks = {
        "A": [most_sensitive(layers, 0.25)["2"]],
        "B": [others(layers, 0.25, 0, number)["2"] for number in (0, 1)],
    }

    def twins(of: Classifier) -> Tensor:
        pairs = make_twins(subject, attack, Misclassification(labels), ids=part.ids, classifier=of)
        return torch.cat([pair.x_adv for pair in pairs])

    transferred = twins(subject.classifier)
    for model, choices in masks.items():
        for beta in SMALL["betas"]:
            changed = [with_scale(subject.classifier, torch.where(mask, beta, 1.0)) for mask in choices]
            clean = [accuracy(item, images, labels) for item in changed]
            moved = [accuracy(item, transferred, labels) for item in changed]
            assert found[model, "clean", beta]["value"] == pytest.approx(np.mean(clean), abs=1e-12)
            assert found[model, "transfer", beta]["value"] == pytest.approx(np.mean(moved), abs=1e-12)
            if beta in SMALL["white_box_betas"]:
                attacked_too = [accuracy(item, twins(item), labels) for item in changed]
                assert found[model, "white-box", beta]["value"] == pytest.approx(np.mean(attacked_too), abs=1e-12)
    unchanged = found["A", "white-box", 1.0]
    assert unchanged["value"] == found["A", "transfer", 1.0]["value"] == found["B", "white-box", 1.0]["value"]
    rate = Rate.count(round(20 * found["A", "clean", 0.6]["value"]), 20)
    assert (found["A", "clean", 0.6]["low"], found["A", "clean", 0.6]["high"]) == pytest.approx((rate.low, rate.high))
    assert {item["n"] for item in plain(finding)["points"]} == {20}
    spread = {item["value"] for item in plain(finding)["points"]}
    assert len(spread) > 4, "the curves move, so that the comparison means something"


def test_differences_are_paired(subject: Subject) -> None:
    analysis = Suppression(**SMALL)
    hits = list(analysis.measure(analysis._part(subject), papers_pgd(subject, 10), analysis.sensitivity(subject)))
    finding = analysis.run(subject)
    by = {(item.model, item.images, item.beta): item.right for item in hits}
    assert len(plain(finding)["differences"]) == 2 + 2 + 1  # clean and transfer at 0.6 and 0, white-box at 0.6
    for row in plain(finding)["differences"]:
        values = by["A", row["images"], row["beta"]] - by["B", row["images"], row["beta"]]
        assert {key: row[key] for key in ("value", "low", "high", "n")} == Estimate.of_differences(values).model_dump()


def layer_of(name: str, sensitivity: np.ndarray) -> LayerSensitivity:
    ratio = np.ones(len(sensitivity))
    return LayerSensitivity(
        name=name, kind="activation", type="ReLU", sensitivity=sensitivity, ratio=ratio, zero_share=0.0
    )


def test_the_control_never_has_a_sensitive_neuron_and_draws_differ() -> None:
    layers = [layer_of(f"relu{n}", np.random.default_rng(n).random(n)) for n in (2, 40, 64)]
    sensitive = most_sensitive(layers, 0.1)
    draws = [others(layers, 0.1, 0, number) for number in range(3)]
    for layer in layers:
        for masks in draws:
            assert int(masks[layer.name].sum()) == int(sensitive[layer.name].sum())
            assert not (masks[layer.name] & sensitive[layer.name]).any()
    assert not torch.equal(draws[0]["relu64"], draws[1]["relu64"])
    assert torch.equal(draws[1]["relu64"], others(layers, 0.1, 0, 1)["relu64"])
    assert not torch.equal(draws[1]["relu64"], others(layers, 0.1, 1, 1)["relu64"])


def test_the_control_takes_neurons_that_never_change_last() -> None:
    moving = np.zeros(40)
    moving[[3, 5, 8, 13, 21, 34, 35, 36, 37]] = np.arange(1.0, 10.0)
    layer = layer_of("relu", moving)
    for number in range(20):
        chosen = others([layer], 0.1, 0, number)["relu"].nonzero().flatten().tolist()
        assert len(chosen) == 4
        assert set(chosen) <= {3, 5, 8, 13, 21}, "neither sensitive (34 to 37) nor dead"
    wide = others([layer], 0.2, 0, 0)["relu"].nonzero().flatten().tolist()
    assert len(wide) == 8
    assert 3 in wide, "the one other that changes, then dead ones"


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_nothing(subject: Subject, batch_size: int) -> None:
    analysis = Suppression(**SMALL | {"images": 8})
    assert analysis.run(subject).data == analysis.run(replace(subject, batch_size=batch_size)).data


def test_layers_may_be_named_and_must_exist(subject: Subject) -> None:
    named = Suppression(**SMALL | {"layers": "0", "images": 4}).run(subject)
    assert [layer["name"] for layer in plain(named)["layers"]] == ["0"]
    assert "no layer nonsense" in measured(Suppression(layers=("nonsense",)), subject).declined


def test_networks_and_norms_that_do_not_allow_it(subject: Subject, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 6), nn.ReLU(), nn.Linear(6, 3))
    data = ImageDataset(random_images(4), np.zeros(4, np.int64))
    flat = attacked(Classifier(network, input_shape=SHAPE, num_classes=3), data, tmp_path)
    assert "no activation after a convolution" in measured(Suppression(), flat).declined
    in_l0 = replace(subject, threat=ThreatModel(norm=Norm.L0, epsilon=3))
    assert "does not work in L0" in measured(Suppression(), in_l0).declined


def test_no_difference_is_said(classifier: Classifier, tmp_path: Path) -> None:
    """Everything after the ReLU ignores it: suppression cannot matter."""
    with torch.no_grad():
        sequence(classifier)[5].weight.zero_()
    subject = attacked(classifier, labelled(classifier, n=12, wrong=0), tmp_path)
    finding = Suppression(**SMALL | {"white_box_betas": ()}).run(subject)
    assert [flag.name for flag in finding.flags] == ["sensitive neurons not shown to matter more"]
    assert {row["value"] for row in plain(finding)["differences"]} == {0.0}


def test_the_section_builds_from_stored_data_and_draws(subject: Subject) -> None:
    heard: list[float] = []
    before = sorted(subject.folder.rglob("*"))
    finding = Suppression(**SMALL).run(replace(subject, on_progress=lambda share, _: heard.append(share)))
    assert sorted(subject.folder.rglob("*")) == before
    assert heard == sorted(heard)
    assert heard[-1] == 1
    section = section_of(Finding.model_validate_json(finding.model_dump_json()))
    figures = [block for block in section.blocks if block.type == "figure"]
    assert [len(figure.rows) for figure in figures] == [6, 6 + 4]
    for figure in figures:
        assert draw(figure).to_dict()["layer"]
