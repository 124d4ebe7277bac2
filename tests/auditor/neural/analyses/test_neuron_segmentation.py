"""Where neurons look: thresholds, overlaps and pictures against plain loops and numpy."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import nn

from auditor.kit.statistics.estimate import Estimate
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.neural.analyses.neuron_segmentation import NeuronSegmentation
from auditor.neural.analysis import Finding, Subject, measured, section_of
from auditor.neural.probes.looking import Looking
from auditor.neural.probes.regions import darkened, overlaps
from tests.auditor.neural.analyses.given import Given, attacked, images_of, subject_of
from tests.narrow import sequence, typed
from tests.nets import SHAPE, labelled, random_images, small_classifier


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return attacked(small_classifier().double(), labelled(small_classifier(), n=20), tmp_path, epsilon=0.1)


def maps_of(subject: Subject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ReLU maps (N, 8, 6, 6) of the images and of their twins, and the sensitivity of each channel, in float64."""
    body = sequence(subject.classifier)[:3]
    both = (body(subject.classifier.normalize(images.double())) for images in images_of(subject.pairs))
    clean, moved = (maps.numpy() for maps in both)
    return clean, moved, np.abs(clean - moved).mean((0, 2, 3))


def test_neurons_thresholds_and_overlaps_equal_the_restatement(subject: Subject) -> None:
    finding = NeuronSegmentation(neurons=2, share=0.1).run(subject)
    clean, moved, sigma = maps_of(subject)
    order = np.argsort(-sigma, kind="stable")
    data = finding.data.model_dump()
    rows = data["rows"]
    assert data["layer"] == "2"
    assert [row["neuron"] for row in rows if row["group"] == "most"] == order[:2].tolist()
    assert [row["neuron"] for row in rows if row["group"] == "least"] == order[::-1][:2].tolist()
    assert {row["neuron"] for row in rows if row["group"] == "random"} <= set(order[2:6].tolist())
    assert len(rows) == 6
    by_image: dict[str, list[list[float]]] = {}
    for row in rows:
        m = row["neuron"]
        assert row["sensitivity"] == pytest.approx(sigma[m], rel=1e-9)
        ascending = np.sort(clean[:, m].ravel())
        assert (clean[:, m] > row["threshold"]).sum() == round(0.1 * len(ascending))
        values = []
        for i in range(20):
            before = {(h, w) for h in range(6) for w in range(6) if clean[i, m, h, w] > row["threshold"]}
            after = {(h, w) for h in range(6) for w in range(6) if moved[i, m, h, w] > row["threshold"]}
            values.append(len(before & after) / len(before | after) if before | after else np.nan)
        assert row["overlap"] == pytest.approx(Estimate.of_rate(np.array(values)).model_dump(), rel=1e-9)
        by_image.setdefault(row["group"], []).append(values)
    for group, rows_of in by_image.items():
        columns = zip(*rows_of, strict=True)
        together = [np.mean([v for v in column if not np.isnan(v)] or [np.nan]) for column in columns]
        assert data["overlap"][group] == pytest.approx(Estimate.of_rate(np.array(together)).model_dump(), rel=1e-9)


def test_the_pictures_are_the_images_that_excite_the_neuron_most(subject: Subject) -> None:
    finding = NeuronSegmentation(neurons=1, shown=2, share=0.1).run(subject)
    clean, _, _ = maps_of(subject)
    most, least, random = finding.data.model_dump()["rows"]
    assert random["pictures"] == ()
    for row in (most, least):
        strongest = np.argsort(-clean[:, row["neuron"]].max((1, 2)), kind="stable")[:2]
        captions = [item["caption"] for item in row["pictures"]]
        assert captions == [f"{what} #{i}" for i in strongest for what in ("clean", "adversarial")]
    shown = Pillow.open(io.BytesIO(base64.b64decode(most["pictures"][0]["data"])))
    index = int(np.argmax(clean[:, most["neuron"]].max((1, 2))))
    image = subject.dataset.images([index])[0]
    looked_at = clean[index, most["neuron"]] > most["threshold"]  # maps are as large as the images here
    expected = np.where(looked_at, 1.0, 0.2) * image.numpy()
    pixels = np.asarray(shown)[::19, ::19].transpose(2, 0, 1)[:, :6, :6] / 255  # 6 pixels enlarged 19 times
    assert np.abs(pixels - expected).max() <= 0.5 / 255 + 1e-6
    assert 0 < looked_at.sum() < 36


