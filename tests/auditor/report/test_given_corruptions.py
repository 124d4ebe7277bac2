"""Accuracy by the corruption that the images of a data set carry, against a count by hand."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from auditor.auditing.audit import run
from auditor.auditing.result import AuditResult
from auditor.auditing.spec import AuditSpec
from auditor.data.intake.datasets import take_dataset
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.report.html import render
from auditor.report.section import document
from auditor.report.sections.given_corruptions import given_rows
from tests.nets import small_cnn

SPEC = {"attacks": [{"kind": "fgsm"}], "analyses": [], "checks": [], "curve": [], "samples": None}


def published(folder: Path) -> ImageDataset:
    """Two corruptions of eight images at five severities, as CIFAR-10-C's files hold them."""
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    with zipfile.ZipFile(folder / "c.zip", "w") as archive:
        for name, content in (
            ("fog", np.concatenate([images // level for level in range(1, 6)])),
            ("snow", np.concatenate([255 - images // level for level in range(1, 6)])),
            ("labels", np.tile(np.arange(8) % 5, 5)),
        ):
            np.save(stream := io.BytesIO(), content)
            archive.writestr(f"C/{name}.npy", stream.getvalue())
    take_dataset(folder / "c.zip", "c.zip", folder / "stored")
    return ImageDataset.open(folder / "stored")


def test_accuracy_by_corruption_and_severity(tmp_path: Path) -> None:
    data = published(tmp_path)
    torch.manual_seed(0)
    classifier = Classifier(small_cnn(shape=(3, 8, 8)), input_shape=(3, 8, 8), num_classes=5)
    result = AuditResult.load(run(AuditSpec.load(SPEC), classifier, data).model_dump_json())
    rows = {row["corruption"]: row for row in given_rows(result)}
    assert list(rows) == ["fog", "snow"]
    with torch.no_grad():
        right = classifier.logits(data.images(range(80))).argmax(1).numpy() == data.labels
    assert 0 < right.sum() < 80
    for number, name in enumerate(("fog", "snow")):
        levels = right[40 * number : 40 * number + 40].reshape(5, 8)
        for severity in range(1, 6):
            hits = int(levels[severity - 1].sum())
            assert str(rows[name][str(severity)]).startswith(f"{hits / 8:.1%}".replace("%", " %"))
            assert "(n = 8)" in str(rows[name][str(severity)])
        assert rows[name]["mean"] == levels.mean()
    assert "Corruptions of the data set" in [section.title for section in document(result)]
    assert "mean corruption accuracy" in render(result)


def test_a_part_of_the_samples_keeps_its_groups(tmp_path: Path) -> None:
    data = published(tmp_path)
    classifier = Classifier(small_cnn(shape=(3, 8, 8)), input_shape=(3, 8, 8), num_classes=5)
    result = run(AuditSpec.load(SPEC | {"samples": 13}), classifier, data)
    assert data.group_of is not None
    assert result.samples.group_of == data.group_of[result.samples.ids].tolist()
    assert result.samples.group_of is not None
    assert sum(str(cell).count("n = ") for row in given_rows(result) for cell in row.values()) == len(
        set(result.samples.group_of or ())
    )
