"""Flipped bytes: a damaged copy is accepted with the content that it has, or refused; nothing else ever happens."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from auditor.kit.errors import IntakeError
from auditor.models.dataset import ImageDataset
from tests.auditor.data.intake.conftest import Door, Saved, Zipped

COPIES = 150


def flipped(content: bytes, seed: int) -> bytes:
    """The content with one to three bytes changed, half of the time within its first or last 600 bytes."""
    rng = np.random.default_rng(seed)
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        edge = rng.integers(0, 4)
        place = {0: rng.integers(0, 600), 1: len(content) - 1 - rng.integers(0, 600)}.get(
            int(edge), rng.integers(0, len(content))
        )
        changed[place % len(content)] ^= int(rng.integers(1, 256))
    return bytes(changed)


def outcomes(content: bytes, take: Callable[[bytes], object], check: Callable[[bytes], object]) -> int:
    """How many copies were accepted; ``check`` looks at what was stored."""
    accepted, refusals = 0, []
    for seed in range(COPIES):
        copy = flipped(content, seed)
        try:
            take(copy)
        except IntakeError as error:
            refusals.append(str(error))
            continue
        accepted += 1
        check(copy)
    assert all(len(refusal) < 1200 and refusal.isprintable() for refusal in refusals)
    assert accepted < COPIES
    return accepted


def same_tensors(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert all(torch.equal(stored[key], expected[key]) for key in stored)


def test_zip_checkpoints(door: Door, state: dict[str, Tensor], saved: Saved) -> None:
    content = saved(state)
    outcomes(content, door.model, lambda copy: same_tensors(door.tensors(), state))
    assert [path.name for path in door.stored.iterdir()] in ([], ["accepted"])


@pytest.mark.parametrize("kind", ["legacy", "safetensors"])
def test_formats_without_checksums_give_what_the_file_holds(
    door: Door, state: dict[str, Tensor], saved: Saved, kind: str
) -> None:
    content = saved(state, _use_new_zipfile_serialization=False) if kind == "legacy" else save_safetensors(state)

    def oracle(copy: bytes) -> dict[str, Tensor]:
        return torch.load(io.BytesIO(copy), weights_only=True) if kind == "legacy" else load_safetensors(copy)

    def check(copy: bytes) -> None:
        read = {key: value.float() if value.is_floating_point() else value for key, value in oracle(copy).items()}
        same_tensors({key: value for key, value in door.tensors().items() if key in read}, read)

    # Most of the bytes are weights: a flip there is another weight, which only a hash could tell.
    assert outcomes(content, door.model, check) > 0
    assert [path.name for path in door.stored.iterdir()] == ["accepted"]


@pytest.mark.parametrize("compressed", [True, False])
def test_npz(door: Door, compressed: bool) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 8, 8, 3), np.uint8), np.arange(20) % 4
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, images=images, labels=labels)

    def check(copy: bytes) -> None:
        dataset = ImageDataset.open(door.destination)
        np.testing.assert_array_equal(dataset._images, images)
        np.testing.assert_array_equal(dataset.labels, labels)

    outcomes(stream.getvalue(), door.dataset, check)


def test_image_folders(door: Door, zipped: Zipped) -> None:
    rng = np.random.default_rng(0)
    files, images = {}, []
    for i in range(6):
        image = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(image).save(stream := io.BytesIO(), "PNG")
        files[f"{'cat' if i < 3 else 'dog'}/{i}.png"] = stream.getvalue()
        images.append(image)

    def check(copy: bytes) -> None:
        np.testing.assert_array_equal(door.pixels(), images)

    outcomes(zipped(files), door.dataset, check)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_flipped_images_in_a_sound_archive(door: Door, zipped: Zipped, kind: str) -> None:
    """The archive's checksum holds, so the decoders see the damage."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(stream := io.BytesIO(), kind, **({"exif": exif} if kind != "BMP" else {}))
    outcomes(stream.getvalue(), lambda copy: door.dataset(zipped({"cat/1.data": copy})), lambda copy: None)