def test_a_coarse_map_is_enlarged_smoothly() -> None:
    x = torch.ones(3, 4, 4)
    shown = darkened(x, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 0.5)
    # Bilinear, pixel centres: along a side 1, 0.75, 0.25, 0; above 0.5 are 1, 0.75 and 0.75 * 0.75 = 0.5625.
    bright = torch.zeros(4, 4, dtype=torch.bool)
    bright[:2, :2] = True
    assert torch.equal(shown, torch.where(bright, 1.0, 0.2).expand(3, 4, 4))


def test_overlaps_by_hand() -> None:
    clean = torch.tensor([[[[1.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]]]])
    moved = torch.tensor([[[[0.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]]]])
    found = overlaps(clean, moved, np.array([0.5, 0.5]))
    assert found[0, 0] == 1 / 3
    assert np.isnan(found[0, 1])


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_nothing(subject: Subject, batch_size: int) -> None:
    x, x_adv = images_of(subject.pairs)
    whole, parts = (
        NeuronSegmentation(neurons=2, images=9).run(replace(subject, pairs=Given(x, x_adv, size))).data.model_dump()
        for size in (20, batch_size)
    )
    assert whole["images"] == parts["images"] == 9
    for one, other in zip(whole["rows"], parts["rows"], strict=True):
        assert one["pictures"] == other["pictures"]
        assert one["overlap"] == pytest.approx(other["overlap"])


def test_the_default_layer_is_the_last_activation_with_fine_maps() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2),
    )  # fmt: skip
    classifier = Classifier(network, input_shape=(1, 16, 16), num_classes=2)
    x = torch.rand(3, 1, 16, 16)
    pairs = Given(x, (x + 0.1).clamp(0, 1), 2)
    assert NeuronSegmentation().find(subject_of(classifier, pairs)).layer == "4"  # 16, then 8, then 4 pixels
    assert NeuronSegmentation(layer="0").find(subject_of(classifier, pairs)).size == (16, 16)
    assert "no layer 9 with maps" in measured(NeuronSegmentation(layer="9"), subject_of(classifier, pairs)).declined


def test_networks_that_do_not_allow_it(subject: Subject, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    data = ImageDataset(random_images(4), np.zeros(4, np.int64))
    (tmp_path / "flat").mkdir()
    flat = attacked(Classifier(network, input_shape=SHAPE, num_classes=3), data, tmp_path / "flat")
    assert "no layer with maps" in measured(NeuronSegmentation(), flat).declined
    with torch.no_grad():
        sequence(subject.classifier)[1].bias[1:] = -100
    assert "fewer than two neurons change" in measured(NeuronSegmentation(), subject).declined


def test_dead_neurons_are_not_the_least_sensitive_ones(subject: Subject) -> None:
    with torch.no_grad():
        sequence(subject.classifier)[1].bias[:4] = -100
    rows = NeuronSegmentation(neurons=8).run(subject).data.model_dump()["rows"]
    assert {row["neuron"] for row in rows} == {4, 5, 6, 7}
    assert [row["group"] for row in rows] == ["most", "most", "least", "least"]


def test_the_section_builds_from_stored_data_and_is_small(subject: Subject) -> None:
    heard: list[float] = []
    finding = NeuronSegmentation().run(replace(subject, on_progress=lambda share, _: heard.append(share)))
    assert heard == sorted(heard)
    assert heard[-1] == 1
    stored = finding.model_dump_json()
    assert len(stored) < 300_000
    section = section_of(Finding.model_validate_json(stored))
    most, least = (block for block in section.blocks if block.type == "images")
    assert len(most.rows) == len(least.rows) == 3
    assert {len(row.images) for row in (*most.rows, *least.rows)} == {6}
    measures = next(block for block in section.blocks if block.type == "measures")
    assert [item.value for item in measures.items] == [
        item.value for item in typed(finding.data, Looking).overlap.values()
    ]
