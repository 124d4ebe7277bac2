"""Twins driven to a target class: which samples are tried, which come back, and what is left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.attacking.threat import Norm, ThreatModel
from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.neural.twins.targeted import aimed_at, driven_to_each, papers_pgd, successful_twins, target_classes
from tests.auditor.neural.analyses.given import attacked
from tests.nets import labelled, small_classifier

EPSILON = 0.15


@pytest.fixture
def classifier() -> Classifier:
    return small_classifier()


@pytest.fixture
def data(classifier: Classifier) -> ImageDataset:
    return labelled(classifier, n=20)


def test_only_the_successes_come_back_and_the_same_twins_are_made_once(
    classifier: Classifier, data: ImageDataset, tmp_path: Path
) -> None:
    subject = attacked(classifier, data, tmp_path, epsilon=EPSILON)
    target = 4  # some images get there, some do not
    ids = aimed_at(subject, target, 15)
    pairs = list(successful_twins(replace(subject, batch_size=4), papers_pgd(subject, 10), target, ids))
    reached = np.concatenate([pair.sample for pair in pairs])
    assert 0 < len(reached) < len(ids)
    assert set(reached.tolist()) <= set(ids.tolist())
    for pair in pairs:
        assert pair.fooled.all()
        assert (classifier.logits(pair.x_adv).argmax(1) == target).all()
        assert torch.equal(pair.x, data.images(pair.sample))
        assert (pair.x_adv - pair.x).abs().amax() <= EPSILON + 1e-6
        assert (pair.labels != target).all()

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    left = sorted(tmp_path.rglob("*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("auditor.neural.twins.targeted.make_twins", fail)
        heard: list[float] = []
        again = list(
            successful_twins(
                subject, papers_pgd(subject, 10), target, ids, on_progress=lambda share, _: heard.append(share)
            )
        )
        assert torch.equal(torch.cat([pair.x_adv for pair in again]), torch.cat([pair.x_adv for pair in pairs]))
        assert torch.equal(torch.cat([pair.labels for pair in again]), torch.cat([pair.labels for pair in pairs]))
        assert heard == [1.0]
        others = (
            (subject, 9, target, ids),
            (subject, 10, 3, ids[data.labels[ids] != 3]),
            (subject, 10, target, ids[1:]),
            (replace(subject, seed=1), 10, target, ids),
            (replace(subject, threat=ThreatModel(epsilon=0.1)), 10, target, ids),
        )
        for part, steps, goal, tried in others:
            with pytest.raises(AssertionError, match="made again"):
                list(successful_twins(part, papers_pgd(part, steps), goal, tried))
    assert sorted(tmp_path.rglob("*")) == left


def test_no_file_stays_beyond_what_may_be_kept(
    classifier: Classifier, data: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditor.neural.twins.targeted.KEPT_BYTES", 10_000)  # twins of 15 images: 6,608 bytes
    subject = attacked(classifier, data, tmp_path, epsilon=EPSILON)
    before = len(list(tmp_path.iterdir()))
    for target in (4, 3, 4):
        assert list(successful_twins(subject, papers_pgd(subject, 10), target, aimed_at(subject, target, 15)))
    assert len(list(tmp_path.iterdir())) == before + 1
    assert len(list(tmp_path.glob("targeted-*/*"))) == 2


def test_every_class_is_driven_to(classifier: Classifier, data: ImageDataset, tmp_path: Path) -> None:
    shares: list[float] = []
    subject = replace(
        attacked(classifier, data, tmp_path, epsilon=EPSILON), on_progress=lambda share, _: shares.append(share)
    )
    attack = papers_pgd(subject, 3)
    for place, driven in enumerate(driven_to_each(subject, attack, 3, 15)):
        assert driven.target == target_classes(subject, 3)[place]
        assert driven.name == classifier.class_name(driven.target)
        ids = aimed_at(subject, driven.target, 15)
        assert driven.tried == len(ids)
        reached = [pair.sample for pair in driven.pairs]
        assert [pair.sample.tolist() for pair in successful_twins(subject, attack, driven.target, ids)] == [
            sample.tolist() for sample in reached
        ]
    assert place == 2
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_samples_of_the_target_class_are_not_tried(classifier: Classifier, data: ImageDataset, tmp_path: Path) -> None:
    subject = attacked(classifier, data, tmp_path)
    for target in range(5):
        everyone = aimed_at(subject, target, 1000)
        assert everyone.tolist() == np.flatnonzero(data.labels != target).tolist()
        assert set(aimed_at(subject, target, 3).tolist()) <= set(everyone.tolist())
    assert list(successful_twins(subject, papers_pgd(subject, 2), 0, np.array([], np.int64))) == []


def test_classes_are_drawn_by_the_seed_where_there_are_too_many(
    classifier: Classifier, data: ImageDataset, tmp_path: Path
) -> None:
    subject = attacked(classifier, data, tmp_path)
    assert target_classes(subject, 10) == [0, 1, 2, 3, 4]
    some = {tuple(target_classes(replace(subject, seed=seed), 2)) for seed in range(20)}
    assert len(some) > 3
    assert all(len(set(item)) == 2 for item in some)


def test_a_norm_without_pgd_is_declined(classifier: Classifier, data: ImageDataset, tmp_path: Path) -> None:
    subject = replace(attacked(classifier, data, tmp_path), threat=ThreatModel(norm=Norm.L0, epsilon=3))
    with pytest.raises(EvaluationError, match="PGD, which does not work in L0"):
        papers_pgd(subject, 10)
    assert (
        papers_pgd(attacked(classifier, data, tmp_path), 16)
        .describe()
        .startswith("pgd:budget=fixed,steps=16,step_size=0.25")
    )
