"""What people have, dropped on the page: what it says, what it offers, and what becomes of the file when that is taken."""

from __future__ import annotations

import argparse
import datetime
import importlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from streamlit.testing.v1 import AppTest
from torch import nn

from app import recognition
from tests import hostile
from tests.app.test_pages import opened, recognized, texts, world
from tests.worker.world import World
from worker import reading

__all__ = ["world"]  # a fixture

DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (8, 8, 8, 3), np.uint8)
LABELS = np.arange(8) % 4
GREY = DRAW.integers(0, 256, (8, 8), np.uint8)


@pytest.fixture(autouse=True)
def without_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in this process: that they are read in the sandbox is tested elsewhere, and starting it takes seconds."""

    def here(function: str, *, arguments: dict[str, Any], **_: Any) -> Any:
        module, name = function.split(":")
        return json.loads(json.dumps(getattr(importlib.import_module(module), name)(**arguments)))

    monkeypatch.setattr(reading, "confined", here)
    monkeypatch.setattr(tempfile, "tempdir", None)  # a reading sets it, for its own process
    monkeypatch.setattr(recognition, "LARGEST", 1 << 20)


def picture(content: NDArray[Any], form: str = "PNG") -> bytes:
    Image.fromarray(content).save(stream := io.BytesIO(), form)
    return stream.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for path, content in members.items():
            file.writestr(path, content)
    return stream.getvalue()


def arrays(**content: NDArray[Any]) -> bytes:
    np.savez(stream := io.BytesIO(), **content)  # type: ignore[arg-type]  # numpy's stub takes no streams of this kind
    return stream.getvalue()


def array(content: NDArray[Any]) -> bytes:
    np.save(stream := io.BytesIO(), content)
    return stream.getvalue()


Act = Callable[[AppTest], Any]


def take(kind: str, key: str, value: Any) -> Act:
    """Set a widget of the form."""
    return lambda page: getattr(page, kind)(key=f"dataset-{key}").set_value(value).run()


class Data(NamedTuple):
    """A data set as it is dropped: what the page says then, what is ``done``, what is said ``after`` adding, and the images of
    each class that are kept, none where it is refused. ``remedy``: what then is done as the refusal says."""

    files: dict[str, bytes]
    counts: list[int]
    says: str = ""
    done: tuple[Act, ...] = ()
    refused: str = ""
    remedy: tuple[Act, ...] = ()
    after: str = ""


TWELVE = (np.arange(64).reshape(8, 8) * 65).astype("uint16")
PARTS = "Choose below: Part of the data set."
DATA = {
    "numbers with a gap": Data(
        {"a.zip": zipped({f"{y}/{i}.png": picture(IMAGES[i]) for i, y in enumerate((0, 1, 2, 4))})},
        [1, 1, 1, 0, 1], after="1 class has no images: '3'.",
    ),
    "two splits in a folder": Data(
        {"a.zip": zipped({f"d/{s}/{c}/{n}.png": picture(IMAGES[n]) for s in ("train", "val") for c in "ab" for n in (1, 2)})},
        [2, 2], says=PARTS, done=(take("multiselect", "parts-offered", ["val"]),),
        after="Parts read, in this order, as asked: 'val'.",
    ),
    "strays": Data(
        {"a.zip": zipped({"d/a/1.png": picture(IMAGES[0]), "d/b/1.png": picture(IMAGES[1]), "d/a/list.csv": b"x,y\n",
                          "d/classes.txt": b"a\nb\n", "d/Icon\r": b""})},
        [1, 1], after="3 files ignored: 'd/a/list.csv', 'd/classes.txt', 'd/Icon\\r'.",
    ),
    "a file that is no image": Data(
        {"a.zip": zipped({"a/1.png": picture(IMAGES[0]), "a/2.png": b"no image", "b/1.png": picture(IMAGES[1])})},
        [1, 1], refused="Skip unusable files and images", remedy=(take("checkbox", "leave-out", True),),
        after="1 of 3 files was left out, since it cannot be used: 'a/2.png'.",
    ),
    "a GIF among others": Data(
        {"a.zip": zipped({"a/1.png": picture(IMAGES[0]), "a/2.gif": picture(GREY, "GIF"), "b/1.ppm": picture(IMAGES[1], "PPM")})},
        [2, 1], after="'a/2.gif'",
    ),
    "12 of 16 bits": Data(
        {"a.zip": zipped({"a/1.png": picture(TWELVE), "b/1.png": picture(TWELVE[::-1].copy())})},
        [1, 1], after="'Largest pixel value' on the page",
    ),
    "12 of 16 bits, said": Data(
        {"a.zip": zipped({"a/1.png": picture(TWELVE), "b/1.png": picture(TWELVE[::-1].copy())})},
        [1, 1], done=(take("number_input", "largest-value", 4095),), after="scaled so that 4,095 is white, as asked",
    ),
    "an .npz in a zip": Data({"a.zip": zipped({"x/data.npz": arrays(images=IMAGES, labels=LABELS)})}, [2] * 4),
    "MedMNIST's parts": Data(
        {"a.npz": arrays(train_images=IMAGES, train_labels=LABELS[:, None],
                          test_images=IMAGES[:4], test_labels=LABELS[:4, None])},
        [1] * 4, says=PARTS, done=(take("multiselect", "parts-offered", ["test"]),), after="it was taken as 4 labels",
    ),
    "several labels": Data(
        {"a.npz": arrays(images=IMAGES[:4], labels=np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]]))},
        [], refused="Keep the images with exactly one label",
    ),
    "labels that are names": Data(
        {"a.npz": arrays(images=IMAGES[:4], labels=np.array(["cat", "dog"] * 2))}, [2, 2],
        after="they became classes in sorted order ('cat', 'dog')",
    ),
    "labels from 1": Data({"a.npz": arrays(images=IMAGES, labels=LABELS + 1)}, [2] * 4,
                          done=(take("number_input", "first-label", 1),)),
    "alpha": Data(
        {"a.npz": arrays(images=np.concatenate([IMAGES, IMAGES[..., :1]], -1), labels=LABELS)}, [2] * 4,
        refused="'Channels' on the page", remedy=(take("selectbox", "channels", "colour"),), after="dropped, as asked",
    ),
    "grey for colour": Data(
        {"a.npz": arrays(images=IMAGES[..., :1], labels=LABELS)}, [2] * 4, done=(take("selectbox", "channels", "colour"),),
        after="three equal channels, as asked",
    ),
    "Fortran's order": Data({"a.npz": arrays(images=np.asfortranarray(IMAGES), labels=LABELS)}, [2] * 4),
    "CIFAR-10-C": Data(
        {"fog.npy": array(np.concatenate([IMAGES] * 5)), "labels.npy": array(np.concatenate([LABELS] * 5))}, [10] * 4,
        after="The images carry their corruption: 'fog', severities 1, 2, 3, 4, 5.",
    ),
    "a severity of CIFAR-10-C": Data(
        {"fog.npy": array(np.concatenate([IMAGES] * 5)), "labels.npy": array(np.concatenate([LABELS] * 5))}, [2] * 4,
        done=(take("multiselect", "severities-offered", ["3"]),), after="'fog', severities 3.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_a_data_set_that_people_have(world: World, name: str) -> None:
    case = DATA[name]
    page = opened("datasets")
    page.file_uploader(key="dataset-file").set_value(
        [(*item, "application/octet-stream") for item in case.files.items()]
    )
    page.text_input(key="dataset-name").set_value("mine").run()
    assert case.says in texts(page)
    for act in case.done:
        act(page)
    page.button(key="dataset-add").click().run()
    if case.refused:
        assert case.refused in page.error[0].value.replace("\\", "")
        for act in case.remedy:
            act(page)
        page.button(key="dataset-add").click().run()
    assert not page.exception
    kept = [row for row in world.client.library.datasets() if row.name == "mine"]
    assert [row.manifest["class_counts"] for row in kept] == ([case.counts] if case.counts else [])
    assert case.after.replace("\\", "") in texts(page)  # which leaves them out


class Functional(nn.Module):
    """What people write by hand: pooling and ReLU are calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)


