"""Sensitivity at several radii against loops over images and neurons (eq. 1, 2 and 11)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from auditor.attacking.attack import Attack
from auditor.attacking.criterion import Misclassification
from auditor.attacking.threat import Norm, ThreatModel
from auditor.models.classifier import Classifier
from auditor.neural.analyses import sensitivity_by_epsilon
from auditor.neural.analyses.sensitivity_by_epsilon import ByEpsilon, SensitivityByEpsilon
from auditor.neural.analysis import Finding, Pair, Subject, measured, section_of
from auditor.neural.twins.radii import at_radii
from auditor.neural.twins.stored import make_twins
from auditor.neural.twins.targeted import papers_pgd
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import attacked, images_of
from tests.narrow import sequence, typed
from tests.nets import SHAPE, labelled, small_classifier


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return attacked(small_classifier().double(), labelled(small_classifier(), n=20), tmp_path, epsilon=0.1)


def per_image(classifier: Classifier, layer: int, x: Tensor, x_adv: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """|change| and ratio of each image and neuron, (N, M) each."""
    body = sequence(classifier)[: layer + 1]
    sigma, ratio = [], []
    for one, two in zip(x.double(), x_adv.double(), strict=True):
        size = 36 if layer < 5 else 1
        clean, moved = (body(classifier.normalize(image[None]))[0].reshape(-1, size) for image in (one, two))
        sigma.append((clean - moved).abs().mean(1).numpy())
        norm = clean.abs().sum(1)
        ratio.append(torch.where(norm > 0, (clean - moved).abs().sum(1) / norm, 1.0).numpy())
    return np.array(sigma), np.array(ratio)


def test_every_layer_and_radius_equals_the_restatement(subject: Subject) -> None:
    before = sorted(subject.folder.rglob("*"))
    finding = SensitivityByEpsilon(multiples="1+0.25", top=0.4, images=12).run(subject)
    assert sorted(subject.folder.rglob("*")) == before
    assert typed(finding.data, ByEpsilon).epsilons == (0.025, 0.1)
    assert finding.data.model_dump(mode="json")["images"] == 12
    own = images_of(subject.pairs)
    chosen = samples_of(subject, 12)
    labels = torch.from_numpy(subject.dataset.labels[chosen])
    for i, epsilon in enumerate((0.025, 0.1)):
        twins = make_twins(
            subject, papers_pgd(subject, 10), Misclassification(labels), threat=ThreatModel(epsilon=epsilon), ids=chosen
        )
        x, x_adv = images_of(twins)
        for row, layer, top in zip(
            finding.data.model_dump(mode="json")["layers"], (0, 1, 2, 5), (3, 3, 3, 2), strict=True
        ):
            sensitive = np.argsort(-per_image(subject.classifier, layer, *own)[0].mean(0), kind="stable")[:top]
            sigma, ratio = per_image(subject.classifier, layer, x, x_adv)
            for key, values in (("sensitivity", sigma), ("ratio", ratio)):
                for name, images in ((key, values[:, sensitive].mean(1)), (f"{key}_all", values.mean(1))):
                    interval = stats.ttest_1samp(images, 0).confidence_interval()
                    found = row["points"][i][name]
                    assert found["n"] == 12
                    expected = images.mean(), interval.low, interval.high
                    assert (found["value"], found["low"], found["high"]) == pytest.approx(expected, rel=1e-7)


def samples_of(subject: Subject, count: int) -> np.ndarray:
    """The samples that the analysis looks at, seen from the twins that it makes."""
    seen: list[np.ndarray] = []

    def watched(part: Subject, attack: Attack, multiples: Collection[float]) -> Iterator[tuple[float, Iterable[Pair]]]:
        for epsilon, twins in at_radii(part, attack, multiples):
            pairs = list(twins)
            seen.append(np.concatenate([pair.sample for pair in pairs]))
            yield epsilon, pairs

    with mock.patch.object(sensitivity_by_epsilon, "at_radii", watched):
        SensitivityByEpsilon(images=count, multiples=(0.5, 1.0), steps=1).run(subject)
    assert len(set(seen[0].tolist())) == count
    assert np.array_equal(seen[0], seen[1])
    return seen[0]


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_nothing(subject: Subject, batch_size: int) -> None:
    analysis = SensitivityByEpsilon(multiples=(0.5, 1.0), images=8, steps=3)
    whole, parts = (
        analysis.run(item).data.model_dump(mode="json")["layers"]
        for item in (subject, replace(subject, batch_size=batch_size))
    )
    for one, other in zip(whole, parts, strict=True):
        for a, b in zip(one["points"], other["points"], strict=True):
            for key in a:
                assert a[key] == pytest.approx(b[key], rel=1e-9)


def test_a_layer_that_saturates_is_flagged(tmp_path: Path) -> None:
    """A sign-like layer: whatever the size of the perturbation, its output hardly moves."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.Hardtanh(5.0, 6.0), nn.Linear(4, 3))
    torch.manual_seed(0)
    classifier = Classifier(network, input_shape=SHAPE, num_classes=3)
    subject = attacked(classifier, labelled(classifier, n=10, wrong=0), tmp_path, epsilon=0.02)
    (flag,) = SensitivityByEpsilon(steps=2).run(subject).flags
    assert flag.name == "sensitivity does not grow with epsilon"
    assert flag.evidence.startswith("2 of 3 layers, the first: 2,")  # the clamp, and the logits that see only it


def test_what_cannot_be_run(subject: Subject) -> None:
    assert "no layer nonsense" in measured(SensitivityByEpsilon(layers="nonsense"), subject).declined
    in_l0 = replace(subject, threat=ThreatModel(norm=Norm.L0, epsilon=3))
    assert "does not work in L0" in measured(SensitivityByEpsilon(), in_l0).declined
    with pytest.raises(ValueError, match="at least 2 items"):
        SensitivityByEpsilon(multiples=(1.0,))


def test_the_section_builds_from_stored_data_and_draws(subject: Subject) -> None:
    heard: list[float] = []
    watched = replace(subject, on_progress=lambda share, _: heard.append(share))
    finding = SensitivityByEpsilon(images=6, steps=3).run(watched)
    assert heard == sorted(heard)
    assert heard[-1] == 1
    section = section_of(Finding.model_validate_json(finding.model_dump_json()))
    figures = [block for block in section.blocks if block.type == "figure"]
    assert [{row["series"] for row in figure.rows} for figure in figures] == [{"0"}, {"2"}]
    for figure in figures:
        assert len(figure.rows) == 4
        assert draw(figure).to_dict()["layer"]
    assert len([block for block in section.blocks if block.type == "table"]) == 4
    named = SensitivityByEpsilon(images=6, steps=3, layers="1").run(subject)
    (figure,) = [block for block in section_of(named).blocks if block.type == "figure"]
    assert {row["series"] for row in figure.rows} == {"1"}
