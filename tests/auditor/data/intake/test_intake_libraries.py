"""Data sets as their libraries write them, compared pixel by pixel and label by label with what those read themselves."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from numpy.typing import NDArray
from PIL import Image

from auditor.data.intake.datasets import look_into
from auditor.data.intake.image_size import ImageSize
from auditor.data.intake.label_map import parse_label_map
from auditor.data.intake.presets import size_of_preset
from auditor.kit.errors import IntakeError, SpecError
from auditor.kit.limits import Limits
from auditor.models.dataset import Group, ImageDataset
from tests.auditor.data.intake.conftest import Door, Zipped

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 8, 8, 3), np.uint8)
LABELS = np.arange(10) % 5


def encoded(image: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    Image.fromarray(image).save(stream := io.BytesIO(), kind, **options)
    return stream.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    np.save(stream := io.BytesIO(), array)
    return stream.getvalue()


def stored(door: Door) -> ImageDataset:
    return ImageDataset.open(door.destination)


# Hugging Face's datasets, Parquet.


@pytest.fixture
def table(tmp_path: Path) -> Any:
    """A Dataset of ten images held as bytes, with class names and a second column of labels."""
    datasets = pytest.importorskip("datasets")
    names = ["plane", "car", "bird", "cat", "deer"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    content = {"image": [Image.fromarray(image) for image in IMAGES], "label": LABELS.tolist()}
    return datasets.Dataset.from_dict(content, features=features)


def parquet(table: Any, folder: Path, **options: Any) -> bytes:
    table.to_parquet(str(folder / "data.parquet"), **options)
    return (folder / "data.parquet").read_bytes()


def test_parquet_is_what_datasets_reads(door: Door, table: Any, tmp_path: Path, zipped: Zipped) -> None:
    content = parquet(table, tmp_path, batch_size=3)
    manifest = door.dataset(content, "train-00000-of-00001.parquet")
    assert (manifest.format, manifest.class_names) == ("parquet", ("plane", "car", "bird", "cat", "deer"))
    np.testing.assert_array_equal(door.pixels(), [np.asarray(row["image"]) for row in table])
    np.testing.assert_array_equal(stored(door).labels, table["label"])
    assert manifest.labels_from == "integers"
    shards = zipped({"d/train-00001-of-2.parquet": content, "d/train-00000-of-2.parquet": content, "d/README.md": b"x"})
    assert door.dataset(shards).samples == 20
    parts = zipped({"d/train-00000.parquet": content, "d/test-00000.parquet": content})
    error = door.refuse_dataset(parts, "several parts")
    assert "--part test" in error.hint
    assert door.dataset(parts, parts=("test",)).samples == 10


def test_parquet_with_several_columns_asks(door: Door, table: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    coarse = table.add_column("coarse", (LABELS // 2).tolist()).cast_column(
        "coarse", datasets.ClassLabel(names=["a", "b", "c"])
    )
    content = parquet(coarse, tmp_path)
    error = door.refuse_dataset(content, "several columns that may be the labels: 'label', 'coarse'")
    assert "`--labels label` or `--labels coarse`" in error.hint
    assert door.dataset(content, labels="coarse").class_names == ("a", "b", "c")
    np.testing.assert_array_equal(stored(door).labels, LABELS // 2)
    (choice,) = look_into(door.inbox / "data.npz", "data.parquet").choices
    assert (choice.field, choice.values) == ("labels", ("label", "coarse"))


def test_parquet_of_paths_is_refused_and_the_remedy_works(door: Door, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for number, image in enumerate(IMAGES):
        (tmp_path / "d" / str(LABELS[number])).mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / str(LABELS[number]) / f"{number}.png").write_bytes(encoded(image))
    ds = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "d"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    content = parquet(ds, tmp_path)
    error = door.refuse_dataset(content, "holds the paths of images")
    code = error.hint[error.hint.index("from datasets") :].split(" Or ")[0]
    exec(code.replace('"data.parquet"', repr(str(tmp_path / "mended.parquet"))), {"ds": ds})
    manifest = door.dataset((tmp_path / "mended.parquet").read_bytes())  # the remedy
    assert manifest.samples == 10
    np.testing.assert_array_equal(door.pixels(), [np.asarray(row["image"]) for row in ds])
    np.testing.assert_array_equal(stored(door).labels, ds["label"])


def test_parquet_that_is_damaged_or_holds_code_leaves_no_trace(door: Door, table: Any, tmp_path: Path) -> None:
    import pickle

    import pyarrow as pa
    import pyarrow.parquet as pq

    content = parquet(table, tmp_path)
    for bad in (content[:-40], content[:200] + bytes(50) + content[250:], b"PAR1" + bytes(100) + b"PAR1"):
        door.refuse_dataset(bad)

    class Marker:
        def __reduce__(self) -> Any:
            return (open, (str(door.canary), "w"))

    read = pq.read_table(io.BytesIO(content))
    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Marker()),
    }
    field = read.schema.field("label").with_metadata(extension)
    schema = pa.schema([read.schema.field("image"), field], metadata=read.schema.metadata)
    pq.write_table(pa.Table.from_arrays(read.columns, schema=schema), stream := io.BytesIO())
    assert door.dataset(stream.getvalue()).samples == 10
    assert not door.canary.exists()


def test_one_bad_row_can_be_left_out(door: Door, table: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": encoded(image), "path": None} for image in IMAGES]
    images[3]["bytes"], images[7]["bytes"] = b"not an image", None
    pq.write_table(pa.table({"image": images, "label": LABELS}), stream := io.BytesIO())
    error = door.refuse_dataset(stream.getvalue(), "2 of 10 images cannot be used")
    assert "--leave-out" in error.hint
    manifest = door.dataset(stream.getvalue(), leave_out=True)
    assert "2 of 10 images were left out, since they cannot be used: #3, #7." in manifest.notes
    np.testing.assert_array_equal(door.pixels(), IMAGES[[0, 1, 2, 4, 5, 6, 8, 9]])


# WebDataset.


def written(folder: Path, **changes: Any) -> bytes:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(folder / "data.tar")) as sink:
        for number, image in enumerate(IMAGES):
            sink.write(
                {"__key__": f"s/{number:04d}", "png": Image.fromarray(image), "cls": int(LABELS[number])} | changes
            )
    return (folder / "data.tar").read_bytes()


def test_webdataset_is_what_webdataset_reads(door: Door, tmp_path: Path, zipped: Zipped) -> None:
    webdataset = pytest.importorskip("webdataset")
    content = written(tmp_path)
    assert door.dataset(content, "train.tar").format == "webdataset"
    read = webdataset.WebDataset(str(tmp_path / "data.tar"), shardshuffle=False).decode("rgb8").to_tuple("png", "cls")
    images, labels = zip(*read, strict=True)
    np.testing.assert_array_equal(door.pixels(), images)
    np.testing.assert_array_equal(stored(door).labels, labels)
    door.dataset(gzip.compress(content), "train.tar.gz")
    np.testing.assert_array_equal(door.pixels(), images)
    assert door.dataset(zipped({"d/0.tar": content})).samples == 10
    error = door.refuse_dataset(zipped({"d/0.tar": content, "d/1.tar": content}), "stands for several samples")
    assert "a key of its own" in error.hint


def test_webdataset_labels_in_json_are_chosen(door: Door, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "data.tar")) as sink:
        for number, image in enumerate(IMAGES):
            label = {"label": int(LABELS[number]), "name": "abcde"[LABELS[number]], "size": 1.5}
            sink.write({"__key__": str(number), "jpg": encoded(image, "JPEG"), "json": label})
    content = (tmp_path / "data.tar").read_bytes()
    error = door.refuse_dataset(content, "'json.label', 'json.name'")
    assert "`--labels json.label` or `--labels json.name`" in error.hint
    door.dataset(content, labels="json.label")
    np.testing.assert_array_equal(stored(door).labels, LABELS)
    assert door.dataset(content, labels="json.name").class_names == tuple("abcde")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../../escape.png"}, "leaves the archive"),
        ({"name": "/tmp/escape.png"}, "leaves the archive"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a link or a device"),
        ({"type": tarfile.LNKTYPE, "linkname": "a/1.png"}, "a link or a device"),
        ({"type": tarfile.CHRTYPE}, "a link or a device"),
        ({"type": tarfile.FIFOTYPE}, "a link or a device"),
        ({"name": "a/1.png"}, "appears twice"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_tar_archives_that_lead_elsewhere(door: Door, change: dict[str, Any], words: str, compressed: bool) -> None:
    with tarfile.open(fileobj=(stream := io.BytesIO()), mode="w") as file:
        for name in ("a/1.png", "b/1.png", "c"):
            info = tarfile.TarInfo(name)
            content = encoded(IMAGES[0])
            if name == "c":
                for key, value in change.items():
                    setattr(info, key, value)
            info.size = len(content) if info.isreg() else 0
            file.addfile(info, io.BytesIO(content))
    content = gzip.compress(stream.getvalue()) if compressed else stream.getvalue()
    door.refuse_dataset(content, words)


def test_tar_archives_that_are_bombs_or_damaged(door: Door) -> None:
    with tarfile.open(fileobj=(stream := io.BytesIO()), mode="w") as file:
        info = tarfile.TarInfo("a/1.bin")
        info.size = 40 << 20
        file.addfile(info, io.BytesIO(bytes(info.size)))
    door.refuse_dataset(gzip.compress(stream.getvalue()), "over the limit of 200:1")
    door.refuse_dataset(stream.getvalue(), "more than the limit", limits=Limits(expanded_bytes=1 << 20))
    door.refuse_dataset(stream.getvalue()[: 1 << 20], "damaged")
    info = tarfile.TarInfo("x" * 99)
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33  # the name alone would take 8 GiB
    door.refuse_dataset(info.tobuf() + bytes(1 << 16), "cannot be read as a tar archive")


def test_a_tar_of_class_folders_is_read_as_torchvision_does(door: Door, tmp_path: Path) -> None:
    with tarfile.open(fileobj=(stream := io.BytesIO()), mode="w:gz") as file:
        for number in RNG.permutation(10):
            path = tmp_path / "imagenet-a" / f"n0{LABELS[number]}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(IMAGES[number]))
            file.add(path, path.relative_to(tmp_path).as_posix())
    door.dataset(stream.getvalue(), "imagenet-a.tar.gz")
    same_as_torchvision(door, tmp_path / "imagenet-a")


def same_as_torchvision(door: Door, folder: Path) -> None:
    oracle = torchvision.datasets.ImageFolder(str(folder))
    np.testing.assert_array_equal(door.pixels(), [np.asarray(image) for image, _ in oracle])
    np.testing.assert_array_equal(stored(door).labels, oracle.targets)
    assert list(stored(door).class_names or ()) == oracle.classes


# Folders, lists.


def test_split_folders_are_read_as_torchvision_does(door: Door, tmp_path: Path, zipped: Zipped) -> None:
    files = {}
    for number, image in enumerate(IMAGES):
        files[f"d/{('train', 'val')[number // 5]}/{'abcde'[LABELS[number]]}/{number}.png"] = encoded(image)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    error = door.refuse_dataset(zipped(files), "several parts: 'train' (5 files), 'val' (5 files)")
    assert "--part val" in error.hint
    for part in ("train", "val"):
        door.dataset(zipped(files), parts=(part,))
        same_as_torchvision(door, tmp_path / "d" / part)
    both = door.dataset(zipped(files), parts=("val", "train"))
    np.testing.assert_array_equal(door.pixels(), [*IMAGES[5:], *IMAGES[:5]])
    assert both.class_counts == (2,) * 5
    (choice,) = look_into(door.inbox / "data.npz", "d.zip").choices
    assert (choice.field, choice.values, choice.several) == ("parts", ("train", "val"), True)


@pytest.mark.parametrize("text", ["path,label\n{0}", "{0}", "file;size;class_id\n{1}"])
def test_images_with_a_list(door: Door, zipped: Zipped, text: str) -> None:
    rows = [f"img/{number}.png,{'abcde'[LABELS[number]]}" for number in range(10)][::-1]
    more = [f"{number}.png;8;{'abcde'[LABELS[number]]}" for number in range(10)][::-1]
    content = {f"d/img/{number}.png": encoded(image) for number, image in enumerate(IMAGES)}
    content["d/list.csv"] = text.format("\n".join(rows), "\n".join(more)).encode()
    manifest = door.dataset(zipped(content))
    assert manifest.class_names == tuple("abcde")
    by_name = {f"d/img/{number}.png": number for number in range(10)}
    names = stored(door).sample_names or ()
    order = [by_name[name] for name in names]
    np.testing.assert_array_equal(door.pixels(), IMAGES[order])
    np.testing.assert_array_equal(stored(door).labels, LABELS[order])
    content["d/list.csv"] += b"\nimg/gone.png,a" if "size" not in text else b"\ngone.png;8;a"
    error = door.refuse_dataset(zipped(content), "names 'img/gone.png'" if "size" not in text else "names 'gone.png'")
    assert "--leave-out" in error.hint
    assert door.dataset(zipped(content), leave_out=True).samples == 10


def test_a_list_with_several_labels_asks(door: Door, zipped: Zipped) -> None:
    content = {f"img/{number}.png": encoded(image) for number, image in enumerate(IMAGES)}
    rows = "\n".join(f"{number}.png,{LABELS[number]},{LABELS[number] // 2}" for number in range(10))
    content["list.csv"] = f"image,fine,coarse\n{rows}".encode()
    error = door.refuse_dataset(zipped(content), "several columns that may be the label: 'fine', 'coarse'")
    assert "--labels fine" in error.hint
    door.dataset(zipped(content), labels="coarse")
    np.testing.assert_array_equal(np.bincount(stored(door).labels), np.bincount(LABELS // 2))


def test_gtsrb(door: Door, zipped: Zipped) -> None:
    """Class folders of PPM images with a list each, and a test folder with one list."""
    head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    train, test = {}, {}
    for label in range(5):
        of = [number for number in range(10) if LABELS[number] == label]
        for number in of:
            train[f"GTSRB/Training/{label:05d}/{number}.ppm"] = encoded(IMAGES[number], "PPM")
            test[f"GTSRB/Images/{number:05d}.ppm"] = encoded(IMAGES[number], "PPM")
        rows = "\n".join(f"{number}.ppm;8;8;1;2;5;6;{label}" for number in of)
        train[f"GTSRB/Training/{label:05d}/GT-{label:05d}.csv"] = (head + rows).encode()
    test["GT-final_test.csv"] = (head + "\n".join(f"{n:05d}.ppm;8;8;1;2;5;6;{LABELS[n]}" for n in range(10))).encode()
    order = sorted(range(10), key=lambda number: (LABELS[number], number))
    for content in (train, test):
        manifest = door.dataset(zipped(content))
        assert manifest.class_names == tuple("01234")
        np.testing.assert_array_equal(door.pixels(), IMAGES[order])
        np.testing.assert_array_equal(stored(door).labels, LABELS[order])
        door.dataset(zipped(content), roi=True)
        np.testing.assert_array_equal(door.pixels(), IMAGES[order][:, 2:7, 1:6])  # both corners lie inside
    error = door.refuse_dataset(zipped({"a/1.png": encoded(IMAGES[0])}), "region of interest", roi=True)
    assert "leave `--roi` out" in error.hint


def test_tiny_imagenet(door: Door, zipped: Zipped) -> None:
    ids = [f"n0144353{label}" for label in range(5)]
    content: dict[str, bytes] = {"t/words.txt": b"".join(f"{key}\tfish {key[-1]}, other\n".encode() for key in ids)}
    content["t/wnids.txt"] = "\n".join(ids).encode()
    for number, image in enumerate(IMAGES):
        key = ids[LABELS[number]]
        content[f"t/train/{key}/images/{key}_{number}.JPEG"] = encoded(image, "PNG")
        content[f"t/train/{key}/{key}_boxes.txt"] = f"{key}_{number}.JPEG\t0\t0\t5\t5\n".encode()
        content[f"t/val/images/val_{number}.JPEG"] = encoded(image, "PNG")
        content[f"t/test/images/test_{number}.JPEG"] = encoded(image, "PNG")
    lines = [f"val_{number}.JPEG\t{ids[LABELS[number]]}\t0\t0\t5\t5" for number in range(10)]
    content["t/val/val_annotations.txt"] = "\n".join(lines).encode()
    door.refuse_dataset(zipped(content), "several parts: 'train' (10 files), 'val' (10 files), 'test' (10 files)")
    order = sorted(range(10), key=lambda number: (LABELS[number], number))
    for part in ("train", "val"):
        manifest = door.dataset(zipped(content), parts=(part,))
        assert manifest.class_names == tuple(f"fish {label}, other" for label in range(5))
        np.testing.assert_array_equal(door.pixels(), IMAGES[order])
        np.testing.assert_array_equal(stored(door).labels, LABELS[order])


def test_gif_tiff_and_palettes(door: Door, zipped: Zipped) -> None:
    grey = IMAGES[..., 0]
    frames = [Image.fromarray(image).convert("P") for image in IMAGES[:3]]
    frames[0].save(stream := io.BytesIO(), "GIF", save_all=True, append_images=frames[1:])
    door.dataset(zipped({"a/1.gif": stream.getvalue(), "b/1.tiff": encoded(IMAGES[1], "TIFF")}))
    first = Image.open(io.BytesIO(stream.getvalue())).convert("RGB")
    np.testing.assert_array_equal(door.pixels(), [np.asarray(first), IMAGES[1]])
    palette = Image.fromarray(grey[0])
    palette.putpalette([value for level in range(256) for value in (level, level, level)])
    palette.save(stream := io.BytesIO(), "PNG")
    manifest = door.dataset(zipped({"a/1.png": stream.getvalue(), "b/1.png": encoded(grey[1])}))
    assert manifest.shape == (1, 8, 8)
    assert manifest.notes == ("1 image had a palette of greys, converted to grey (first: 'a/1.png').",)
    np.testing.assert_array_equal(door.pixels()[..., 0], grey[:2])


# Arrays.


def test_medmnist(door: Door) -> None:
    parts = {"train": slice(0, 5), "val": slice(5, 7), "test": slice(7, 10)}
    content: dict[str, Any] = {f"{part}_images": IMAGES[some] for part, some in parts.items()}
    content |= {f"{part}_labels": LABELS[some][:, None].astype(np.uint8) for part, some in parts.items()}
    np.savez(stream := io.BytesIO(), allow_pickle=False, **content)
    door.refuse_dataset(stream.getvalue(), "'train' (5 images), 'val' (2 images), 'test' (3 images)")
    door.dataset(stream.getvalue(), parts=("val",))
    np.testing.assert_array_equal(door.pixels(), IMAGES[5:7])
    np.testing.assert_array_equal(stored(door).labels, LABELS[5:7])
    several = RNG.integers(0, 2, (10, 14))
    np.savez(stream := io.BytesIO(), test_images=IMAGES, test_labels=several, train_images=IMAGES, train_labels=several)
    error = door.refuse_dataset(stream.getvalue(), "several labels for an image", parts=("test",))
    assert "argmax" in error.hint
    assert "'test_images'" in error.hint


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_medmnist_is_what_medmnist_reads(door: Door, tmp_path: Path, part: str) -> None:
    """A file of BreastMNIST's form and sizes, 28x28 in grey; the package is not among ours, since it brings many others."""
    medmnist = pytest.importorskip("medmnist", reason="needs `pip install medmnist`")
    sizes = medmnist.INFO["breastmnist"]["n_samples"]
    content = {f"{name}_images": RNG.integers(0, 256, (size, 28, 28), np.uint8) for name, size in sizes.items()}
    content |= {f"{name}_labels": RNG.integers(0, 2, (size, 1), np.uint8) for name, size in sizes.items()}
    np.savez(tmp_path / "breastmnist.npz", allow_pickle=False, **content)
    theirs = medmnist.BreastMNIST(split=part, root=str(tmp_path), download=False)
    door.dataset((tmp_path / "breastmnist.npz").read_bytes(), "breastmnist.npz", parts=(part,))
    np.testing.assert_array_equal(door.pixels()[..., 0], np.stack([np.asarray(image) for image, _ in theirs]))
    assert stored(door).labels.tolist() == [int(label[0]) for _, label in theirs]


