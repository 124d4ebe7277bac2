"""What people bring, and what they are told: each remedy that an error names is tried on the very file that was refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from auditor.auditing.audit import run
from auditor.auditing.spec import AuditSpec
from auditor.kit.errors import MismatchError
from auditor.models.class_match import matched
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.report.html import render
from tests.auditor.data.intake.conftest import Door, Zipped
from tests.nets import small_cnn

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 8, 8, 3), np.uint8)
LABELS = np.arange(8) % 4


def picture(content: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    Image.fromarray(content).save(stream := io.BytesIO(), kind, **options)
    return stream.getvalue()


def arrays(**content: Any) -> bytes:
    np.savez(stream := io.BytesIO(), **content)
    return stream.getvalue()


def stored(door: Door) -> ImageDataset:
    return ImageDataset.open(door.destination)


# Archives of images.


def test_files_beside_the_images_are_left_out_and_said(door: Door, zipped: Zipped) -> None:
    files = {"d/a/1.png": picture(IMAGES[0]), "d/b/1.png": picture(IMAGES[1])}
    files |= {"d/a/list.csv": b"x,y\n", "d/classes.txt": b"a\nb\n"}
    beside = {"d/Icon\r": b"", "d/annotations/1.xml": b"<a/>", "d/annotations/": b"", "d/eel/": b""}
    manifest = door.dataset(zipped(files | beside))
    assert manifest.class_names == ("a", "b", "eel")
    assert manifest.notes[0].startswith("4 files ignored: ")
    manifest = door.dataset(zipped(files | {"d/Icon\r": b""}))
    assert manifest.notes == (r"3 files ignored: 'd/a/list.csv', 'd/classes.txt', 'd/Icon\r'.",)
    assert (manifest.samples, stored(door).notes) == (2, manifest.notes)


def bad_files() -> dict[str, bytes]:
    return {
        "a/1.png": picture(IMAGES[0]),
        "a/2.pdf.jpg": picture(IMAGES[1], "PDF"),
        "a/3.png": picture(IMAGES[2])[:90],
        "a/x\ty.png": picture(IMAGES[3]),
        "b/1.png": picture(IMAGES[4]),
        "b/2.png": b"just a text, really",
        "b/sub/4.png": picture(IMAGES[5]),
        "b/9.npy": b"\x93NUMPY",
        "top.png": picture(IMAGES[6]),
    }


def test_all_files_that_cannot_be_used_are_named_and_may_be_left_out(door: Door, zipped: Zipped) -> None:
    one = {"a/1.png": picture(IMAGES[0]), "a/2.pdf.jpg": picture(IMAGES[1], "PDF")}
    error = door.refuse_dataset(zipped(one), "'a/2.pdf.jpg'", "a PDF document")
    assert "--leave-out" in error.hint
    error = door.refuse_dataset(zipped(bad_files()), "7 of 9 files cannot be used", "And 2 more.")
    for words in (
        r"'a/x\ty.png' has an unsupported name",
        "'b/sub/4.png'",
        "'top.png'",
        "'a/2.pdf.jpg' is not a readable",
    ):
        assert words in error.message
    contents = {name: content for name, content in bad_files().items() if name.count("/") == 1 and "\t" not in name}
    error = door.refuse_dataset(zipped(contents), "4 of 6 files cannot be used")
    for words in ("'a/2.pdf.jpg' is not a readable", "'a/3.png' is truncated", "'b/2.png' is not", "'b/9.npy' is not"):
        assert words in error.message
    manifest = door.dataset(zipped(bad_files()), leave_out=True)  # the remedy
    assert (manifest.samples, manifest.class_counts) == (2, (1, 1))
    np.testing.assert_array_equal(door.pixels(), IMAGES[[0, 4]])
    (note,) = [note for note in manifest.notes if "left out" in note]
    assert note.startswith("7 of 9 files were left out, since they cannot be used: ")
    for name in ("a/2.pdf.jpg", "a/3.png", r"a/x\ty.png", "b/2.png", "b/9.npy", "b/sub/4.png", "top.png"):
        assert f"'{name}'" in note
    classifier = Classifier(small_cnn(shape=(3, 8, 8)), input_shape=(3, 8, 8), num_classes=5)
    spec = AuditSpec.load({"attacks": [{"kind": "fgsm"}], "analyses": [], "checks": [], "curve": [], "samples": None})
    result = run(spec, classifier, stored(door))
    assert note in result.provenance.dataset.notes
    assert "7 of 9 files were left out" in render(result)


def test_when_nothing_is_left_it_is_said(door: Door, zipped: Zipped) -> None:
    door.refuse_dataset(
        zipped({"a/1.jpg": picture(IMAGES[0], "PDF"), "b/1.png": b"x"}), "holds no images", leave_out=True
    )


def test_ppm_is_read(door: Door, zipped: Zipped) -> None:
    grey = IMAGES[1][..., 0]
    manifest = door.dataset(zipped({"00000/1.ppm": picture(IMAGES[0], "PPM"), "00001/1.pgm": picture(grey, "PPM")}))
    np.testing.assert_array_equal(door.pixels(), [IMAGES[0], np.stack([grey] * 3, -1)])
    assert manifest.class_names == ("0", "1")
    pfm = b"Pf\n2 2\n-1.0\n" + bytes(16)
    door.refuse_dataset(
        zipped({"a/1.pfm": pfm, "b/1.png": picture(grey)}), "pixels of the kind F", "Convert it to 8 bits"
    )


def test_twelve_bits_in_sixteen_are_warned_of_and_the_scale_can_be_given(door: Door, zipped: Zipped) -> None:
    twelve = (np.arange(64).reshape(8, 8) * 65).astype("uint16")
    files = zipped({"a/1.png": picture(twelve), "b/1.png": picture(twelve[::-1].copy())})
    manifest = door.dataset(files)
    assert door.pixels().max() == 16
    (warning,) = manifest.warnings
    assert warning == (
        "The largest value of the 2 16-bit images is 4,095, so 12 of 16 bits are used: scaled as 16 bits, the brightest pixel is "
        "16 of 255. If white is 4,095, add the data set again with `--largest-value 4095` on the command line, 'Largest pixel "
        "value' on the page."
    )
    manifest = door.dataset(files, largest_value=4095)  # the remedy
    np.testing.assert_array_equal(door.pixels()[0, ..., 0], np.floor(twelve / 4095 * 255 + 0.5))
    assert (manifest.warnings, "4,095 is white, as asked" in manifest.notes[-1]) == ((), True)
    error = door.refuse_dataset(files, "the value 4,095, more than the largest value given, 1,023", largest_value=1023)
    assert error.hint == "Give 4,095 or more."
    bright = (twelve * 16).astype("uint16")
    assert door.dataset(zipped({"a/1.png": picture(bright)})).warnings[1:] == ()


def test_arrays_of_sixteen_bits(door: Door) -> None:
    twelve = IMAGES.astype(np.uint16) * 16
    content = arrays(images=twelve, labels=LABELS)
    error = door.refuse_dataset(content, "uint16 (from 0 to 4,080)", "--largest-value 4095")
    assert "save (images / 4095).astype('float32')" in error.hint
    door.dataset(arrays(images=(twelve / 4095).astype("float32"), labels=LABELS))  # one remedy
    first = door.pixels().copy()
    door.dataset(arrays(images=twelve, labels=LABELS), largest_value=4095)  # the other one
    np.testing.assert_allclose(door.pixels(), first, atol=1e-7)
    error = door.refuse_dataset(content, "values from 0 to 4,080; expected 0 to 255", largest_value=255)
    assert error.hint == "Give 4,080 or more."


def test_images_that_are_nearly_black_altogether_are_warned_of(door: Door) -> None:
    ones = (IMAGES // 128).astype(np.uint8)
    assert "brightest pixel of all images is 1 of 255" in door.dataset(arrays(images=ones, labels=LABELS)).warnings[0]
    door.dataset(arrays(images=ones, labels=LABELS), largest_value=1)  # the remedy
    assert door.pixels().max() == 1
    small = (IMAGES / 255 / 255).astype(np.float32)
    assert "nearly black" in door.dataset(arrays(images=small, labels=LABELS)).warnings[0]


def test_an_npz_in_a_zip_is_read(door: Door, zipped: Zipped) -> None:
    inner = arrays(images=IMAGES, labels=LABELS)
    door.dataset(zipped({"x/data.npz": inner, "x/readme.txt": b"hello"}))
    np.testing.assert_array_equal(door.pixels(), IMAGES)
    two = zipped({"x/data.npz": arrays(images=IMAGES[:4], labels=LABELS[:4]), "y/more.npz": inner})
    error = door.refuse_dataset(two, "several files of arrays ('x/data.npz', 'y/more.npz')")
    assert "`--inside x/data.npz` or `--inside y/more.npz`" in error.hint
    manifest = door.dataset(two, inside="y/more.npz")  # the remedy
    np.testing.assert_array_equal(door.pixels(), IMAGES)
    assert manifest.notes[-1] == "Read from 'y/more.npz' in the file, as asked."


# Arrays.


def test_an_alpha_channel(door: Door) -> None:
    rgba = np.concatenate([IMAGES, IMAGES[..., :1]], -1)
    error = door.refuse_dataset(arrays(images=rgba, labels=LABELS), "8x8x8x4; expected 1 or 3 channels")
    assert "save the colours alone: images[..., :3]; or drop it: `--channels 3`" in error.hint
    assert "dropped, as asked" in " ".join(door.dataset(arrays(images=rgba, labels=LABELS), channels=3).notes)
    np.testing.assert_array_equal(door.pixels(), IMAGES)
    door.dataset(arrays(images=rgba[..., :3], labels=LABELS))  # the remedy
    first = np.ascontiguousarray(rgba.transpose(0, 3, 1, 2))
    error = door.refuse_dataset(arrays(images=first, labels=LABELS), "8x4x8x8")
    assert "images[:, :3]" in error.hint
    assert door.dataset(arrays(images=first[:, :3], labels=LABELS)).shape == (3, 8, 8)
    assert "images[..., :1]" in door.refuse_dataset(arrays(images=rgba[..., :2], labels=LABELS)).hint
    wide = np.concatenate([rgba, rgba], -1)[..., :7]
    assert "the first three: images[..., :3]" in door.refuse_dataset(arrays(images=wide, labels=LABELS)).hint


def test_an_order_of_axes_that_can_be_read_in_two_ways(door: Door) -> None:
    images = RNG.integers(0, 256, (8, 3, 5, 3), np.uint8)
    error = door.refuse_dataset(arrays(images=images, labels=LABELS), "ambiguous")
    assert "--layout NHWC" in error.hint
    door.dataset(arrays(images=images, labels=LABELS), layout="NHWC")
    np.testing.assert_array_equal(door.pixels(), images)
    door.dataset(arrays(images=images, labels=LABELS), layout="NCHW")
    np.testing.assert_array_equal(door.pixels(), images.transpose(0, 2, 3, 1))
    error = door.refuse_dataset(
        arrays(images=IMAGES, labels=LABELS), "expected 1 or 3 channels, as NCHW", layout="NCHW"
    )
    assert door.dataset(arrays(images=IMAGES, labels=LABELS)).samples == 8


def test_column_order(door: Door) -> None:
    door.dataset(arrays(images=np.asfortranarray(IMAGES), labels=LABELS))
    np.testing.assert_array_equal(door.pixels(), IMAGES)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_image_that_is_not_a_number_is_left_out_by_choice(door: Door, value: float) -> None:
    images = (IMAGES / 255).astype(np.float32)
    images[2, 3, 3, 0] = images[6, 0, 0, 1] = value
    error = door.refuse_dataset(arrays(images=images, labels=LABELS), "NaN or infinite pixels in 2 images (#2, #6)")
    assert "--leave-out" in error.hint
    manifest = door.dataset(arrays(images=images, labels=LABELS), leave_out=True)
    keep = [0, 1, 3, 4, 5, 7]
    assert manifest.samples == 6
    assert "2 of 8 images were left out, since they cannot be used: #2, #6." in manifest.notes
    np.testing.assert_array_equal(door.pixels(), images[keep])
    assert stored(door).labels.tolist() == LABELS[keep].tolist()
    assert stored(door).sample_names == tuple(f"#{number}" for number in keep)


def test_images_of_which_none_is_a_number_are_refused(door: Door) -> None:
    images = np.full((8, 4, 4, 3), np.nan)
    door.refuse_dataset(arrays(images=images, labels=LABELS), "in 8 images", leave_out=True)


def model(channels: int = 3, classes: int = 4) -> Classifier:
    return Classifier(nn.Flatten(), input_shape=(channels, 8, 8), num_classes=classes)


def test_labels_from_one_for_a_model(door: Door) -> None:
    content = arrays(images=IMAGES, labels=LABELS + 1)
    door.dataset(content)
    with pytest.raises(MismatchError, match="labels from 1 to 4, the model only 4 classes") as caught:
        matched(model(), stored(door))
    assert "--first-label 1" in caught.value.hint
    door.dataset(content, first_label=1)  # the remedy
    assert matched(model(), stored(door)).dataset.labels.tolist() == LABELS.tolist()


def test_grey_images_for_a_colour_model_and_the_other_way_round(door: Door, zipped: Zipped) -> None:
    files = zipped({f"{kind}/{i}.png": picture(IMAGES[i, ..., 0]) for i, kind in enumerate("abcd")})
    for content in (arrays(images=IMAGES[..., :1], labels=LABELS), files):
        door.dataset(content)
        with pytest.raises(MismatchError) as caught:
            matched(model(), stored(door))
        assert "--channels 3" in caught.value.hint
        manifest = door.dataset(content, channels=3)  # the remedy
        assert "three equal channels, as asked" in " ".join(manifest.notes)
        assert matched(model(), stored(door))
        np.testing.assert_array_equal(door.pixels()[1], np.stack([IMAGES[1, ..., 0]] * 3, -1))
    oracle = [np.asarray(Image.fromarray(image).convert("L")) for image in IMAGES]
    for images in (IMAGES, (IMAGES / 255).astype(np.float32)):
        door.dataset(arrays(images=images, labels=LABELS), channels=1)
        assert matched(model(1), stored(door))
        shown = door.pixels()[..., 0] * (1.0 if images.dtype == np.uint8 else 255.0)
        np.testing.assert_allclose(shown, oracle, atol=1)
    door.dataset(zipped({"a/1.png": picture(IMAGES[0]), "b/1.png": picture(IMAGES[1])}), channels=1)
    np.testing.assert_array_equal(door.pixels()[..., 0], oracle[:2])


# Headers of arrays.


@pytest.mark.parametrize(
    ("descr", "shape", "size", "words"),
    [
        ("|u1", (True, 8, 8), 64, "its shape is (True, 8, 8)"),
        ("|u1", (8, True, 8), 64, "its shape is (8, True, 8)"),
        ("|u1", (-8, -8, 1), 64, "its shape is (-8, -8, 1)"),
        ("|u1", (2**70, 0, 8), 0, "its shape is (1180591620717411303424"),
        ("|u1", (1,) * 40, 1, "its shape is ("),
        ("|V1", (8, 8, 1), 64, "not a plain array of numbers or text but of the type |V1"),
        ("<U0", (2**40, 8, 8), 0, "of the type <U0"),
        ("|S0", (2**40, 8, 8), 0, "of the type |S0"),
        ([("a", "<u2"), ("b", "<u2")], (4, 4), 64, "of the type [('a', '<u2')"),
        (("<u2", (2,)), (4, 4), 64, "of the type"),
        ("|O", (8, 8, 1), 64, "contains Python objects"),
        ("<c8", (1, 8, 1), 64, "complex64"),
        ("<M8[s]", (1, 8, 1), 64, "datetime64[s]"),
    ],
)  # fmt: skip
def test_a_header_is_judged_wholly(
    door: Door, zipped: Zipped, descr: object, shape: tuple[int, ...], size: int, words: str
) -> None:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(size)
    np.save(labels := io.BytesIO(), np.zeros(1, int))
    door.refuse_dataset(zipped({"images.npy": content, "labels.npy": labels.getvalue()}), words)
    np.save(images := io.BytesIO(), np.zeros((1, 8, 8), np.uint8))
    error = door.refuse_dataset(zipped({"images.npy": images.getvalue(), "labels.npy": content}))
    assert "'labels'" in error.message
