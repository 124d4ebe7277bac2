"""Folders of Hugging Face's ``save_to_disk``, as zip: read as datasets itself reads them; broken and hostile ones refused."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from auditor.data.intake.datasets import look_into
from auditor.kit.errors import IntakeError
from tests.auditor.data.intake.conftest import Door, Zipped
from tests.auditor.data.intake.test_intake_libraries import IMAGES, LABELS, encoded, stored
from tests.late import late

datasets = late("datasets")
pa = pytest.importorskip("pyarrow")

NAMES = ["plane", "car", "bird", "cat", "deer"]


@pytest.fixture
def table() -> Any:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    content = {"image": [Image.fromarray(image) for image in IMAGES], "label": LABELS.tolist()}
    return datasets.Dataset.from_dict(content, features=features)


def zip_of(folder: Path) -> bytes:
    with zipfile.ZipFile(stream := io.BytesIO(), "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, f"{folder.name}/{path.relative_to(folder)}")
    return stream.getvalue()


def stream_of(columns: dict[str, Any], options: Any = None) -> bytes:
    made = pa.table(columns)
    with pa.ipc.new_stream(stream := io.BytesIO(), made.schema, options=options) as file:
        file.write_table(made, max_chunksize=4)
    return stream.getvalue()


GOOD = {"image": [encoded(image) for image in IMAGES], "label": LABELS}


def test_a_saved_folder_is_what_datasets_loads(door: Door, table: Any, tmp_path: Path) -> None:
    table.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    manifest = door.dataset(zip_of(tmp_path / "saved"), "saved.zip")
    assert (manifest.format, manifest.class_names, manifest.samples) == ("arrow", tuple(NAMES), 10)
    read = datasets.load_from_disk(str(tmp_path / "saved"))
    np.testing.assert_array_equal(door.pixels(), [np.asarray(row["image"]) for row in read])
    np.testing.assert_array_equal(stored(door).labels, read["label"])


def test_parts_of_a_saved_folder_are_chosen(door: Door, table: Any, tmp_path: Path) -> None:
    both = datasets.DatasetDict({"train": table, "test": table.select(range(4))})
    both.save_to_disk(str(tmp_path / "saved"))
    content = zip_of(tmp_path / "saved")
    error = door.refuse_dataset(content, "several parts: 'test', 'train'")
    assert "--part test" in error.hint
    assert door.dataset(content, parts=("test",)).samples == 4
    assert door.dataset(content, parts=("train", "test")).samples == 14
    (choice,) = look_into(door.put(content, "saved.zip"), "saved.zip").choices
    assert (choice.field, choice.values) == ("parts", ("test", "train"))


def test_images_that_datasets_only_points_to_lie_in_the_saved_folder(door: Door, tmp_path: Path) -> None:
    for number, image in enumerate(IMAGES):
        (tmp_path / "d" / str(LABELS[number])).mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / str(LABELS[number]) / f"{number}.png").write_bytes(encoded(image))
    made = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "d"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    made.save_to_disk(str(tmp_path / "saved"))
    assert door.dataset(zip_of(tmp_path / "saved")).samples == 10
    np.testing.assert_array_equal(door.pixels(), [np.asarray(row["image"]) for row in made])


def test_one_file_alone_and_what_datasets_left_beside(door: Door, zipped: Zipped) -> None:
    content = stream_of(GOOD)
    assert door.dataset(content, "data-00000-of-00001.arrow").format == "arrow"
    np.testing.assert_array_equal(door.pixels(), IMAGES)
    beside = {"d/cache-0123.arrow": b"x", "d/state.json": b"{}", "d/dataset_info.json": b"{}"}
    assert door.dataset(zipped({"d/data-00000-of-00001.arrow": content, **beside})).samples == 10


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_batches_are_refused_and_the_remedy_works(
    door: Door, codec: str, table: Any, tmp_path: Path
) -> None:
    content = stream_of(GOOD, pa.ipc.IpcWriteOptions(compression=codec))
    error = door.refuse_dataset(content, "are compressed")
    (tmp_path / "data.arrow").write_bytes(content)
    ds = datasets.Dataset.from_file(str(tmp_path / "data.arrow"))
    code = error.hint[error.hint.index("ds.") :].rstrip(".")
    exec(code.replace('"data.parquet"', repr(str(tmp_path / "data.parquet"))), {"ds": ds})
    assert door.dataset((tmp_path / "data.parquet").read_bytes()).samples == 10


def test_a_batch_over_the_limit(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auditor.data.intake.arrow._MAX_BATCH_BYTES", 500)
    door.refuse_dataset(stream_of(GOOD), "A record batch of", "the limit is 500 bytes", "batch_size=16")


@pytest.mark.parametrize("kept", [5, 9, 40, 0.3, 0.6, 0.9])
def test_truncated_streams(door: Door, kept: float) -> None:
    content = stream_of(GOOD)
    door.refuse_dataset(content[: int(kept if kept >= 1 else kept * len(content))])


@pytest.mark.parametrize("seed", range(8))
def test_changed_bytes_are_an_error_or_another_image(door: Door, seed: int) -> None:
    content = bytearray(stream_of(GOOD))
    random = np.random.default_rng(seed)
    for place in random.integers(8, len(content), 3):
        content[place] ^= 1 << random.integers(8)
    with contextlib.suppress(IntakeError):
        assert door.dataset(bytes(content), "data.arrow").samples <= 10