def test_arrays_by_number_and_by_choice(door: Door) -> None:
    np.savez(stream := io.BytesIO(), IMAGES, LABELS)
    assert "'arr_0' and 'arr_1' were taken" in door.dataset(stream.getvalue()).notes[0]
    np.savez(stream := io.BytesIO(), a=IMAGES, b=IMAGES[::-1], fine=LABELS, coarse=LABELS // 2)
    error = door.refuse_dataset(stream.getvalue(), "several arrays that may be images or labels")
    for words in ("`--images a` or `--images b`", "`--labels fine` or `--labels coarse`"):
        assert words in error.hint
    door.dataset(stream.getvalue(), images="b", labels="coarse")
    np.testing.assert_array_equal(door.pixels(), IMAGES[::-1])
    np.testing.assert_array_equal(stored(door).labels, LABELS // 2)
    door.refuse_dataset(stream.getvalue(), "no array or column 'c'", images="c", labels="fine")


@pytest.mark.parametrize("compressed", [False, True])
def test_mnist_files(door: Door, tmp_path: Path, zipped: Zipped, compressed: bool) -> None:
    grey = IMAGES[..., 0]
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    content: dict[str, bytes] = {}
    for part, some in (("train", slice(0, 6)), ("t10k", slice(6, 10))):
        images = b"\x00\x00\x08\x03" + np.array(grey[some].shape, ">i4").tobytes() + grey[some].tobytes()
        labels = (
            b"\x00\x00\x08\x01" + np.array(LABELS[some].shape, ">i4").tobytes() + LABELS[some].astype("u1").tobytes()
        )
        content |= {f"{part}-images-idx3-ubyte": images, f"{part}-labels-idx1-ubyte": labels}
    for name, data in content.items():
        (raw / name).write_bytes(data)
    upload = {name + ".gz": gzip.compress(data) for name, data in content.items()} if compressed else content
    door.refuse_dataset(zipped(upload), "'train' (6 images), 't10k' (4 images)")
    for part, train in (("train", True), ("t10k", False)):
        oracle = torchvision.datasets.MNIST(str(tmp_path), train=train)
        door.dataset(zipped(upload), parts=(part,))
        np.testing.assert_array_equal(door.pixels()[..., 0], oracle.data.numpy())
        np.testing.assert_array_equal(stored(door).labels, oracle.targets.numpy())
    name = next(iter(upload))
    bad = upload | {name: upload[name][:-9]}
    door.refuse_dataset(zipped(bad), "damaged", parts=("train",))


def batches(folder: Path, hundred: bool, protocol: int, extra: Any = None) -> bytes:
    """A tar.gz of pickled batches as CIFAR's, unpacked in the folder, too."""
    import pickle

    pixels = RNG.integers(0, 256, (12, 3072), np.uint8)
    names = {b"fine_label_names": [b"a", b"b", b"c"], b"coarse_label_names": [b"x", b"y"]} if hundred else {}
    content: dict[str, Any] = {"meta": names} if hundred else {"batches.meta": {b"label_names": [b"a", b"b", b"c"]}}
    parts = ["train", "test"] if hundred else [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for number, part in enumerate(parts):
        some = pixels[2 * number : 2 * number + 2]
        labels = [number % 3, 2]
        marks = {b"fine_labels": labels, b"coarse_labels": [0, 1]} if hundred else {b"labels": labels}
        content[part] = {b"data": some, b"filenames": [b"p.png"] * 2} | marks | ({b"x": extra} if extra else {})
    for name, batch in content.items():
        (folder / "c" / name).parent.mkdir(exist_ok=True)
        (folder / "c" / name).write_bytes(pickle.dumps(batch, protocol))
    with tarfile.open(fileobj=(stream := io.BytesIO()), mode="w:gz") as file:
        file.add(folder / "c", "c")
    return stream.getvalue()


@pytest.mark.parametrize("hundred", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_batches(door: Door, tmp_path: Path, hundred: bool, protocol: int) -> None:
    import pickle

    content = batches(tmp_path, hundred, protocol)
    error = door.refuse_dataset(content, "several kinds of labels" if hundred else "several parts: 'train' (10 images)")
    assert ("--labels coarse_labels" if hundred else "--part test") in error.hint
    parts = {"train": ["train"] if hundred else [f"data_batch_{n}" for n in range(1, 6)]}
    parts["test"] = ["test"] if hundred else ["test_batch"]
    for kind in ("fine_labels", "coarse_labels") if hundred else ("labels",):
        for part, names in parts.items():
            # As torchvision's CIFAR10 reads them: load, vstack, reshape(-1, 3, 32, 32), transpose to HWC.
            loaded = [pickle.loads((tmp_path / "c" / name).read_bytes(), encoding="latin1") for name in names]
            data = (
                np.vstack([batch.get("data", batch.get(b"data")) for batch in loaded])
                .reshape(-1, 3, 32, 32)
                .transpose(0, 2, 3, 1)
            )
            manifest = door.dataset(content, parts=(part,), labels=kind if hundred else "")
            np.testing.assert_array_equal(door.pixels(), data)
            assert stored(door).labels.tolist() == [
                label for batch in loaded for label in batch.get(kind, batch.get(kind.encode()))
            ]
            assert manifest.class_names == (("x", "y") if kind == "coarse_labels" else ("a", "b", "c"))
            assert manifest.format == "cifar batches"


class Marks:
    """Pickled, a call that would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_cifar_batches_with_code_leave_no_trace(door: Door, tmp_path: Path) -> None:
    content = batches(tmp_path, False, 2, extra=Marks(door.canary))
    with contextlib.suppress(IntakeError):
        door.dataset(content, parts=("test",))
    assert not door.canary.exists()
    (tmp_path / "c" / "test_batch").write_bytes(b"\x80\x02]q\x00.")
    with zipfile.ZipFile(stream := io.BytesIO(), "w") as file:
        file.write(tmp_path / "c" / "test_batch", "c/test_batch")
    door.refuse_dataset(stream.getvalue(), "not as CIFAR's are: it is not a dictionary")


def test_corruptions_of_arrays(door: Door, zipped: Zipped) -> None:
    """CIFAR-10-C's form: five severities one after the other in each file, labels apart."""
    fog = np.concatenate([IMAGES // (level + 1) for level in range(5)])
    snow = 255 - fog
    content = {"C/fog.npy": npy(fog), "C/snow.npy": npy(snow), "C/labels.npy": npy(np.tile(LABELS, 5))}
    manifest = door.dataset(zipped(content))
    assert manifest.samples == 100
    assert [(g.corruption, g.severity, g.samples) for g in manifest.groups] == [
        (name, level, 10) for name in ("fog", "snow") for level in range(1, 6)
    ]
    data = stored(door)
    assert data.groups[7] == Group("snow", 3)
    np.testing.assert_array_equal(data.group_of, np.arange(100) // 10)
    door.dataset(zipped(content), corruptions=("snow",), severities=(3,))
    np.testing.assert_array_equal(door.pixels(), 255 - IMAGES // 3)
    np.testing.assert_array_equal(stored(door).labels, LABELS)
    assert stored(door).groups == (Group("snow", 3),)
    error = door.refuse_dataset(zipped(content), "no corruption 'frost'", corruptions=("frost",))
    assert "--corruption fog" in error.hint
    fields = {choice.field: choice.values for choice in look_into(door.inbox / "data.npz", "c.zip").choices}
    assert fields == {"corruptions": ("fog", "snow"), "severities": ("1", "2", "3", "4", "5")}


def test_corruptions_of_folders(door: Door, zipped: Zipped) -> None:
    content = {
        f"{corruption}/{level}/n0{label}/{label}.png": encoded(IMAGES[label] // level + offset)
        for offset, corruption in enumerate(("fog", "snow"))
        for level in range(1, 6)
        for label in range(3)
    }
    manifest = door.dataset(zipped(content))
    assert [(g.corruption, g.severity, g.samples) for g in manifest.groups] == [
        (name, level, 3) for name in ("fog", "snow") for level in range(1, 6)
    ]
    np.testing.assert_array_equal(
        door.pixels(), [*(IMAGES[y] // k for k in range(1, 6) for y in range(3)), *door.pixels()[15:]]
    )
    np.testing.assert_array_equal(stored(door).labels, np.tile(np.arange(3), 10))
    door.dataset(zipped(content), corruptions=("snow",), severities=(2, 4))
    np.testing.assert_array_equal(door.pixels(), [IMAGES[y] // k + 1 for k in (2, 4) for y in range(3)])
    assert "severities 2, 4" in door.dataset(zipped(content), severities=(2, 4)).notes[-1]


# Labels.


def test_label_maps(door: Door, zipped: Zipped) -> None:
    content = zipped({f"{'abcde'[LABELS[n]]}/{n}.png": encoded(image) for n, image in enumerate(IMAGES)})
    manifest = door.dataset(content, label_map=parse_label_map("a=one,b=one,c="))
    assert (manifest.class_names, manifest.class_counts) == (("one", "d", "e"), (4, 2, 2))
    assert "2 images of 1 class left out, as asked: 'c'." in manifest.notes
    manifest = door.dataset(content, label_map=parse_label_map("e=0,d=1,c=2,b=3,a=4"))
    assert manifest.class_names == tuple("edcba")
    np.testing.assert_array_equal(stored(door).labels, np.repeat([4, 3, 2, 1, 0], 2))
    door.refuse_dataset(content, "the data set lacks: 'z'", label_map={"z": 1})
    door.refuse_dataset(content, "leaves every class out", label_map=dict.fromkeys("abcde"))
    np.savez(stream := io.BytesIO(), images=IMAGES, labels=LABELS)
    manifest = door.dataset(stream.getvalue(), label_map=parse_label_map(json.dumps(list("vwxyz"))))
    assert manifest.class_names == tuple("vwxyz")
    manifest = door.dataset(stream.getvalue(), label_map=parse_label_map('{"0": null, "1": 0, "2": 0, "3": 1, "4": 1}'))
    np.testing.assert_array_equal(stored(door).labels, np.array([0, 0, 1, 1] * 2))
    np.testing.assert_array_equal(door.pixels(), IMAGES[LABELS > 0])
    for bad in ("a", "a=1,a=2", "{", '{"a": 1.5}', '{"a": true}'):
        with pytest.raises(SpecError, match="label map"):
            parse_label_map(bad)


# Sizes as published.


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize("shape", [(37, 50), (50, 37), (33, 33), (20, 90), (12, 12)])
def test_resize_and_crop_are_torchvisions(
    door: Door, zipped: Zipped, interpolation: Any, shape: tuple[int, int]
) -> None:
    from torchvision.transforms import v2

    images = RNG.integers(0, 256, (2, *shape, 3), np.uint8)
    size = ImageSize(height=24, width=24, mode="resize-crop", shorter_side=29, interpolation=interpolation)
    mode = v2.InterpolationMode(interpolation)
    oracle = v2.Compose([v2.Resize(29, interpolation=mode), v2.CenterCrop(24)])
    expected = [np.asarray(oracle(Image.fromarray(image))) for image in images]
    door.dataset(zipped({"a/1.png": encoded(images[0]), "b/1.png": encoded(images[1])}), size=size)
    np.testing.assert_array_equal(door.pixels(), expected)
    np.savez(stream := io.BytesIO(), images=images, labels=np.arange(2))
    door.dataset(stream.getvalue(), size=size)
    np.testing.assert_array_equal(door.pixels(), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_without_antialias_as_tensors_are_resized(door: Door, zipped: Zipped, interpolation: Any) -> None:
    import torch
    from torchvision.transforms import functional

    size = ImageSize(
        height=24, width=24, mode="resize-crop", shorter_side=24, interpolation=interpolation, antialias=False
    )
    image = RNG.integers(0, 256, (61, 61, 3), np.uint8)
    door.dataset(zipped({"a/1.png": encoded(image)}), size=size)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    mode = functional.InterpolationMode(interpolation)
    expected = functional.resize(tensor, [24, 24], interpolation=mode, antialias=False).permute(1, 2, 0)
    np.testing.assert_array_equal(door.pixels()[0], expected.numpy())


@pytest.mark.parametrize(
    "name", ["resnet50.IMAGENET1K_V1", "resnet50.IMAGENET1K_V2", "vit_b_16.IMAGENET1K_SWAG_E2E_V1"]
)
def test_presets_are_the_librarys(name: str) -> None:
    model, _, weights = name.partition(".")
    transform = torchvision.models.get_model_weights(model)[weights].transforms()
    size = size_of_preset(f"torchvision:{name}")
    assert [size.shorter_side] == transform.resize_size
    assert [size.height] == [size.width] == transform.crop_size
    assert size.interpolation == transform.interpolation.value


def test_presets_of_timm() -> None:
    timm = pytest.importorskip("timm")
    size = size_of_preset("timm:resnet18.a1_in1k")
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config(
            pretrained_cfg=timm.models.get_pretrained_cfg("resnet18.a1_in1k").to_dict(), use_test_size=True
        )
    )
    assert (size.shorter_side, size.height) == (transform.transforms[0].size, transform.transforms[1].size[0])
    assert size.interpolation == transform.transforms[0].interpolation.value


@pytest.mark.parametrize(
    "name", ["resnet50", "torchvision:resnet5.X", "torchvision:resnet50.V9", "timm:nothing.at_all"]
)
def test_presets_that_do_not_exist(name: str) -> None:
    with pytest.raises(SpecError):
        size_of_preset(name)


def test_files_are_bundled(door: Door, tmp_path: Path) -> None:
    from auditor.data.intake.bundle import bundle_name, bundled, parts_of

    (tmp_path / "images.npy").write_bytes(npy(IMAGES))
    (tmp_path / "labels.npy").write_bytes(npy(LABELS))
    error = door.refuse_dataset(npy(IMAGES), "a single NumPy array")
    assert "--labels-file labels.npy" in error.hint
    paths = [tmp_path / "images.npy", tmp_path / "labels.npy"]
    with bundled(parts_of(paths)) as stream:
        door.dataset(stream.read(), bundle_name([path.name for path in paths]))
    np.testing.assert_array_equal(door.pixels(), IMAGES)
    folder = tmp_path / "d"
    for number in range(4):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "ab"[number % 2] / f"{number}.png").write_bytes(encoded(IMAGES[number]))
    with bundled(parts_of([folder])) as stream:
        assert zipfile.ZipFile(stream).namelist() == ["d/a/0.png", "d/a/2.png", "d/b/1.png", "d/b/3.png"]
        stream.seek(0)
        door.dataset(stream.read())
    same_as_torchvision(door, folder)
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(IntakeError, match="link"):
        parts_of([folder])
