"""Data sets: stored form, streaming, stable ids."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from auditor.kit.errors import IntakeError
from auditor.models.dataset import ImageDataset, write_dataset
from tests.nets import random_images

IMAGES = random_images(23)
LABELS = np.arange(23) % 4


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "data.safetensors"
    parts = [IMAGES[:10], IMAGES[10:]]
    write_dataset(path, parts, IMAGES.shape, "U8", LABELS, class_names=list("abcd"), names=[f"n{i}" for i in range(23)])
    return path


def test_what_is_stored_is_a_safetensors_file_that_others_read(stored: Path) -> None:
    arrays = load_file(stored)
    assert np.array_equal(arrays["images"], IMAGES)
    assert np.array_equal(arrays["labels"], LABELS)


def test_images_come_back_as_floats_in_the_order_of_the_ids(stored: Path) -> None:
    data = ImageDataset.open(stored)
    assert (len(data), data.shape, data.num_classes, data.class_names) == (23, (3, 6, 6), 4, ("a", "b", "c", "d"))
    found = data.images([7, 2, 7])
    assert torch.equal(found, torch.from_numpy(IMAGES[[7, 2, 7]]).permute(0, 3, 1, 2).float() / 255)
    assert data.sample_name(5) == "n5"
    batches = list(data.batches(np.arange(23), 10))
    assert [len(batch.ids) for batch in batches] == [10, 10, 3]
    assert torch.equal(torch.cat([batch.images for batch in batches]), data.images(np.arange(23)))
    assert torch.cat([batch.labels for batch in batches]).tolist() == LABELS.tolist()


def test_float_images_stay_as_they_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((5, 4, 4, 1), dtype=np.float32)
    write_dataset(tmp_path / "f", [images], images.shape, "F32", np.zeros(5, np.int64))
    assert torch.equal(ImageDataset.open(tmp_path / "f").images([1]), torch.from_numpy(images[1:2]).permute(0, 3, 1, 2))


def test_a_selection_depends_on_the_seed_alone_and_grows_by_addition(stored: Path) -> None:
    data = ImageDataset.open(stored)
    few, more = data.select(5, 0), data.select(12, 0)
    assert set(few) < set(more)
    assert np.array_equal(few, np.sort(few))
    assert np.array_equal(few, data.select(5, 0))
    assert not np.array_equal(few, data.select(5, 1))
    assert np.array_equal(data.select(None, 3), np.arange(23))
    assert np.array_equal(data.select(99, 3), np.arange(23))


def test_a_damaged_file_is_refused_in_a_sentence(stored: Path, tmp_path: Path) -> None:
    for content in (b"", b"x" * 100, stored.read_bytes()[:50], (2**62).to_bytes(8, "little") + b"{}"):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(IntakeError, match="bad is damaged or not a data set"):
            ImageDataset.open(tmp_path / "bad")


def test_images_that_end_early_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IntakeError, match="end early"):
        write_dataset(tmp_path / "x", [IMAGES[:3]], IMAGES.shape, "U8", LABELS)


def test_images_and_labels_must_be_as_many() -> None:
    with pytest.raises(IntakeError, match="N labels"):
        ImageDataset(IMAGES, LABELS[:3])


def test_a_mapped_data_set_goes_to_another_process_by_the_name_of_its_file(stored: Path) -> None:
    data = ImageDataset.open(stored, sha256="d", name="mapped")
    content = pickle.dumps(data)
    assert IMAGES[0].tobytes() in pickle.dumps(ImageDataset(IMAGES, LABELS))
    assert IMAGES[0].tobytes() not in content
    again = pickle.loads(content)
    assert isinstance(again._images, np.memmap)
    ids = np.arange(len(data))
    assert torch.equal(again.images(ids), data.images(ids))
    assert np.array_equal(again.labels, data.labels)
    assert (again.sha256, again.name, again.class_names) == ("d", "mapped", data.class_names)
    part = ImageDataset(data._images[1:3], data.labels[1:3])  # a part of the file has no name of its own
    assert torch.equal(pickle.loads(pickle.dumps(part)).images([0, 1]), data.images([1, 2]))
