"""Wrong files of people who mean no harm: what they are told, and that doing so helps for the very file that was refused."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from app.commands.declared import parse_architecture
from auditor.kit.errors import IntakeError
from auditor.models.architecture import ARCHITECTURES
from auditor.models.dataset import ImageDataset
from auditor.models.labelled_arrays import checked_arrays
from tests.auditor.data.intake.conftest import Door, Saved, Zipped

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 12, 12, 3), np.uint8)
LABELS = np.arange(8) % 4


def arrays(**content: Any) -> bytes:
    np.savez(stream := io.BytesIO(), **content)
    return stream.getvalue()


def png(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    Image.fromarray(image).save(stream := io.BytesIO(), kind)
    return stream.getvalue()


# Weights.


@pytest.mark.parametrize(
    ("file", "declared"),
    [
        ("resnet-cifar:depth=32", "resnet-cifar:depth=20"),
        ("resnet-cifar:depth=44,num_classes=100", "resnet-cifar:depth=20"),
        ("lenet5", "resnet-cifar:depth=20"),
        ("resnet18-cifar:num_classes=7,channels=1", "alexnet"),
        ("lenet5", "lenet5:height=64,width=64"),
        ("vgg:depth=11", "vgg:depth=16"),
        ("torchvision:model=resnet18,num_classes=1000", "resnet18-cifar"),
    ],
)
def test_another_architecture_that_the_file_fits_is_named(door: Door, saved: Saved, file: str, declared: str) -> None:
    content = saved(ARCHITECTURES.parse(file).build().state_dict())
    error = door.refuse_model(content, "do not fit the architecture", architecture=ARCHITECTURES.parse(declared))
    meant = re.search(r"--architecture (\S+)`", error.hint)
    assert meant is not None, error.hint
    assert door.model(content, architecture=ARCHITECTURES.parse(meant[1])).tensors  # the remedy


@pytest.mark.parametrize(
    ("file", "options", "labels"),
    [
        ("num_classes=7", ["--num-classes 7"], ["Num classes"]),
        ("channels=1", ["--input 1x28x28"], ["Channels"]),
        ("channels=1,num_classes=7", ["--input 1x28x28", "--num-classes 7"], ["Channels", "Num classes"]),
    ],
)
def test_declared_values_that_the_file_contradicts_are_named(
    door: Door, saved: Saved, file: str, options: list[str], labels: list[str]
) -> None:
    content = saved(ARCHITECTURES.parse(f"lenet5:{file}").build().state_dict())
    error = door.refuse_model(content, architecture=ARCHITECTURES.parse("lenet5:channels=3"))
    given = dict(item.split() for item in re.findall(r"--\S+ [\w]+", error.hint))
    assert all(option in error.hint for option in options)
    assert all(f"'{label}' on the page" in error.hint for label in labels)
    meant = parse_architecture("lenet5", given.get("--input", "3x28x28"), int(given.get("--num-classes", 10)))
    assert door.model(content, architecture=meant).tensors  # the remedy


def test_layers_of_another_size_say_what_to_declare(door: Door, saved: Saved) -> None:
    text = "nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Flatten(), nn.Linear({0}, 10))"
    content = saved(nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Flatten(), nn.Linear(256, 10)).state_dict())
    error = door.refuse_model(content, architecture=parse_architecture(text.format(144), "3x24x24"))
    assert error.hint.startswith("Declare the height and width that the file was trained with: `--input`")
    assert door.model(content, architecture=parse_architecture(text.format(256), "3x32x32")).tensors


@pytest.mark.parametrize(
    ("made", "said", "hint"),
    [
        ([1, 2], "holds a list without a dictionary of tensors", "torch.save(model.state_dict()"),
        (torch.zeros(3), "holds a single tensor; expected a dictionary", "torch.save(model.state_dict()"),
        (3, "holds a number; expected", "torch.save(model.state_dict()"),
        (None, "holds nothing (None); expected", "torch.save(model.state_dict()"),
        ({0: {"a": 1}}, "it has a number", "torch.save(model.state_dict()"),
        (({"epoch": 3}, {"w": torch.zeros(3)}), "1 unexpected ('w')", "Choose the architecture"),
        (({"epoch": 3}, {"e": 2}), "holds a tuple without a dictionary of tensors", "torch.save(model.state_dict()"),
    ],
)
def test_values_that_are_no_weights_are_called_by_plain_words(
    door: Door, saved: Saved, made: Any, said: str, hint: str
) -> None:
    assert hint in door.refuse_model(saved(made), said).hint


def test_files_at_the_wrong_door_are_sent_to_the_right_one(
    door: Door, saved: Saved, state: dict[str, Tensor], zipped: Zipped
) -> None:
    both = {"a/1.png": png(IMAGES[0]), "b/1.png": png(IMAGES[1])}
    for content in (arrays(images=IMAGES, labels=LABELS), zipped(both)):
        error = door.refuse_model(content, "torch.save did not write it")
        assert "add it under Data sets" in error.hint
        assert door.dataset(content).samples  # the remedy
    error = door.refuse_dataset(saved(state), "a torch model")
    assert "add it under Models" in error.hint
    assert door.model(saved(state)).tensors  # the remedy


def test_a_damaged_file_is_uploaded_again_whatever_it_is(
    door: Door, saved: Saved, state: dict[str, Tensor], zipped: Zipped
) -> None:
    from safetensors.torch import save

    weights, data = saved(state), arrays(images=IMAGES, labels=LABELS)
    folders = zipped({"a/1.png": png(IMAGES[0]), "b/1.png": png(IMAGES[1])})
    flipped = bytearray(weights)
    flipped[len(weights) // 2] ^= 255
    refusals = [door.refuse_model(content) for content in (weights[:-300], bytes(flipped), save(state)[:-300])]
    refusals += [door.refuse_dataset(content) for content in (data[:-300], folders[:-50])]
    for error in refusals:
        assert "is damaged" in error.message
        assert error.hint == "Upload it again. If it is refused again, write a new file."


# Data.


def run(hint: str, images: NDArray[Any], labels: NDArray[Any]) -> bytes:
    """Do what the hint says of ``images`` or ``labels``; the .npz that comes of it."""
    names = {"np": np, "images": images, "labels": labels, "mean": np.float32(0.45), "std": np.float32(0.2)}
    whole = re.search(r"(keep = .*?); np\.savez\(.data\.npz., images=(.*?), labels=(.*?)\)\.", hint)
    if whole:
        exec(whole[1], names)
        return arrays(images=eval(whole[2], names), labels=eval(whole[3], names))
    found = re.search(r"(?:save|Save|Reshape it:) (.*?)(?:, or | where | if |\. |\.$|$)", hint)
    assert found is not None, hint
    changed = eval(found[1], names)
    return arrays(
        images=changed if "images" in found[1] else images, labels=labels if "images" in found[1] else changed
    )


MINUS_128 = (IMAGES[..., :1].astype(np.int16) - 128).astype(np.int8)


@pytest.mark.parametrize(
    ("images", "labels", "right"),
    [
        (IMAGES.astype(np.float32), LABELS, IMAGES / 255),
        (IMAGES.astype(np.float64), LABELS, IMAGES / 255),
        ((IMAGES / 255 * 1.3).astype(np.float32), LABELS, (IMAGES / 255 * 1.3).clip(0, 1)),
        ((IMAGES / 127.5 - 1).astype(np.float32), LABELS, IMAGES / 255),
        (((IMAGES / 255 - 0.45) / 0.2).astype(np.float32), LABELS, IMAGES / 255),
        (IMAGES.astype(np.int64), LABELS, IMAGES / 255),
        (MINUS_128, LABELS, (MINUS_128.astype(float) + 128) / (MINUS_128.max() + 128.0)),
        (IMAGES.astype(np.int16) - 128, LABELS, IMAGES / 255),
        (IMAGES > 127, LABELS, (IMAGES > 127) * 1.0),
        (IMAGES[..., 0].reshape(8, -1), LABELS, IMAGES[..., :1] / 255),
        (IMAGES.transpose(0, 3, 1, 2).reshape(8, -1), LABELS, IMAGES / 255),
        (IMAGES[None], LABELS, IMAGES / 255),
        (IMAGES, LABELS - 1, IMAGES[LABELS > 0] / 255),
        (IMAGES, np.where(LABELS == 0, np.nan, LABELS), IMAGES[LABELS > 0] / 255),
        (IMAGES, LABELS % 2 * 2 - 1, IMAGES / 255),
        (IMAGES, LABELS * 10**6, IMAGES / 255),
        (IMAGES, np.where(LABELS == 0, -1, LABELS * 10**6), IMAGES[LABELS > 0] / 255),
        (IMAGES, np.eye(4)[LABELS] * 0.4 + 0.15, IMAGES / 255),
    ],
    ids=[
        "0 to 255", "0 to 255, double", "a little above 1", "-1 to 1", "normalized", "int64", "int8 from -128", "int16 from -128",
        "true or false", "flat grey", "flat colour", "an axis too many", "-1 for unknown", "NaN for unknown", "-1 and 1",
        "large numbers", "-1 and large numbers", "probabilities",
    ],
)  # fmt: skip
def test_the_remedy_for_arrays_works(
    door: Door, images: NDArray[Any], labels: NDArray[Any], right: NDArray[Any]
) -> None:
    error = door.refuse_dataset(arrays(images=images, labels=labels))
    door.dataset(run(error.hint, images, labels))
    stored = ImageDataset.open(door.destination)
    shown = stored.images(range(len(stored))).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(shown, right, atol=2e-7)


def test_labels_get_the_classes_that_they_mean(door: Door) -> None:
    for labels, right in ((LABELS % 2 * 2 - 1, LABELS % 2), (LABELS * 10**6, LABELS)):
        error = door.refuse_dataset(arrays(images=IMAGES, labels=labels))
        door.dataset(run(error.hint, IMAGES, labels))
        assert ImageDataset.open(door.destination).labels.tolist() == right.tolist()
    content = arrays(images=IMAGES, labels=LABELS + 3)
    error = door.refuse_dataset(content, "below 5", first_label=5)
    assert "--first-label 3`" in error.hint
    assert door.dataset(content, first_label=3).num_classes == 4  # the remedy


def test_python_names_the_same_shape() -> None:
    with pytest.raises(IntakeError, match=re.escape("images.reshape(-1, 12, 12)")):
        checked_arrays(IMAGES[..., 0].reshape(8, -1), LABELS, None, None)


@pytest.mark.parametrize(
    ("content", "said", "hint"),
    [
        (b"image,label\n1.png,0\n", "but a text", "np.savez_compressed('data.npz', images=images, labels=labels)"),
        (b"\x1f\x8b" + bytes(20), "its gzip stream cannot be read to the end", "Upload it again."),
        (b"7z\xbc\xaf" + bytes(20), "but a 7-Zip archive", "Unpack it, and make a zip of the folders of images."),
        (png(IMAGES[0]), "but a PNG image", "Put every image into the folder of its class"),
        (b"PK\x05\x06" + bytes(18), "an empty archive", "Make it again"),
    ],
)
def test_files_that_are_no_data_set(door: Door, content: bytes, said: str, hint: str) -> None:
    assert hint in door.refuse_dataset(content, said).hint


def test_where_no_image_can_be_used_leaving_out_is_no_remedy(door: Door, zipped: Zipped) -> None:
    for made in (lambda image: png(image, "PDF"), lambda image: png(image)[:60], lambda image: b""):
        content = zipped({f"{kind}/1.png": made(IMAGES[0, ..., 0]) for kind in "ab"})
        error = door.refuse_dataset(content, "2 of 2 files cannot be used")
        assert "leave out" not in error.hint
        door.refuse_dataset(content, "holds no images", leave_out=True)
    again = zipped({f"{kind}/1.png": png(IMAGES[0, ..., 0]) for kind in "ab"})
    assert door.dataset(again).samples == 2  # the remedy
    assert "it is an empty file" in door.refuse_dataset(zipped({"a/1.png": b"", "b/1.png": png(IMAGES[0])})).message


def test_a_name_that_cannot_be_kept_is_the_fault_and_not_the_lack_of_images(door: Door, zipped: Zipped) -> None:
    error = door.refuse_dataset(zipped({"a\\1.png": png(IMAGES[0]), "b\\1.png": png(IMAGES[1])}), "2 of 2 files")
    assert "unsupported name" in error.message
    assert "under plain names" in error.hint


def test_parts_within_a_folder_are_named_as_parts(door: Door, zipped: Zipped) -> None:
    parts = {f"d/{part}/{kind}/1.png": png(IMAGES[0]) for part in ("train", "test") for kind in "ab"}
    error = door.refuse_dataset(zipped(parts), "several parts: 'train' (2 files), 'test' (2 files)")
    assert "`--part train`" in error.hint
    assert door.dataset(zipped(parts), parts=("train",)).num_classes == 2  # the remedy


def test_a_stored_data_set_that_is_gone_or_damaged(tmp_path: Any) -> None:
    with pytest.raises(IntakeError, match=r"The file data of the data set is missing\. Add the data set anew\."):
        ImageDataset.open(tmp_path / "data")
    (tmp_path / "data").write_bytes(b"{" * 50)
    with pytest.raises(
        IntakeError, match=r"is damaged or not a data set that was stored here: its header cannot be read\."
    ):
        ImageDataset.open(tmp_path / "data")
