"""What the user leaves out, by patterns and by numbers: of folders, zips, tars, tables and arrays; and MNIST-C's folders."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest

from auditor.data.intake.exclusion import Exclusion, numbered
from auditor.kit.errors import IntakeError
from tests.auditor.data.intake.conftest import Door, Zipped
from tests.auditor.data.intake.test_intake_libraries import IMAGES, LABELS, encoded, npy, stored


def folders() -> dict[str, bytes]:
    """Ten images of two classes, and one file that cannot be read."""
    made = {f"d/{'ab'[number % 2]}/{number}.png": encoded(image) for number, image in enumerate(IMAGES)}
    return made | {"d/a/bad.gif": b"GIF89a" + bytes(20)}


def tarred(entries: dict[str, bytes]) -> bytes:
    with tarfile.open(fileobj=(stream := io.BytesIO()), mode="w") as file:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    ("patterns", "left"),
    [(("*.gif",), range(10)), (("bad.*", "d/b/*"), range(0, 10, 2)), (("*.gif", "[0-3].png"), range(4, 10))],
)
def test_files_of_folders(door: Door, zipped: Zipped, kind: str, patterns: tuple[str, ...], left: range) -> None:
    content = zipped(folders()) if kind == "zip" else tarred(folders())
    door.refuse_dataset(content, "bad.gif")
    manifest = door.dataset(content, exclude=patterns)
    order = sorted(left, key=lambda number: (number % 2, str(number)))
    np.testing.assert_array_equal(door.pixels(), IMAGES[order])
    (note,) = [note for note in manifest.notes if "as asked" in note]
    assert note.startswith(f"{11 - len(left)} of 11 files w")
    assert "'d/a/bad.gif'" in note
    assert note in stored(door).notes


def test_files_that_a_list_names(door: Door, zipped: Zipped) -> None:
    rows = "".join(f"{number}.png,{'ab'[number % 2]}\n" for number in range(10))
    content = zipped(
        {"labels.csv": b"file,label\n" + rows.encode(), **{f"i/{n}.png": encoded(IMAGES[n]) for n in range(10)}}
    )
    manifest = door.dataset(content, exclude=("i/3.png", "7.png"))
    assert manifest.samples == 8
    assert "2 of 11 files were left out, as asked: 'i/3.png', 'i/7.png'." in manifest.notes


def test_samples_and_files_of_webdataset(door: Door, zipped: Zipped) -> None:
    entries: dict[str, bytes] = {}
    for number, image in enumerate(IMAGES):
        entries |= {f"{number}.png": encoded(image), f"{number}.cls": str(LABELS[number]).encode()}
    content = tarred(entries | {"9.png": b"broken"})
    door.refuse_dataset(content, "9")
    manifest = door.dataset(content, exclude=("9.*",))
    assert manifest.samples == 9
    assert "2 of 20 files were left out, as asked: '9.png', '9.cls'." in manifest.notes
    assert door.dataset(zipped({"d/0.tar": content}), exclude=("9.*", "0.png", "0.cls")).samples == 8


def test_rows_of_parquet_by_number(door: Door, zipped: Zipped) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")

    images = [encoded(image) for image in IMAGES]
    images[3] = b"broken"
    pq.write_table(pa.table({"image": images, "label": LABELS}), stream := io.BytesIO())
    content = stream.getvalue()
    door.refuse_dataset(content, "#3")
    manifest = door.dataset(content, exclude=("#3", "#7-8"))
    np.testing.assert_array_equal(door.pixels(), IMAGES[[0, 1, 2, 4, 5, 6, 9]])
    assert "3 of 10 images were left out, as asked: #3, #7, #8." in manifest.notes
    assert stored(door).sample_names == tuple(f"#{number}" for number in (0, 1, 2, 4, 5, 6, 9))
    door.refuse_dataset(content, "has no samples '#9-10'", "#0 to #9", exclude=("#9-10",))
    shards = zipped({"train-0.parquet": content, "train-1.parquet": content})
    assert door.dataset(shards, exclude=("train-1.parquet", "#3")).samples == 9


def test_images_of_arrays_by_number(door: Door) -> None:
    floats = (IMAGES / 255).astype(np.float32)
    floats[4] = np.nan
    np.savez(stream := io.BytesIO(), images=floats, labels=LABELS)
    door.refuse_dataset(stream.getvalue(), "#4")
    manifest = door.dataset(stream.getvalue(), exclude=("#4",))
    np.testing.assert_array_equal(door.pixels(), floats[[0, 1, 2, 3, 5, 6, 7, 8, 9]])
    assert "1 of 10 images was left out, as asked: #4." in manifest.notes


def test_what_matches_nothing_or_leaves_nothing_is_an_error(door: Door, zipped: Zipped) -> None:
    content = zipped(folders())
    error = door.refuse_dataset(content, "no file that matches '*.jpg'", exclude=("*.jpg", "*.gif"))
    assert "*.gif" in error.hint
    door.refuse_dataset(content, "Nothing of", exclude=("*",))
    door.refuse_dataset(content, "left out by their paths", exclude=("#1", "*.gif"))
    np.savez(stream := io.BytesIO(), images=IMAGES, labels=LABELS)
    door.refuse_dataset(stream.getvalue(), "no file that matches 'x.png'", exclude=("x.png",))


def test_both_ways_to_leave_out_together(door: Door, zipped: Zipped) -> None:
    content = zipped(folders() | {"d/b/bad.png": b"x"})
    notes = door.dataset(content, exclude=("*.gif",), leave_out=True).notes
    assert "1 of 12 files was left out, as asked: 'd/a/bad.gif'." in notes
    assert "1 of 11 files was left out, since it cannot be used: 'd/b/bad.png'." in notes


def test_many_names_are_counted(door: Door, zipped: Zipped) -> None:
    more = {f"d/a/{number}.raw": b"x" for number in range(30)}
    (note,) = [
        note for note in door.dataset(zipped(folders() | more), exclude=("*.raw", "*.gif")).notes if "asked" in note
    ]
    assert note.startswith("31 of 41 files were left out")
    assert note.endswith(" and 11 more.")


def test_numbers_are_read_as_errors_say_them() -> None:
    assert np.flatnonzero(numbered(("#0", "#3-#4", "*.png"), 6, "x")).tolist() == [0, 3, 4]
    for bad in ("#6", "#4-3"):
        with pytest.raises(IntakeError, match="has no samples"):
            numbered((bad,), 6, "x")
    assert Exclusion(("#1",)).notes("x") == []


# MNIST-C.


def mnist_c() -> dict[str, bytes]:
    """MNIST-C's form: a folder for each corruption, with arrays of both parts."""
    made = {}
    for at, corruption in enumerate(("identity", "stripe", "zigzag")):
        for part, count in (("train", 6), ("test", 4)):
            made[f"mnist_c/{corruption}/{part}_images.npy"] = npy(IMAGES[:count, ..., :1] // (at + 1))
            made[f"mnist_c/{corruption}/{part}_labels.npy"] = npy(LABELS[:count])
    return made


def test_mnist_c(door: Door, zipped: Zipped) -> None:
    content = zipped(mnist_c())
    error = door.refuse_dataset(content, "several parts: 'train', 'test'")
    assert "--part test" in error.hint
    manifest = door.dataset(content, parts=("test",))
    assert manifest.format == "npy"
    assert [(group.corruption, group.severity, group.samples) for group in manifest.groups] == [
        ("identity", 0, 4), ("stripe", 0, 4), ("zigzag", 0, 4),
    ]  # fmt: skip
    np.testing.assert_array_equal(door.pixels(), np.concatenate([IMAGES[:4, ..., :1] // k for k in (1, 2, 3)]))
    np.testing.assert_array_equal(stored(door).labels, np.tile(LABELS[:4], 3))
    manifest = door.dataset(content, parts=("train", "test"), corruptions=("stripe",))
    assert [(group.corruption, group.samples) for group in manifest.groups] == [("stripe", 10)]
    door.refuse_dataset(content, "no corruption 'snow'", parts=("test",), corruptions=("snow",))
    door.refuse_dataset(content, "no part 'val'", parts=("val",))
    assert door.dataset(content, inside="mnist_c/zigzag", parts=("test",)).samples == 4


def test_mnist_c_with_one_part_and_another_folder(door: Door, zipped: Zipped) -> None:
    tests = {path: array for path, array in mnist_c().items() if "test" in path}
    assert door.dataset(zipped(tests)).samples == 12
    assert door.dataset(zipped(tests), exclude=("mnist_c/stripe/*",)).samples == 8
    other = {path.replace("stripe", "checkers"): array for path, array in tests.items()}
    assert not getattr(door.refuse_dataset(zipped(other)), "groups", ())
