"""``auditor models``: how a network is named, what is said to be its accuracy, and its weights taken out again."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import shlex
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from app.commands.declared import parse_architecture
from auditor.kit.errors import SpecError
from auditor.models.architecture import ARCHITECTURES
from tests.app.test_cli import Auditor, auditor, world
from tests.worker.test_harden import harden
from tests.worker.world import World, run_here
from worker.client import Client
from worker.settings import Settings

__all__ = ["auditor", "world"]  # fixtures

pytestmark = pytest.mark.usefixtures("warm_sandbox", "shared_server")

GREY = nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 7))
INLINE = "nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 7))"


@pytest.mark.parametrize("form", ["inline", "file", "print", "json"])
def test_a_grey_network_in_every_form(form: str, tmp_path: Path) -> None:
    file = tmp_path / "layers.txt"
    values = {"kind": "sequential", "layers": INLINE, "channels": 1, "height": 28, "width": 28, "num_classes": 7}
    file.write_text({"print": str(GREY), "json": json.dumps(values)}.get(form, INLINE))
    text = INLINE if form == "inline" else f"@{file}"
    built = parse_architecture(text) if form == "json" else parse_architecture(text, "1x28x28", 7)
    assert (built.input_shape, built.num_classes) == ((1, 28, 28), 7)
    built.build().load_state_dict(GREY.state_dict())
    assert (
        parse_architecture("resnet-cifar:depth=20", "1 x 28 x 28", 7)
        .describe()
        .startswith("resnet-cifar:num_classes=7,channels=1")
    )
    for wrong in ("28x28", "1x28x28x3", "axbxc"):
        with pytest.raises(SpecError, match="expected channels x height x width, such as 1x28x28"):
            parse_architecture(text, wrong)


def test_a_declared_accuracy_is_kept_and_compared(settings: Settings, auditor: Auditor, tmp_path: Path) -> None:
    torch.save(GREY.state_dict(), tmp_path / "net.pt")
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", images=draw.integers(0, 256, (60, 28, 28), np.uint8), labels=np.arange(60) % 7)
    auditor("datasets", "add", str(tmp_path / "data.npz"), "--name", "noise")
    options = ("--architecture", INLINE, "--input", "1x28x28", "--num-classes", "7", "--name", "net")
    assert "expected percent of images" in auditor(
        "models", "add", str(tmp_path / "net.pt"), *options, "--accuracy", "good", expect=1
    )
    vetted = auditor("models", "add", str(tmp_path / "net.pt"), *options, "--accuracy", "92.5 %", "--dataset", "noise")
    assert "SEVERE: The model was declared to be right on 92.5 % of images; on this data set it is not." in " ".join(
        vetted.split()
    )
    assert Client(settings).library.model("net").declared_accuracy == 0.925


def test_what_trainings_save_is_added_and_nothing_of_it_runs(
    settings: Settings, auditor: Auditor, tmp_path: Path
) -> None:
    """Through the sandbox: objects and a command beside the weights, in a newer protocol; then the whole model."""

    class Command:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "marker"),)

    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.9), "then": Command()}
    torch.save({"net": GREY.state_dict()} | beside, tmp_path / "beside.pt", pickle_protocol=4)
    torch.save(GREY, tmp_path / "whole.pt")
    options = ("--architecture", INLINE, "--input", "1x28x28", "--num-classes", "7")
    said = " ".join(auditor("models", "add", str(tmp_path / "beside.pt"), *options).split())
    assert "nothing of it was run: argparse.Namespace (args), posix.mkdir (then)" in said
    assert "Careful with this file elsewhere: it asks for posix.mkdir" in said
    said = " ".join(auditor("models", "add", str(tmp_path / "whole.pt"), *options).split())
    assert "The file holds a whole model (torch.nn.modules.container.Sequential)" in said
    assert not (tmp_path / "marker").exists()
    stored = {Client(settings).library.model(name).weights for name in ("beside", "whole")}
    assert len(stored) == 1, "the same weights, the same file"


def test_of_two_sets_of_weights_the_option_takes_one(settings: Settings, auditor: Auditor, tmp_path: Path) -> None:
    teacher = {key: value + 1 for key, value in GREY.state_dict().items()}
    torch.save({"student": GREY.state_dict(), "teacher": teacher}, tmp_path / "two.pt")
    add = (
        "models",
        "add",
        str(tmp_path / "two.pt"),
        "--architecture",
        INLINE,
        "--input",
        "1x28x28",
        "--num-classes",
        "7",
    )
    refused = " ".join(auditor(*add, expect=1).split())
    assert "'two.pt' holds several sets of weights ('student', 'teacher'); expected one." in refused
    option = re.search("`--weights ([^`]+)`", refused)
    assert option is not None
    auditor(*add, "--weights", option[1], "--name", "first")
    assert "'teacher' was taken" in auditor(*add, "--weights", "teacher", "--name", "second")
    client = Client(settings)
    for name, expected in (("first", GREY.state_dict()), ("second", teacher)):
        stored = load_file(client.blobs.path(client.library.model(name).weights))
        assert all(torch.equal(stored[key], value) for key, value in expected.items())


def test_the_weights_of_a_child_are_taken_out_and_added_again(world: World, auditor: Auditor, tmp_path: Path) -> None:
    job = run_here(world.client, harden(world, "tough", epochs=1))
    child = world.client.trainings.child(job)
    assert child is not None
    stored = load_file(world.client.blobs.path(child.weights))
    for name in ("tough.safetensors", "tough.pt"):
        said = auditor("models", "export", "tough", str(tmp_path / name))
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() in said
        beside = json.loads((tmp_path / "tough.json").read_text())
        assert beside["sha256"] == {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}
        assert beside["normalization"] == child.normalization
        assert beside["trained_from"] == "tiny"
        loaded = (
            load_file(tmp_path / name)
            if name.endswith("safetensors")
            else torch.load(tmp_path / name, weights_only=True)
        )
        assert loaded.keys() == stored.keys()
        assert all(torch.equal(loaded[key], stored[key]) for key in stored)
        again = ("--architecture", f"@{tmp_path / 'tough.json'}", "--name", f"again {name}")
        auditor("models", "add", str(tmp_path / name), *again)
        added = load_file(world.client.blobs.path(world.client.library.model(f"again {name}").weights))
        assert all(torch.equal(added[key], stored[key]) for key in stored)
    said = auditor("models", "export", child.id[:8], str(tmp_path / "all.zip"))
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        hashes = json.loads(archive.read("model.json"))["sha256"]
        for name, sha256 in hashes.items():
            assert hashlib.sha256(archive.read(name)).hexdigest() == sha256
            assert sha256 in said
        assert torch.load(io.BytesIO(archive.read("weights.pt")), weights_only=True).keys() == stored.keys()
    refused = auditor("models", "export", "tough", str(tmp_path / "tough.onnx"), expect=1)
    assert "expected a name that ends in .safetensors, .pt, .pth or .zip, got .onnx" in refused
    assert not (tmp_path / "tough.onnx").exists()
    shown = auditor("harden", "show", job[:8])
    result = world.client.trainings.result(job)
    line = next(line.split() for line in shown.splitlines() if line.startswith("clean accuracy"))
    assert line == f"clean accuracy {result.points[0].clean} {result.best.clean}".split(), (
        "parent and child, on the same images"
    )
    assert f"on the same {result.validation_samples} validation images" in shown


def run_lines(text: str) -> list[list[str]]:
    """The commands that an inspection shows, as a shell splits them, without the program's name."""
    return [shlex.split(line)[1:] for line in text.splitlines() if line.strip().startswith("auditor ")]


