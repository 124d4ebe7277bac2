"""Files that say their own architecture: what take_model makes of them, and of those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from auditor.data.intake import readers
from auditor.data.intake.checkpoints import Checkpoint
from auditor.data.intake.found import FoundModel, ModelReader
from auditor.data.intake.image_size import ImageSize
from auditor.data.intake.weights import take_model
from auditor.kit.errors import IntakeError
from auditor.models.architectures.lenet5 import LeNet5
from auditor.models.classifier import Normalization

MAGIC = b"LENET"


@pytest.fixture
def lenet(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A format that begins with MAGIC and means this LeNet-5; returns its weights."""
    torch.manual_seed(0)
    network = LeNet5(num_classes=4).build()
    state = dict(network.state_dict())

    def read(source: Path, name: str, limits: object, asked: object) -> FoundModel:
        return FoundModel(
            LeNet5(num_classes=4),
            Checkpoint(state, "ONNX", notes=("It has one graph.",)),
            Normalization(mean=(0.5,), std=(0.25,)),
            ("a", "b", "c", "d"),
            ImageSize(height=28, width=28),
            ("Read as LeNet.",),
        )

    reader = ModelReader(("lenet",), lambda source, name, head: head.startswith(MAGIC), read)
    monkeypatch.setattr(readers, "READERS", (reader,))
    return state


def test_a_file_that_says_everything_needs_no_architecture(door: Any, lenet: Any) -> None:
    manifest = take_model(door.put(MAGIC, "x.lenet"), "x.lenet", None, door.destination)
    assert manifest.architecture == LeNet5(num_classes=4).model_dump(mode="json")
    assert manifest.normalization == Normalization(mean=(0.5,), std=(0.25,))
    assert manifest.class_names == ("a", "b", "c", "d")
    assert manifest.image_size == ImageSize(height=28, width=28)
    assert manifest.notes == ("It has one graph.", "Read as LeNet.")
    assert manifest.format == "ONNX"
    stored = door.tensors()
    assert all(torch.equal(stored[key], value) for key, value in lenet.items())


def test_a_declared_architecture_goes_before_the_files_own(door: Any, lenet: Any) -> None:
    declared = LeNet5(num_classes=4, pooling="avg")
    manifest = take_model(door.put(MAGIC, "x.lenet"), "x.lenet", declared, door.destination)
    assert manifest.architecture == declared.model_dump(mode="json")
    with pytest.raises(IntakeError, match="the file has 4 classes, you declared 5"):
        take_model(door.put(MAGIC, "x.lenet"), "x.lenet", LeNet5(num_classes=5), door.destination)


def test_weights_that_fit_nothing_need_an_architecture(door: Any, saved: Any) -> None:
    content = saved({"a.weight": torch.ones(5, 7), "b.weight": torch.ones(3, 4)})
    with pytest.raises(IntakeError, match="does not say of which architecture they are; none of those tried") as caught:
        take_model(door.put(content, "x.pt"), "x.pt", None, door.destination)
    assert "--architecture" in caught.value.hint
    assert list(door.stored.iterdir()) == []


def test_a_normalization_among_the_tensors_is_the_files_own(door: Any, state: Any, saved: Any) -> None:
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    content = saved(
        {"0.mean": mean.view(1, 3, 1, 1), "0.std": std.view(1, 3, 1, 1)} | {f"1.{k}": v for k, v in state.items()}
    )
    manifest = door.model(content)
    assert manifest.normalization is not None
    assert manifest.normalization.mean == pytest.approx((0.5, 0.4, 0.3))
    assert manifest.normalization.std == pytest.approx((0.2, 0.25, 0.3))
    assert door.model(saved(state)).normalization is None
