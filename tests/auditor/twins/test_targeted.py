"""Twins driven to a target class: which samples are tried, which come back, and what is left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.classifier import Classifier
from auditor.dataset import ImageDataset
from auditor.errors import EvaluationError
from auditor.threat import Norm, ThreatModel
from auditor.twins.targeted import aimed_at, papers_pgd, successful_twins, target_classes
from tests.auditor.analyses.given import attacked
from tests.nets import labelled, small_classifier

EPSILON = 0.15


@pytest.fixture
def classifier() -> Classifier:
    return small_classifier()


@pytest.fixture
def data(classifier: Classifier) -> ImageDataset:
    return labelled(classifier, n=20)


def test_only_the_successes_come_back_and_no_file_stays(
    classifier: Classifier, data: ImageDataset, tmp_path: Path
) -> None:
    subject = attacked(classifier, data, tmp_path, epsilon=EPSILON)
    before = sorted(tmp_path.rglob("*"))
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
    whole = list(successful_twins(subject, papers_pgd(subject, 10), target, ids))
    assert torch.allclose(
        torch.cat([pair.x_adv for pair in whole]), torch.cat([pair.x_adv for pair in pairs]), atol=1e-5
    )
    assert sorted(tmp_path.rglob("*")) == before


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
