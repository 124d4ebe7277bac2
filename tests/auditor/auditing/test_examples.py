"""Kept adversarial images: the shards hold what the attack made, whatever the batch size; the export says what made it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.auditing import audit, examples
from auditor.auditing.examples import Examples
from auditor.auditing.result import AuditResult
from auditor.auditing.sample_browser import Fate, fates, matching, pictures
from auditor.auditing.spec import AuditSpec
from auditor.kit.errors import NotFoundError
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.report.html import render
from tests.nets import labelled, small_classifier


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return small_classifier()


@pytest.fixture(scope="module")
def data(classifier: Classifier) -> ImageDataset:
    return labelled(classifier, n=60, wrong=8)


def audited(classifier: Classifier, data: ImageDataset, folder: Path, **more: object) -> AuditResult:
    spec = {
        "threats": [{"epsilon": 0.04}, {"norm": "l2", "epsilon": 0.4}], "samples": 50, "curve": [], "curve_to_zero": False,
        "attacks": [{"kind": "fgsm"}, {"kind": "pgd"}], "analyses": [], "checks": [], "gallery": 0, "examples": 30,
    }  # fmt: skip
    folder.mkdir()
    return audit.run(AuditSpec.load(spec | more), classifier, data, examples=folder)


def files(folder: Path) -> dict[str, Path]:
    return {file.name: file for file in folder.iterdir()}


@pytest.fixture(params=[1 << 30, 4 * 108 * 7], ids=["one shard", "seven images a shard"])
def kept(
    request: pytest.FixtureRequest, classifier: Classifier, data: ImageDataset, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[AuditResult, Path]:  # fmt: skip
    monkeypatch.setattr(examples, "SHARD_BYTES", request.param)
    return audited(classifier, data, tmp_path / "kept"), tmp_path / "kept"


def test_every_kept_image_is_the_one_that_the_record_describes(
    kept: tuple[AuditResult, Path], classifier: Classifier, data: ImageDataset
) -> None:
    result, folder = kept
    for index, record in enumerate(result.records):
        store = Examples(result, index, files(folder))
        assert store.positions.tolist() == [position for position in record.positions if position < 30]
        assert len(store.positions) > 15
        for position in store.positions.tolist():
            image = store.image(position)
            assert image is not None
            x_adv = torch.from_numpy(image)[None]
            place = record.positions.index(position)
            logits = classifier(x_adv)
            assert int(logits.argmax()) == record.prediction[place]
            assert float(logits.softmax(1).max()) == pytest.approx(record.confidence[place], abs=1e-5)
            delta = (x_adv[0] - data.images([result.samples.ids[position]])[0]).flatten().double().numpy()
            length = np.linalg.norm(delta, {"linf": np.inf, "l2": 2}[record.threat.norm])
            assert length == pytest.approx(record.distance[place], rel=1e-5)
        unkept = set(range(50)) - set(store.positions.tolist())
        assert all(store.image(position) is None for position in unkept)


def test_the_files_do_not_depend_on_the_batch_size(classifier: Classifier, data: ImageDataset, tmp_path: Path) -> None:
    double = small_classifier().double()
    audited(double, data, tmp_path / "one", batch_size=16)
    audited(double, data, tmp_path / "other", batch_size=5)
    one, other = files(tmp_path / "one"), files(tmp_path / "other")
    assert one.keys() == other.keys()
    for name in one:
        assert np.allclose(np.load(one[name]), np.load(other[name]), atol=1e-6)


def test_none_and_all_and_a_missing_file(classifier: Classifier, data: ImageDataset, tmp_path: Path) -> None:
    result = audited(classifier, data, tmp_path / "none", examples=0)
    assert not files(tmp_path / "none")
    assert not len(Examples(result, 0, {}).positions)
    result = audited(classifier, data, tmp_path / "all", examples=None)
    assert Examples(result, 0, files(tmp_path / "all")).positions.tolist() == result.records[0].positions
    with pytest.raises(NotFoundError, match="were not kept"):
        Examples(result, 0, {})


def test_the_export_opens_with_numpy_and_says_what_made_it(
    kept: tuple[AuditResult, Path], classifier: Classifier, data: ImageDataset, tmp_path: Path
) -> None:
    result, folder = kept
    Examples(result, 1, files(folder)).export(data, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as out:
        assert out["x_adv"].dtype == np.float32
        assert np.array_equal(out["x"], data.images(out["id"]).numpy())
        assert np.array_equal(out["label"], data.labels[out["id"]])
        predicted = classifier(torch.from_numpy(out["x_adv"])).argmax(1).numpy()
        assert np.array_equal(out["prediction"], predicted)
        assert np.array_equal(out["clean_prediction"], classifier(torch.from_numpy(out["x"])).argmax(1).numpy())
        assert np.array_equal(out["fooled"], predicted != out["label"])
        assert np.allclose(np.abs(out["x_adv"] - out["x"]).max((1, 2, 3)), out["distance"], rtol=1e-5)
        about = json.loads(str(out["about"]))
    assert about["attack"]["kind"] == "pgd"
    assert about["threat"] == {"norm": "linf", "epsilon": 0.04}
    assert about["goal"] == str(result.spec.goal)


def test_the_browser_filters_by_outcome_and_class(kept: tuple[AuditResult, Path], data: ImageDataset) -> None:
    result, folder = kept
    record = result.records[1]
    found = fates(result, record)
    for fate in Fate:
        chosen = matching(result, record, fate)
        assert chosen.tolist() == [place for place, item in enumerate(found) if item is fate]
    assert found.count(Fate.FOOLED) == sum(record.fooled)
    assert found.count(Fate.RESISTED) == len(record.fooled) - sum(record.fooled)
    assert found.count(Fate.WRONG_BEFORE) == 50 - int(result.samples.correct.sum()) > 0
    assert matching(result, record).tolist() == list(range(50))
    third = matching(result, record, label=3)
    assert third.tolist() == [place for place, label in enumerate(result.samples.labels) if label == 3]

    store = Examples(result, 1, files(folder))
    rows = pictures(store, data, np.arange(50))
    for position, row in enumerate(rows):
        assert f"#{result.samples.ids[position]}: " in row.title
        assert found[position] in row.title
        assert len(row.images) == (3 if position in store.positions else 1)
        if position >= 30 and position in record.positions:
            assert "was not kept" in row.title


def test_a_result_stored_before_checks_and_examples_still_opens() -> None:
    """The file is the output of revision 01ad84a, but for its pictures."""
    text = (Path(__file__).parents[1] / "stored" / "result-01ad84a.json").read_text()
    result, raw = AuditResult.model_validate_json(text), json.loads(text)
    for record, old in zip(result.records, raw["records"], strict=True):
        assert record.fooled == old["fooled"]
        assert [value is not None for value in record.closest] == old["fooled"]
    assert (result.spec.checks, result.spec.examples, result.spec.curve_to_zero) == ((), 0, False)
    assert not len(Examples(result, 0, {}).positions)
    threat = result.spec.threats[0]
    fooled = {p for record in raw["records"] for p, f in zip(record["positions"], record["fooled"], strict=True)
              if f and record["threat"]["epsilon"] <= threat.epsilon}  # fmt: skip
    assert set(np.flatnonzero(result.fooled(threat)).tolist()) == fooled
    assert "Robust" in render(result)
