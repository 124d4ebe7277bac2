"""What a data set leaves open is chosen by the same names on the page and on the command line, and read in the sandbox."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from PIL import Image

from auditor.data.intake.reading import WAYS
from tests.app.test_pages import opened, texts
from tests.app.test_withheld import printed
from tests.worker.world import make_world
from worker.client import Client
from worker.settings import Settings

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)


def two_parts(folder: Path) -> Path:
    np.savez(folder / "two.npz", x_train=IMAGES, y_train=np.arange(6) % 3, x_test=IMAGES[:3, ::-1], y_test=np.arange(3))
    return folder / "two.npz"


def test_the_command_line_names_looks_and_chooses(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(two_parts(tmp_path))

    def run(*arguments: str) -> str:
        return " ".join(printed(capsys, monkeypatch, "datasets", "add", *arguments).split())

    assert "--part (one has to be chosen): train, test" in run(file, "--look")
    (tmp_path / "map.json").write_text(json.dumps({"0": "zero", "1": None, "2": "two"}))
    said = run(file, "--part", "train", "--label-map", str(tmp_path / "map.json"), "--resize", "6", "--crop", "4x4")
    assert "4 images of 3x4x4, 2 classes" in said
    assert "2 images of 1 class left out, as asked: '1'." in said
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "labels.npy", np.arange(6) % 3)
    assert "6 images of 3x8x8" in run(str(tmp_path / "images.npy"), "--labels-file", str(tmp_path / "labels.npy"))
    for number in range(2):
        (tmp_path / "d" / "ab"[number]).mkdir(parents=True)
        Image.fromarray(IMAGES[number]).save(tmp_path / "d" / "ab"[number] / "1.png")
    assert "Added data set d" in run(str(tmp_path / "d"))


def test_parquet_and_tar_are_read_in_the_sandbox(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = []
    for image in IMAGES:
        Image.fromarray(image).save(stream := io.BytesIO(), "PNG")
        files.append(stream.getvalue())
    pq.write_table(
        pa.table({"image": [{"bytes": file} for file in files], "label": [0, 1, 2] * 2}), tmp_path / "t.parquet"
    )
    with tarfile.open(tmp_path / "shards.tar.gz", "w:gz") as archive:
        for number, file in enumerate(files):
            for kind, content in (("png", file), ("cls", str(number % 3).encode())):
                info = tarfile.TarInfo(f"{number}.{kind}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    for name in ("t.parquet", "shards.tar.gz"):
        said = printed(capsys, monkeypatch, "datasets", "add", str(tmp_path / name))
        assert "6 images of 3x8x8, 3 classes" in " ".join(said.split()), said
    first, second = (row.content for row in Client(settings).library.datasets()[:2])
    assert first != second  # other names of the samples, and the same pixels otherwise


def test_the_page_offers_what_the_file_has(settings: Settings, tmp_path: Path) -> None:
    st.cache_resource.clear()
    make_world(settings)
    page = opened("datasets")
    labels = {item.label for item in page.text_input}
    assert {way.label.split("'")[1] for way in WAYS.values()} <= labels
    page.file_uploader(key="dataset-file").set_value(
        ("two.npz", two_parts(tmp_path).read_bytes(), "application/zip")
    ).run()
    assert not page.exception
    part = page.multiselect(key="dataset-parts-offered")
    assert "Choose below: Part of the data set." in texts(page)
    assert (part.label, part.options) == ("Part of the data set", ["train", "test"])
    part.set_value(["test"]).run()
    page.text_input(key="dataset-exclude").set_value("#0, #2").run()
    page.button(key="dataset-add").click().run()
    assert not page.exception
    (row,) = [row for row in Client(settings).library.datasets() if row.name == "two"]
    assert (row.manifest["samples"], row.manifest["class_counts"]) == (1, [0, 1])
    assert "2 of 3 images were left out, as asked: #0, #2." in row.manifest["notes"]