def test_every_line_that_an_inspection_shows_can_be_run(settings: Settings, auditor: Auditor, tmp_path: Path) -> None:
    """Names alone, two that fit, two sets of weights, a draft of layers."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    grey = ARCHITECTURES.parse("preact-resnet:channels=1,num_classes=7").build().state_dict()
    wide = ARCHITECTURES.parse("wide-resnet:depth=10,widen_factor=1,num_classes=7").build().state_dict()
    torch.save(grey, folder / "grey.pt")
    torch.save({"student": wide, "teacher": wide}, folder / "two.pt")
    torch.save(GREY.state_dict(), folder / "own.pt")
    said = {name: auditor("models", "inspect", str(folder / f"{name}.pt")) for name in ("grey", "two", "own")}
    lines = [*run_lines(said["grey"]), *run_lines(said["own"])]
    assert "PreAct ResNet, depth 18, 7 classes, images of 1x32x32, 11.2 million parameters." in " ".join(
        said["grey"].split()
    )
    assert "This is a draft" in " ".join(said["own"].split())
    assert re.search(r"0\.weight +4x1x4x4", said["own"])
    sets = run_lines(said["two"])
    assert [line[-1] for line in sets] == ["student", "teacher"]
    lines += run_lines(auditor(*sets[1]))
    assert len(lines) == 4
    for number, line in enumerate(lines):
        auditor(*line, "--name", f"n{number}")
    rows = [Client(settings).library.model(f"n{number}") for number in range(4)]
    assert [row.architecture.get("shortcut_of") for row in rows[:2]] == ["activated", "input"]
    assert [row.architecture["kind"] for row in rows[2:]] == ["sequential", "wide-resnet"]


def test_weights_alone_need_no_architecture_where_one_fits(
    settings: Settings, auditor: Auditor, tmp_path: Path
) -> None:
    architecture = ARCHITECTURES.parse("wide-resnet:depth=10,widen_factor=1,num_classes=7")
    torch.save(architecture.build().state_dict(), tmp_path / "wide.pt")
    said = " ".join(auditor("models", "add", str(tmp_path / "wide.pt")).split())
    assert "architecture, as its names and shapes say: wide-resnet:num_classes=7" in said
    assert "was taken, the only one tried whose tensors fit." in said
    assert Client(settings).library.model("wide").architecture == architecture.model_dump(mode="json")
    torch.save(ARCHITECTURES.parse("preact-resnet").build().state_dict(), tmp_path / "two.pt")
    refused = " ".join(auditor("models", "add", str(tmp_path / "two.pt"), expect=1).split())
    option = re.search("or `--architecture ([^`]+)`", refused)
    assert option is not None
    assert option[1] == "preact-resnet:shortcut_of=input"
    auditor("models", "add", str(tmp_path / "two.pt"), "--architecture", option[1])
