"""Criteria and goals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.attacking.criterion import Misclassification, Targeted, TargetedMisclassification, Untargeted
from auditor.kit.errors import SpecError
from tests.narrow import typed

LOGITS = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, 1.0], [5.0, -2.0, 4.0]])
LABELS = torch.tensor([0, 1, 2])
IDS = [10, 11, 12]


def test_losses_are_cross_entropies_by_their_formula() -> None:
    lse = np.log(np.exp(LOGITS.numpy()).sum(1))
    assert np.allclose(Misclassification(LABELS).loss(LOGITS), lse - LOGITS[range(3), LABELS].numpy(), atol=1e-6)
    targets = torch.tensor([1, 2, 0])
    assert np.allclose(
        TargetedMisclassification(targets).loss(LOGITS), LOGITS[range(3), targets].numpy() - lse, atol=1e-6
    )


def test_success() -> None:
    assert Misclassification(LABELS).is_adversarial(LOGITS).tolist() == [False, False, True]
    assert TargetedMisclassification(torch.tensor([0, 2, 0])).is_adversarial(LOGITS).tolist() == [True, False, True]


def test_rows_are_picked_and_joined() -> None:
    criterion = Misclassification(LABELS)
    assert criterion[torch.tensor([2, 0])].labels.tolist() == [2, 0]
    assert criterion.joined(criterion[torch.tensor([True, False, False])]).labels.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("goal", "targets"),
    [
        (Targeted(rule="next"), [1, 2, 0]),
        (Targeted(rule="least_likely"), [2, 0, 1]),
        (Targeted(rule="class", target_class=1), [1, 1, 1]),
    ],
)
def test_targets_by_rule(goal: Targeted, targets: list[int]) -> None:
    criterion = goal.criterion(LABELS, LOGITS, IDS, 0)
    assert typed(criterion, TargetedMisclassification).targets.tolist() == targets


def test_the_least_likely_class_is_never_the_label() -> None:
    logits = torch.tensor([[-9.0, 0.0, 1.0]])
    criterion = Targeted(rule="least_likely").criterion(torch.tensor([0]), logits, [0], 0)
    assert typed(criterion, TargetedMisclassification).targets.tolist() == [1]


def test_random_targets_belong_to_the_sample_and_never_are_the_label() -> None:
    labels = torch.arange(200) % 10
    logits = torch.zeros(200, 10)
    goal = Targeted(rule="random")

    def targets(part: slice, seed: int) -> Tensor:
        criterion = goal.criterion(labels[part], logits[part], list(range(200))[part], seed)
        return typed(criterion, TargetedMisclassification).targets

    one = targets(slice(None), 0)
    assert not (one == labels).any()
    assert set(one.tolist()) == set(range(10))
    assert torch.equal(one[50:60], targets(slice(50, 60), 0))
    assert not torch.equal(one, targets(slice(None), 1))


def test_samples_of_the_target_class_cannot_be_attacked() -> None:
    assert Targeted(rule="class", target_class=1).keeps(LABELS).tolist() == [True, False, True]
    assert Targeted(rule="next").keeps(LABELS).all()
    assert Untargeted().keeps(LABELS).all()


def test_wrong_targets_are_named() -> None:
    with pytest.raises(ValueError, match="target_class is required for rule 'class'"):
        Targeted(rule="class")
    with pytest.raises(ValueError, match="not allowed for other rules"):
        Targeted(rule="next", target_class=1)
    with pytest.raises(SpecError, match=r"target_class 7 does not exist\. The model has classes 0 to 2"):
        Targeted(rule="class", target_class=7).criterion(LABELS, LOGITS, IDS, 0)
