"""Sensitivity ratios against depth, beside noise, against loops over images and neurons (eq. 2 and 11)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from auditor.models.classifier import Classifier
from auditor.neural.analyses.error_amplification import ErrorAmplification
from auditor.neural.analysis import Finding, Subject, measured, section_of
from auditor.neural.probes.matched_noise import matched_noise
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import Given, attacked, images_of, subject_of
from tests.narrow import sequence
from tests.nets import SHAPE, Linear, labelled, small_classifier


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    classifier = small_classifier().double()
    return attacked(classifier, labelled(classifier, n=15), tmp_path, epsilon=0.1)


def restated(classifier: Classifier, x: Tensor, twins: Tensor, upto: int, top: int) -> tuple[list[float], list[float]]:
    """Mean ratio of each image: over the neurons with the largest sigma, and over all."""
    body = sequence(classifier)[:upto]
    clean = body(classifier.normalize(x)).flatten(2) if upto < 6 else body(classifier.normalize(x))[:, :, None]
    moved = body(classifier.normalize(twins)).flatten(2) if upto < 6 else body(classifier.normalize(twins))[:, :, None]
    images, neurons, _ = clean.shape
    sigma = [sum(float((clean[i, m] - moved[i, m]).abs().mean()) for i in range(images)) for m in range(neurons)]
    sensitive = sorted(range(neurons), key=lambda m: (-sigma[m], m))[:top]

    def ratio(i: int, m: int) -> float:
        norm = float(clean[i, m].abs().sum())
        return float((clean[i, m] - moved[i, m]).abs().sum()) / norm if norm else 1.0

    return (
        [float(np.mean([ratio(i, m) for m in sensitive])) for i in range(images)],
        [float(np.mean([ratio(i, m) for m in range(neurons)])) for i in range(images)],
    )


def test_every_layer_equals_the_restatement(subject: Subject) -> None:
    finding = ErrorAmplification(top=0.4).run(subject)
    x, x_adv = (images.double() for images in images_of(subject.pairs))
    noise = matched_noise(x.float(), x_adv.float(), subject.ids, subject.seed).double()
    for row, upto, top in zip(finding.data.model_dump()["layers"], (1, 2, 3, 6), (3, 3, 3, 2), strict=True):
        values = {}
        for key, twins in (("adversarial", x_adv), ("noise", noise)):
            values[key], values[f"{key}_all"] = restated(subject.classifier, x, twins, upto, top)
        values["difference"] = (np.array(values["adversarial"]) - values["noise"]).tolist()
        for key, images in values.items():
            interval = stats.ttest_1samp(images, 0).confidence_interval()
            found = row[key]
            assert found["n"] == 15
            expected = (np.mean(images), interval.low, interval.high)
            assert (found["value"], found["low"], found["high"]) == pytest.approx(expected, rel=1e-8)
    sizes = finding.data.model_dump()["size"]
    assert sizes["adversarial"] == pytest.approx((x_adv - x).flatten(1).norm(dim=1).mean().item())
    assert sizes["noise"] == pytest.approx(sizes["adversarial"], rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_nothing(subject: Subject, batch_size: int) -> None:
    x, x_adv = images_of(subject.pairs)
    whole, parts = (
        ErrorAmplification().run(replace(subject, pairs=Given(x, x_adv, size))).data.model_dump()["layers"]
        for size in (15, batch_size)
    )
    for one, other in zip(whole, parts, strict=True):
        for key in ("adversarial", "noise", "adversarial_all", "noise_all", "difference"):
            assert one[key] == pytest.approx(other[key], rel=1e-9)


def test_a_linear_network_amplifies_nothing_and_noise_as_much() -> None:
    """Every layer doubles what comes in: the ratio stays the same at all depths; here the 'attack' is noise itself."""
    layers = [nn.Conv2d(3, 3, 1, bias=False) for _ in range(3)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(2 * torch.eye(3).view(3, 3, 1, 1))
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(108, 2))
    classifier = Classifier(network, input_shape=SHAPE, num_classes=2)
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(12, *SHAPE, generator=generator)
    x_adv = (x + 0.05 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    finding = ErrorAmplification(top=1.0).run(subject_of(classifier, Given(x, x_adv, 5)))
    values = [row["adversarial"]["value"] for row in finding.data.model_dump()["layers"][:3]]
    change, norm = (x_adv - x).abs().sum((2, 3)), x.abs().sum((2, 3))
    assert values == pytest.approx([float((change / norm).mean())] * 3, rel=1e-5)
    assert [flag.name for flag in finding.flags] == ["attack not shown to beat noise"]


def test_nothing_to_look_at_is_declined() -> None:
    classifier = Classifier(Linear(torch.ones(SHAPE), 0.0), input_shape=SHAPE, num_classes=2)
    x = torch.rand(2, *SHAPE)
    assert "no convolution" in measured(ErrorAmplification(), subject_of(classifier, Given(x, x, 2))).declined


def test_one_image_and_dead_neurons_have_values_but_no_interval(subject: Subject) -> None:
    with torch.no_grad():
        sequence(subject.classifier)[1].bias.fill_(-100)  # nothing passes the ReLU
    x = torch.rand(1, *SHAPE)
    finding = ErrorAmplification().run(replace(subject, pairs=Given(x, (x + 0.1).clamp(0, 1), 1)))
    relu = finding.data.model_dump()["layers"][2]
    assert relu["zero_share"] == 1
    assert relu["adversarial"] == {"value": 1.0, "low": None, "high": None, "n": 1}
    assert finding.flags == ()
    for figure in (block for block in section_of(finding).blocks if block.type == "figure"):
        draw(figure).to_dict()


def test_the_section_builds_from_stored_data_and_draws(subject: Subject) -> None:
    heard: list[float] = []
    finding = ErrorAmplification().run(replace(subject, on_progress=lambda share, _: heard.append(share)))
    assert heard == sorted(heard)
    assert heard[-1] == 1
    section = section_of(Finding.model_validate_json(finding.model_dump_json()))
    figures = [block for block in section.blocks if block.type == "figure"]
    assert [figure.title.rpartition(": ")[2] for figure in figures] == ["convolutions", "normalizations", "activations"]
    for figure in figures:
        assert len(figure.rows) == 4
        assert draw(figure).to_dict()["layer"]
    measures = next(block for block in section.blocks if block.type == "measures")
    assert measures.items[0].value == finding.data.model_dump()["layers"][0]["adversarial"]["value"]
