"""Checkpoints: read back to the bit, told apart, never half written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.hardening.learning import checkpoint
from auditor.hardening.learning.checkpoint import ComputeSite
from auditor.kit.errors import MismatchError
from auditor.models.dataset import ImageDataset
from tests.nets import random_images

HERE = ComputeSite("cpu")
TENSORS = {
    "network/a": torch.tensor([1.5, float("-inf"), 1e-42]),
    "network/b.c": torch.tensor(7),
    "memory/x y": torch.tensor([True, False]),
    "average/a": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
}


def test_what_was_written_is_read_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    number = 0.1 + 0.2
    checkpoint.save(path, TENSORS, {"fingerprint": "f", "place": HERE, "state": [number]})
    saved = checkpoint.read(path, "f", HERE)
    assert saved.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(saved.tensors[name], value) for name, value in TENSORS.items())
    assert saved.data["state"] == [number]
    assert checkpoint.under("network", saved.tensors).keys() == {"a", "b.c"}
    assert checkpoint.prefixed("network", checkpoint.under("network", saved.tensors)).keys() == {
        "network/a",
        "network/b.c",
    }
    again = tmp_path / "again.safetensors"
    checkpoint.save(again, TENSORS, {"fingerprint": "f", "place": HERE, "state": [number]})
    assert path.read_bytes() == again.read_bytes()


def test_two_names_of_one_tensor_are_no_trouble(tmp_path: Path) -> None:
    one = torch.rand(3)
    checkpoint.save(tmp_path / "a", {"x": one, "y": one, "z": one[:2]}, {"fingerprint": "", "place": HERE})
    assert torch.equal(checkpoint.read(tmp_path / "a", "", HERE).tensors["z"], one[:2])


def test_a_checkpoint_of_something_else_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, TENSORS, {"fingerprint": "one", "place": HERE})
    with pytest.raises(MismatchError, match="checkpoint of another training: its spec, model or data differ"):
        checkpoint.read(path, "other", HERE)
    content = path.read_bytes()
    for damaged in (content[:100], b"", b"nonsense" * 10):
        path.write_bytes(damaged)
        with pytest.raises(MismatchError, match="is damaged or not a checkpoint"):
            checkpoint.read(path, "one", HERE)


@pytest.mark.parametrize(
    ("made", "place", "said"),
    [
        (ComputeSite("cuda"), ComputeSite("cpu"), "made on a GPU; here it would be continued on a CPU"),
        (
            ComputeSite("cpu", 2),
            ComputeSite("cpu"),
            "made in 2 processes on a CPU; here it would be continued on a CPU",
        ),
        (ComputeSite("cuda", 4), ComputeSite("cuda", 8), "made on 4 GPUs; here it would be continued on 8 GPUs"),
    ],
)
def test_a_checkpoint_from_elsewhere_is_refused_and_says_where_to_go_on(
    made: ComputeSite, place: ComputeSite, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, TENSORS, {"fingerprint": "one", "place": made})
    with pytest.raises(MismatchError, match=said) as error:
        checkpoint.read(path, "one", place)
    assert f"Continue it {made}: set device and processes" in error.value.hint
    assert checkpoint.read(path, "one", made).tensors.keys() == TENSORS.keys()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, TENSORS, {"fingerprint": "one", "place": HERE})
    before = path.read_bytes()

    def full(*args: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, TENSORS, {"fingerprint": "two"})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".intake-abc.tmp").write_bytes(b"half")
    (tmp_path / ".meeting-abc.tmp").write_bytes(b"")
    (tmp_path / ".tmpCVTJhH").write_bytes(b"half")
    (tmp_path / "best.safetensors").write_bytes(b"whole")
    checkpoint.tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]


def test_digests_see_every_bit_and_every_name() -> None:
    digests = {checkpoint.digest(TENSORS)}
    for name in ("network/a", "average/a"):
        changed = TENSORS | {name: TENSORS[name].clone()}
        changed[name][(0,) * changed[name].dim()] += 1 if name == "network/a" else 1e-6
        digests.add(checkpoint.digest(changed))
    digests.add(checkpoint.digest(TENSORS | {"more": torch.zeros(1)}))
    digests.add(checkpoint.digest({name + "x": value for name, value in TENSORS.items()}))
    assert len(digests) == 5
    images, labels = random_images(5), np.arange(5)
    found = {
        checkpoint.data_digest(ImageDataset(images, labels)),
        checkpoint.data_digest(ImageDataset(images, labels[::-1].copy())),
        checkpoint.data_digest(ImageDataset(np.flip(images, 0).copy(), labels)),
        checkpoint.data_digest(ImageDataset(images, labels, sha256="abc")),
    }
    assert len(found) == 4
    assert "abc" in found
