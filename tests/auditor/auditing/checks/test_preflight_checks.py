"""Each check before the attacks fires on a case made for it; the contract test shows that it keeps still on a sound model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from auditor.auditing.check import CHECKS
from auditor.models.dataset import ImageDataset
from tests.auditor.auditing.checks.models import (
    Coupled,
    Cut,
    Dynamic,
    Noisy,
    Probabilities,
    Quantized,
    Saturated,
    Shattered,
    Squashed,
    examine,
    made,
    plain,
)
from tests.narrow import sequence
from tests.nets import labelled, random_images, small_cnn


@pytest.mark.parametrize(
    ("kind", "wrapper", "said"),
    [
        ("logits_not_probabilities", Probabilities, {"probabilities": "warning"}),
        ("logits_not_probabilities", Squashed, {"probabilities": "warning"}),
        ("determinism", Noisy, {"random output": "warning"}),
        ("batch_independence", Coupled, {"batch dependence": "severe"}),
        ("unavailable_gradients", Quantized, {"no gradient": "severe"}),
        ("unavailable_gradients", Cut, {"no gradient": "severe"}),
        ("unavailable_gradients", Saturated, {"no gradient": "severe"}),
        ("unstable_predictions", Shattered, {"unstable predictions": "warning"}),
        ("autoattack_warnings", Quantized, {"zero gradients": "severe"}),
        ("autoattack_warnings", Dynamic, {"optimization at inference": "warning"}),
    ],
)
def test_it_finds_its_fault(kind: str, wrapper: Any, said: dict[str, str]) -> None:
    found = examine(kind, made(wrapper(plain())), data=labelled(made(plain()), n=60, wrong=0))
    assert found.said == said
    assert found.verdict.status == ("severe" if "severe" in said.values() else "doubt")
    assert found.verdict.evidence in found.flags[0].evidence or found.flags[0].evidence in found.verdict.evidence


def test_numbers_in_the_evidence_are_the_models() -> None:
    found = examine("unavailable_gradients", made(Quantized(plain())), settings={"images": 30})
    assert "zero or not finite for 30 of 30 images, that of the cross-entropy for 30" in found.verdict.evidence


def test_a_random_model_is_not_blamed_for_its_batch() -> None:
    found = examine("batch_independence", made(Noisy(plain())), data=labelled(made(plain()), n=60, wrong=0))
    assert (found.verdict.status, found.said) == ("not applicable", {})


def test_few_classes_are_mentioned() -> None:
    found = examine("autoattack_warnings", made(small_cnn(classes=3), classes=3))
    assert (found.said, found.verdict.status) == ({"few classes": "info"}, "passed")


def test_a_layer_in_training_mode_is_found() -> None:
    classifier = made(nn.Sequential(nn.Dropout(0.5), plain()))
    assert examine("eval_mode", classifier).verdict.status == "passed"
    sequence(classifier)[0].training = True
    assert examine("eval_mode", classifier).said == {"training mode": "severe"}


def test_batch_norm_without_statistics_is_found() -> None:
    network = sequence(small_cnn())
    network[1] = nn.BatchNorm2d(8, track_running_stats=False)
    found = examine("eval_mode", made(network))
    assert found.said == {"training mode": "severe"}
    assert "1 normalize by the current batch" in found.verdict.evidence
    assert examine("batch_independence", made(network)).said == {"batch dependence": "severe"}


def test_flat_images_are_found() -> None:
    images = random_images(60) // 200  # 0 and 1 of 255
    data = ImageDataset(
        images, made(plain()).logits(ImageDataset(images, np.zeros(60, np.int64)).images(range(60))).argmax(1).numpy()
    )
    assert examine("value_range", made(plain()), data=data).said == {"flat images": "severe"}


def test_images_out_of_range_are_found() -> None:
    class Unscaled(ImageDataset):
        def images(self, ids: Any) -> torch.Tensor:
            return 255 * super().images(ids)

    data = labelled(made(plain()), n=60, wrong=0)
    found = examine("value_range", made(plain()), data=Unscaled(data._images, data.labels))
    assert found.said == {"pixels out of range": "severe"}
    assert "from 0 to 255" in found.verdict.evidence


def test_an_epsilon_that_covers_everything_is_found() -> None:
    found = examine("value_range", made(plain()), threats=[{"epsilon": 1}])
    assert found.said == {"epsilon covers everything": "warning"}


def test_a_wrong_normalization_and_an_order_of_classes_are_found() -> None:
    torch.manual_seed(0)
    right = made(nn.Sequential(nn.Flatten(), nn.Linear(108, 5)))
    wrong = right.with_normalization(type(right.normalization)())
    data = labelled(right, n=200, wrong=0)
    assert examine("normalization", wrong, data=data).said["normalization"] == "severe"
    shuffled = ImageDataset(data._images, np.array([3, 4, 0, 1, 2])[data.labels])
    assert examine("normalization", right, data=shuffled).said["class order"] == "severe"
    assert "best of 7 others" in examine("normalization", right, data=data).verdict.evidence


def test_every_check_before_the_attacks_is_tried_here_or_above() -> None:
    tried = {
        mark.args[1][index][0] for mark in test_it_finds_its_fault.pytestmark for index in range(len(mark.args[1]))
    }
    tried |= {"eval_mode", "value_range", "normalization"}
    assert tried == {member.kind_name() for member in CHECKS if member.preflight}
