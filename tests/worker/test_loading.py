"""Data sets that were stored before labels were made of the numbers of class folders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from auditor.kit.errors import MismatchError
from auditor.models.classifier import NORMALIZATIONS
from auditor.models.dataset import write_dataset
from tests.auditor.data.intake.test_intake_wrappers import Several
from tests.nets import random_images
from tests.worker.world import World, make_world
from worker.loading import check_compatible, load_classifier, load_dataset
from worker.settings import Settings

NAMES = ["0", "1", "10", "7"]


@pytest.fixture
def world(settings: Settings) -> World:
    return make_world(settings)


def stored(folder: Path, **manifest: object) -> tuple[Any, Any]:
    """A row and its blobs: images of classes 0, 1, 10 and 7, in the order of their folders' names as text."""
    images = random_images(4)
    write_dataset(folder / "data", [images], images.shape, "U8", np.arange(4), class_names=NAMES)
    facts = {
        "shape": [3, 6, 6],
        "class_names": NAMES,
        "class_counts": [1] * 4,
        "num_classes": 4,
        "format": "image folders",
    }
    row = SimpleNamespace(content="c" * 64, name="old", manifest=facts | manifest)
    return row, SimpleNamespace(path=lambda _: folder / "data")


def model(classes: int) -> Any:
    values = {
        "layers": f"Flatten(), Linear(108, {classes})",
        "channels": 3,
        "height": 6,
        "width": 6,
        "num_classes": classes,
    }
    return SimpleNamespace(architecture=values | {"kind": "sequential"}, class_names=None)


def test_class_folders_that_were_sorted_as_text_get_their_numbers(tmp_path: Path) -> None:
    row, blobs = stored(tmp_path)
    data = load_dataset(row, blobs)
    assert data.labels.tolist() == [0, 1, 10, 7]
    assert data.class_names == tuple(map(str, range(11)))
    check_compatible(model(11), row)
    with pytest.raises(MismatchError, match="labels from 0 to 10, the model only 10 classes"):
        check_compatible(model(10), row)


@pytest.mark.parametrize(
    "manifest", [{"labels_from": "names"}, {"format": "npz"}, {"labels_from": "integers", "format": "npz"}]
)
def test_what_was_not_sorted_by_the_product_stays(tmp_path: Path, manifest: dict[str, str]) -> None:
    row, blobs = stored(tmp_path, **manifest)
    assert load_dataset(row, blobs).labels.tolist() == [0, 1, 2, 3]
    check_compatible(model(4), row)


def test_the_output_that_was_chosen_is_the_models(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    several = Several(height=8, width=8)
    network = several.build().eval()
    row = world.client.backend.registry.add_model(
        "several",
        architecture={"kind": "several"},
        normalization=NORMALIZATIONS["none"].model_dump(mode="json"),
        class_names=None,
        weights=world.client.blobs.put(save(network.state_dict())),
        manifest={"parameters": 1, "notes": [], "output": "aux"},
    )
    monkeypatch.setattr("worker.loading.architecture_of", lambda row: several)
    x = torch.rand(3, *several.input_shape)
    with torch.no_grad():
        assert torch.equal(load_classifier(row, world.client.blobs)(x), network(x)["aux"])