STATE = Functional().state_dict()
LENET = "LeNet-5, no pad, 10 classes, images of 3x32x32, 62,006 parameters."
MODELS: dict[str, tuple[object, str]] = {
    "names of their own": (STATE, ""),
    "lightning": (
        {"state_dict": {f"model.{key}": value for key, value in STATE.items()} | {"criterion.weight": torch.ones(10)}},
        "'criterion.weight'",
    ),
    "an unknown wrapper": ({"net_state_dict": STATE, "epoch": 3}, ""),
    "a profiler's counters": (STATE | {"total_ops": torch.zeros(1)}, "'total_ops'"),
    "values beside": (
        {"state_dict": STATE, "args": argparse.Namespace(lr=0.1), "when": datetime.date(2026, 1, 2)},
        "nothing of it was run: argparse.Namespace (args), datetime.date (when)",
    ),
    "a tuple": ((STATE, 0.93), "The file holds a tuple"),
}


@pytest.mark.parametrize("name", MODELS)
def test_weights_that_people_have(world: World, name: str) -> None:
    content, said = MODELS[name]
    page = opened("models", add="1")
    page.file_uploader(key="model-file").upload("net.pth", hostile.saved(content), "application/octet-stream").run()
    recognized(page)
    assert LENET in texts(page)
    assert page.selectbox(key="model-proposal").value == "lenet5:channels=3,height=32,width=32,pad=false"
    page.button(key="model-add").click().run()
    assert not page.exception
    row = world.client.library.model("net")
    assert (row.architecture["kind"], row.manifest["parameters"]) == ("lenet5", 62_006)
    assert said in texts(page)
    (job,) = world.client.jobs.find(kind="vet")
    assert job.model_id == row.id
