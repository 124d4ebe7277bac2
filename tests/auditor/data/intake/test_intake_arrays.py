"""Data sets in .npz form, good and hostile; numpy is the outside reader."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from auditor.data.intake.image_size import ImageSize
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.models.dataset import ImageDataset
from tests.auditor.data.intake.conftest import Door, Saved, Zipped
from tests.narrow import known

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 8, 6, 3), np.uint8)
LABELS = np.arange(30) % 3
NAMES = np.array(["cat", "dog", "été"])


def npz(compressed: bool = True, /, **arrays: Any) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def good(**changes: Any) -> bytes:
    return npz(**({"images": IMAGES, "labels": LABELS} | changes))


@pytest.mark.parametrize("compressed", [True, False])
def test_a_good_file(door: Door, compressed: bool) -> None:
    content = npz(compressed, images=IMAGES, labels=LABELS, class_names=NAMES)
    manifest = door.dataset(content, "my.npz")
    assert manifest.format == "npz"
    assert (manifest.samples, manifest.shape, manifest.dtype) == (30, (3, 8, 6), "uint8")
    assert (manifest.num_classes, manifest.class_names) == (3, ("cat", "dog", "été"))
    assert manifest.class_counts == (10, 10, 10)
    assert (manifest.notes, manifest.warnings, manifest.resized) == ((), (), None)
    assert manifest.source_sha256 == hashlib.sha256(content).hexdigest()
    stored = door.destination.read_bytes()
    assert (manifest.sha256, manifest.size) == (hashlib.sha256(stored).hexdigest(), len(stored))
    dataset = ImageDataset.open(door.destination)
    assert dataset.class_names == manifest.class_names
    np.testing.assert_array_equal(door.pixels(), IMAGES)
    np.testing.assert_array_equal(dataset.labels, LABELS)
    assert [path.name for path in door.stored.iterdir()] == ["accepted"]


def test_grey_images(door: Door) -> None:
    manifest = door.dataset(good(images=IMAGES[..., 0]))
    assert manifest.shape == (1, 8, 6)
    np.testing.assert_array_equal(door.pixels(), IMAGES[..., :1])
    assert door.dataset(good(images=IMAGES[..., :1])).shape == (1, 8, 6)


def test_channels_first(door: Door) -> None:
    manifest = door.dataset(good(images=np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))))
    assert manifest.shape == (3, 8, 6)
    assert "(NCHW)" in manifest.notes[0]
    np.testing.assert_array_equal(door.pixels(), IMAGES)


def test_ambiguous_and_impossible_layouts(door: Door) -> None:
    door.refuse_dataset(good(images=np.zeros((30, 3, 8, 1), np.uint8)), "30x3x8x1", "ambiguous", "NxHxWxC")
    door.refuse_dataset(good(images=np.zeros((30, 8, 8, 4), np.uint8)), "30x8x8x4", "expected 1 or 3 channels")
    door.refuse_dataset(good(images=np.zeros((30, 784), np.uint8)), "30x784", "Reshape")
    door.refuse_dataset(good(images=np.uint8(3)), "scalar")
    door.refuse_dataset(good(images=np.zeros((30, 2, 2, 2, 3), np.uint8)), "30x2x2x2x3")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<f2"])
def test_floats(door: Door, dtype: str) -> None:
    images = RNG.random((30, 8, 6, 3)).astype(dtype)
    manifest = door.dataset(good(images=images))
    assert manifest.dtype == "float32"
    assert bool(manifest.notes) == (dtype[1:] != "f4")
    np.testing.assert_array_equal(door.pixels(), images.astype(np.float32))
    assert door.pixels().dtype == np.float32


def test_floats_that_are_off_by_rounding(door: Door) -> None:
    door.dataset(good(images=np.full((30, 4, 4, 3), 1 + 1e-6) * RNG.integers(0, 2, (30, 4, 4, 3))))
    assert door.pixels().max() == 1


@pytest.mark.parametrize("labels", [LABELS.astype(t) for t in ("u1", "i2", ">i4", "<u8", ">i8")])
def test_integer_labels_of_every_kind(door: Door, labels: NDArray[Any]) -> None:
    door.dataset(good(labels=labels))
    np.testing.assert_array_equal(ImageDataset.open(door.destination).labels, LABELS)


@pytest.mark.parametrize(
    ("images", "labels"),
    [("x", "y"), ("X", "y"), ("data", "targets"), ("x_test", "y_test"), ("image", "label"), ("x_train", "y_train")],
)
def test_common_names_of_the_arrays(door: Door, images: str, labels: str) -> None:
    manifest = door.dataset(npz(**{images: IMAGES, labels: LABELS}))
    assert f"'{images}' and '{labels}' were taken" in manifest.notes[0]
    np.testing.assert_array_equal(door.pixels(), IMAGES)


def test_parts_are_chosen_and_joined(door: Door) -> None:
    content = npz(x_train=IMAGES[:5], y_train=LABELS[:5], x_test=IMAGES, y_test=LABELS)
    error = door.refuse_dataset(content, "several parts: 'train' (5 images), 'test' (30 images)")
    assert "`--part train` or `--part test`" in error.hint
    manifest = door.dataset(content, parts=("test",))
    assert manifest.samples == 30
    assert "'x_test' and 'y_test'" in manifest.notes[0]
    assert "ignored: 'x_train', 'y_train'" in manifest.notes[1]
    manifest = door.dataset(content, parts=("test", "train"))
    assert (manifest.samples, manifest.notes[-1]) == (35, "Parts read, in this order, as asked: 'test', 'train'.")
    assert ImageDataset.open(door.destination).notes == manifest.notes
    np.testing.assert_array_equal(door.pixels(), [*IMAGES, *IMAGES[:5]])
    error = door.refuse_dataset(content, "has no part 'val'", parts=("val",))
    assert "--part train" in error.hint


def test_a_column_of_labels(door: Door) -> None:
    assert "30x1" in door.dataset(good(labels=LABELS[:, None])).notes[0]


def test_other_arrays_are_never_unpickled(door: Door, canary_object: object) -> None:
    manifest = door.dataset(good(extra=np.array([canary_object], object)))
    assert "ignored: 'extra'" in manifest.notes[0]
    assert not door.canary.exists()


@pytest.fixture
def canary_object(door: Door) -> object:
    class Command:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            import os

            return os.system, (f"touch {door.canary}",)

    return Command()


@pytest.mark.parametrize("key", ["images", "labels", "class_names"])
def test_python_objects(door: Door, canary_object: object, key: str) -> None:
    content = good(**{key: np.array([canary_object] * 30, object)})
    np.load(io.BytesIO(content), allow_pickle=True)[key]  # the canary sings when numpy is told to trust it
    door.canary.unlink()
    door.refuse_dataset(content, f"'{key}'", "contains Python objects")


def test_real_files(door: Door, shared: Path) -> None:
    for name in ("gtsrb-test-32", "mnist-test"):
        source = shared / "data" / f"{name}.npz"
        manifest = door.dataset(source.read_bytes(), source.name)
        oracle = np.load(source)
        images = oracle["images"]
        np.testing.assert_array_equal(door.pixels(), images[..., None] if images.ndim == 3 else images)
        np.testing.assert_array_equal(ImageDataset.open(door.destination).labels, oracle["labels"])
        assert manifest.num_classes == oracle["labels"].max() + 1


def test_batches_of_any_size_give_the_same(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = []
    for size in (1, 500, 8 << 20):
        monkeypatch.setattr("auditor.data.intake.stored_arrays.BATCH_BYTES", size)
        manifests.append(door.dataset(good(class_names=NAMES)))
    assert manifests[0] == manifests[1] == manifests[2]


# Resizing.


@pytest.mark.parametrize("mode", ["resize", "resize-crop"])
def test_resizing_is_that_of_pillow(door: Door, mode: Literal["resize", "resize-crop"]) -> None:
    size = ImageSize(height=4, width=5, mode=mode)
    manifest = door.dataset(good(), size=size)
    assert manifest.resized == size
    assert manifest.shape == (3, 4, 5)
    # 8x6 to 4x5: the width fits first, at scale 6/5, so 4.8 of 8 rows are kept, from 1.6 on.
    box = (0, 1.6, 6, 6.4) if mode == "resize-crop" else None
    expected = [Image.fromarray(image).resize((5, 4), Image.Resampling.BILINEAR, box=box) for image in IMAGES]
    np.testing.assert_array_equal(door.pixels(), np.stack([np.asarray(image) for image in expected]))


def test_resizing_floats_agrees_with_bytes(door: Door) -> None:
    door.dataset(good(images=IMAGES / np.float32(255)), size=ImageSize(height=4, width=5))
    floats = door.pixels().copy()
    door.dataset(good(), size=ImageSize(height=4, width=5))
    np.testing.assert_allclose(floats * 255, door.pixels(), atol=1)
    assert floats.dtype == np.float32


# What is refused.


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": IMAGES}, "no array 'labels'"),
        ({"labels": LABELS}, "no array 'images'"),
        ({"a": IMAGES, "b": LABELS[:7]}, "it holds 'a', 'b'"),
    ],
)
def test_missing_arrays(door: Door, arrays: dict[str, NDArray[Any]], words: str) -> None:
    door.refuse_dataset(npz(**arrays), words, "np.savez_compressed")


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (0, 8, 8)])
def test_no_images(door: Door, shape: tuple[int, ...]) -> None:
    door.refuse_dataset(good(images=np.zeros(shape, np.uint8), labels=np.zeros(0, int)), "holds no images")


@pytest.mark.parametrize("shape", [(30, 0, 8, 3), (30, 8, 0, 3), (30, 0, 0)])
def test_images_without_pixels(door: Door, shape: tuple[int, ...]) -> None:
    door.refuse_dataset(good(images=np.zeros(shape, np.uint8)), "0")


@pytest.mark.parametrize("dtype", ["int64", "uint16", "bool", "complex64", "S3", "U3", "M8[s]"])
def test_pixels_of_another_type(door: Door, dtype: str) -> None:
    hint = "astype('uint8')" if np.dtype(dtype).kind in "biu" else "Save the pixels as numbers"
    door.refuse_dataset(good(images=np.zeros((30, 8, 8, 3), dtype)), "expected uint8", hint)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers(door: Door, value: float) -> None:
    images = RNG.random((30, 8, 6, 3))
    images[[2, 5, 7, 8, 9, 20], 3, 3, 0] = value
    # Six images, of which the first five are named.
    door.refuse_dataset(good(images=images), "'images'", "NaN or infinite pixels in 6 images (#2, #5, #7, #8, #9, ...)")


@pytest.mark.parametrize(
    ("low", "high", "hint"),
    [
        (0, 255, "Divide by 255"),
        (-1, 1, "[-1, 1]"),
        (-2.1, 2.6, "undo mean and deviation"),
        (0, 1.5, "images.clip(0, 1)"),
        (0, 3, "Divide by 255"),
    ],
)
def test_pixels_out_of_range(door: Door, low: float, high: float, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auditor.data.intake.stored_arrays.BATCH_BYTES", 3000)
    images = RNG.uniform(low, high, (30, 8, 6, 3)).astype(np.float32)
    images[3, 0, 0, 0], images[29, 0, 0, 0] = low, high
    door.refuse_dataset(good(images=images), "'images'", f"from {low:g} to {high:g}", hint)
    door.refuse_dataset(good(images=images), f"from {low:g} to {high:g}", size=ImageSize(height=4, width=4))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS - 1, "10 labels that are negative (#0 is -1, #3 is -1, #6 is -1, #9 is -1, #12 is -1)"),
        (np.where(LABELS == 2, 100_000, LABELS), "10 labels that are 100,000 or more (#2 is 100000"),
        (np.full(30, 2**64 - 1, np.uint64), "30 labels that are 100,000 or more"),
        (LABELS + 0.7, "30 labels that are not whole numbers (#0 is 0.7, #1 is 1.7, #2 is 2.7, #3 is 0.7, #4 is 1.7)"),
        (np.where(LABELS, np.nan, 1.0), "20 labels that are not whole numbers (#1 is nan"),
        (LABELS.astype("M8[s]"), "datetime64[s]"),
        (np.array([b"\xff"] * 30), "not valid UTF-8"),
        (LABELS[:-1], "29 labels for 30 images"),
        (np.array([["a", "b"]] * 30), "the shape 30x2"),
        (np.int64(3), "the shape scalar"),
        (np.zeros((30, 2, 2), int), "the shape 30x2x2"),
        (
            np.where(LABELS == 1, 100_000, LABELS - 1),
            "10 labels that are negative (#0 is -1, #3 is -1, #6 is -1, #9 is -1, #12 is -1) and 10 labels that are 100,000 or",
        ),
    ],
)
def test_labels_that_are_none(door: Door, labels: NDArray[Any], words: str) -> None:
    door.refuse_dataset(good(labels=labels), "'labels'", words)


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (LABELS.astype(float), "'labels' has the type float64; its whole numbers were taken as labels."),
        (LABELS == 2, "false is class 0, true is class 1"),
        (np.eye(3, dtype=int)[LABELS], "'labels' has the shape 30x3 and marks one class in each row"),
        (np.eye(3)[LABELS], "'labels' has the shape 30x3 and marks one class in each row"),
        (NAMES[LABELS], "they became classes in sorted order ('cat', 'dog', 'été')"),
        (np.char.encode(NAMES, "utf-8")[LABELS], "they became classes in sorted order ('cat', 'dog', 'été')"),
        (NAMES[LABELS][:, None], "they became classes in sorted order ('cat', 'dog', 'été')"),
        (np.array(["0", "1", "10"])[LABELS], "they are the numbers of the classes ('0', '1', '10')"),
    ],
)
def test_labels_of_other_kinds_are_read_and_said(door: Door, labels: NDArray[Any], note: str) -> None:
    manifest = door.dataset(good(labels=labels))
    expected = np.where(LABELS == 2, 10, LABELS) if "numbers of" in note else LABELS == 2 if "false" in note else LABELS
    np.testing.assert_array_equal(ImageDataset.open(door.destination).labels, expected)
    assert note in " ".join(manifest.notes)
    assert manifest.class_names == (("cat", "dog", "été") if "sorted" in note else manifest.class_names)


def test_names_as_labels_are_looked_up_in_the_class_names(door: Door) -> None:
    names = np.array(["été", "cat", "dog"])
    door.dataset(good(labels=NAMES[LABELS], class_names=names))
    np.testing.assert_array_equal(ImageDataset.open(door.destination).labels, np.array([1, 2, 0])[LABELS])
    error = door.refuse_dataset(
        good(labels=NAMES[LABELS], class_names=names[1:]), "1 name that the class names lack: 'été'"
    )
    assert "leave the class names out" in error.hint
    door.dataset(good(labels=NAMES[LABELS]))  # the remedy


def test_labels_that_count_from_one(door: Door) -> None:
    error = door.refuse_dataset(good(labels=LABELS + 1, class_names=NAMES), "10 labels that are 3 or more")
    assert "--first-label 1" in error.hint
    for changes in ({}, {"class_names": NAMES}):
        manifest = door.dataset(good(labels=LABELS + 1, **changes), first_label=1)
        np.testing.assert_array_equal(ImageDataset.open(door.destination).labels, LABELS)
        assert manifest.num_classes == 3
    door.refuse_dataset(good(), "10 labels that are below 1 (#0 is 0", "expected 1 to", first_label=1)


def test_several_labels_for_an_image(door: Door) -> None:
    labels = np.eye(3, dtype=int)[LABELS]
    labels[4], labels[7], labels[8] = [1, 1, 0], 0, 0
    error = door.refuse_dataset(
        good(labels=labels), "several labels for an image (1 image with several, 2 images with none)"
    )
    assert "argmax(1)" in error.hint
    keep = (labels != 0).sum(1) == 1  # the remedy
    assert door.dataset(npz(images=IMAGES[keep], labels=labels[keep].argmax(1))).samples == 27
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 30)
    assert (
        door.refuse_dataset(good(labels=shares), "several labels").hint
        == "They look like probabilities: save labels.argmax(1)."
    )
    assert door.dataset(good(labels=shares.argmax(1))).samples == 30


def test_labels_beyond_the_class_names(door: Door) -> None:
    error = door.refuse_dataset(good(class_names=NAMES[:2]), "10 labels that are 2 or more (#2 is 2, #5 is 2", "0 to 1")
    assert error.hint == "Give a name for every class, in the order of their numbers."


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (np.array(["a", "b", "a"]), "'a' appears twice"),
        (np.array(["a", " ", "c"]), "not supported"),
        (np.array(["a", "b\x00c", "d"]), r"'b\x00c' is not supported"),
        (np.array(["a", "\u202eb", "d"]), r"'\u202eb' is not supported"),
        (np.array(["a", "\ud800", "d"]), r"'\ud800' is not supported"),
        (np.array(["a" * 501, "b", "c"]), "not supported"),
        (np.array([b"a", b"\xff", b"c"]), "not valid text"),
        (np.array([1, 2, 3]), "expected a list of names"),
        (np.array([["a", "b", "c"]]), "expected a list of names"),
        (np.array([], str), "the list of class names is empty".capitalize()),
        (np.array(["", "", ""]), "not supported"),
    ],
)
def test_class_names_that_are_none(door: Door, names: NDArray[Any], words: str) -> None:
    door.refuse_dataset(good(class_names=names), words)


def test_class_names_as_bytes(door: Door) -> None:
    manifest = door.dataset(good(class_names=np.array(["cat", "dog", "été".encode()], "S")))
    assert known(manifest.class_names)[2] == "été"


# Hostile headers.


def member(header: bytes, data: bytes = b"", version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    size = len(header) if length is None else length
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", size) + header + data


def described(descr: object, shape: tuple[int, ...], order: str = "False") -> bytes:
    return f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape!r}, }}\n".encode()


def crafted(zipped: Zipped, images: bytes) -> bytes:
    labels = io.BytesIO()
    np.save(labels, LABELS)
    return zipped({"images.npy": images, "labels.npy": labels.getvalue()})


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (
            member(described("|u1", (10**6, 10**6, 1)), bytes(100)),
            "declares 1,000,000,000,000 bytes, the archive holds 100",
        ),
        (member(described("|u1", (30, 8, 8, 3)), bytes(100)), "declares 5,760 bytes"),
        (member(described("|u1", (30, 2, 2, 3)), bytes(400)), "declares 360 bytes, the archive holds 400"),
        (member(described("|u1", (-30, -1, 1)), bytes(30)), "not a plain array"),
        (member(described("<U100000000", (30, 8, 8)), bytes(100)), "declares"),
        (member(described("|O", (30, 8, 8)), bytes(100)), "contains Python objects"),
        (member(described([("a", "u1")], (30, 8, 8)), bytes(1920)), "not a plain array"),
        (member(described([("a", "O")], (30, 8, 8)), bytes(1920)), "contains Python objects"),
        (member(described("|u1", (30, 8, 9), "True"), bytes(1920)), "declares 2,160 bytes"),
        (member(b"(" * 5000 + b")" * 5000), "its header cannot be read"),
        (member(b"[" * 9000), "its header cannot be read"),
        (member(b"__import__('os').system('touch canary')\n"), "its header cannot be read"),
        (member(b"{'descr': '|u1'}\n"), "its header cannot be read"),
        (member(b" " * 20_000), "its header has 20,000 bytes"),
        (member(b"{}", length=2**31, version=(2, 0)), "its header has 2,147,483,648 bytes"),
        (member(b"{}", version=(3, 0)), "does not start as an array"),
        (member(b"{}", version=(9, 9)), "does not start as an array"),
        (b"\x93NUMP", "does not start as an array"),
        (b"", "does not start as an array"),
        (b"plain text that is long enough", "does not start as an array"),
        (member(b"{'descr'", length=5000), "cannot be read"),
    ],
    ids=range(21),
)
def test_headers(door: Door, zipped: Zipped, images: bytes, words: str) -> None:
    door.refuse_dataset(crafted(zipped, images), words)


def test_version_2_headers_are_read(door: Door, zipped: Zipped) -> None:
    images = member(described("|u1", (30, 8, 8)), RNG.bytes(1920), version=(2, 0))
    assert door.dataset(crafted(zipped, images)).shape == (1, 8, 8)


def test_a_single_array(door: Door) -> None:
    np.save(stream := io.BytesIO(), IMAGES)
    door.refuse_dataset(stream.getvalue(), "a single NumPy array", "np.savez_compressed('data.npz'")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"PK\x05\x06" + bytes(18), "empty archive"),
        (b"\x89PNG" + bytes(100), "a PNG image"),
        (b"a,b,c\n1,2,3\n", "a text"),
        (b"\x80\x04\x95" + bytes(100), "a Python pickle"),
        (b"\x1f\x8b\x08" + bytes(100), "its gzip stream cannot be read to the end"),
        (b"PK\x03\x04" + bytes(100), "damaged: it ends early"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
    ],
)
def test_other_files(door: Door, content: bytes, words: str) -> None:
    door.refuse_dataset(content, words)


def test_a_model(door: Door, saved: Saved, state: dict[str, Tensor]) -> None:
    door.refuse_dataset(saved(state), "a torch model, not a data set")


def test_truncated(door: Door) -> None:
    content = good()
    for kept in (3, 30, 100, len(content) // 2, len(content) - 30, len(content) - 1):
        door.refuse_dataset(content[:kept])


def test_a_wrong_checksum(door: Door) -> None:
    content = bytearray(npz(False, images=IMAGES, labels=LABELS))
    content[500] ^= 1
    door.refuse_dataset(bytes(content), "damaged", "'images.npy'", "wrong checksum")


def test_limits(door: Door) -> None:
    cases = {
        "the limit is 1000 bytes": Limits(upload_bytes=1000),
        "30 images, the limit is 29": Limits(samples=29),
        "8x6 pixels, the limit is 40 pixels": Limits(image_pixels=40),
        "expands to 4.4 KiB, more than the limit of 4.3 KiB": Limits(expanded_bytes=4403),
        "labels that are 2 or more": Limits(classes=2),
        "2 entries": Limits(members=2),
    }
    for words, limits in cases.items():
        content = (
            good(class_names=NAMES) if "entries" in words else npz(False, images=IMAGES, labels=LABELS.astype("u1"))
        )
        if "expands" in words:
            words = "more than the limit of 4.3 KiB"
        door.refuse_dataset(content, words, limits=limits)


def test_the_stored_size_is_limited_too(door: Door) -> None:
    limits = Limits(expanded_bytes=100_000)
    door.refuse_dataset(good(), "of pixels, more than the limit", limits=limits, size=ImageSize(height=100, width=100))


# Warnings.


def test_warnings(door: Door) -> None:
    images, labels = IMAGES.copy(), LABELS.copy()
    images[4], images[7] = 9, 200  # constant
    images[20] = images[10]  # 10 is class 1, 20 is class 2
    images[13] = images[10]  # the same class
    warnings = door.dataset(good(images=images, labels=labels)).warnings
    assert warnings == (
        "2 images are constant (one colour only), the first is #4.",
        "2 images repeat an earlier one exactly, for example #10 and #13.",
        "Of these, 1 with another label than the image repeated.",
    )


def test_a_constant_colour_counts_as_constant(door: Door) -> None:
    images = IMAGES.copy()
    images[3] = [1, 2, 3]
    assert door.dataset(good(images=images)).warnings == ("1 image is constant (one colour only), the first is #3.",)


@pytest.mark.parametrize("piece", [1 << 20, 7])
def test_an_image_that_begins_and_ends_with_one_colour_is_not_constant(
    door: Door, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditor.data.intake.survey._PIECE_PIXELS", piece)
    images = IMAGES.copy()
    images[3], images[5], images[8] = [1, 2, 3], [1, 2, 3], [1, 2, 3]
    images[5, 2, 3, 1] = 0
    images[9] = images[5]
    constant = [at for at, image in enumerate(images) if len(np.unique(image.reshape(-1, 3), axis=0)) == 1]
    assert constant == [3, 8]
    assert door.dataset(good(images=images)).warnings[:2] == (
        "2 images are constant (one colour only), the first is #3.",
        "2 images repeat an earlier one exactly, for example #3 and #8.",
    )


def test_class_warnings(door: Door) -> None:
    manifest = door.dataset(good(labels=np.where(LABELS, 5, 5)))
    assert "All images are of one class" in manifest.warnings[0]
    assert manifest.warnings[1] == "5 classes have no images: class 0, class 1, class 2, class 3, class 4."
    names = np.array(["a", "b", "c", "d"])
    assert door.dataset(good(class_names=names)).warnings == ("1 class has no images: 'd'.",)
    skewed = np.zeros(30, int)
    skewed[0] = 1
    assert (
        "very unbalanced: class 0 has 29 images, the smallest class 1" in door.dataset(good(labels=skewed)).warnings[0]
    )


def test_floats_of_256_levels_are_fine(door: Door) -> None:
    assert door.dataset(good(images=IMAGES / np.float32(255))).warnings == ()


def test_an_archive_of_arrays_with_other_files(door: Door, zipped: Zipped) -> None:
    with zipfile.ZipFile(stream := io.BytesIO(good()), "a") as file:
        file.writestr("readme.txt", "hello")
    assert door.dataset(stream.getvalue()).samples == 30


def test_failures_of_the_disk_leave_nothing(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        door.dataset(good())
    assert list(door.stored.iterdir()) == []
    with pytest.raises(IntakeError):
        door.dataset(good(labels=LABELS - 1))
