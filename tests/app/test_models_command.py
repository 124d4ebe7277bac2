"""``auditor models``: how a network is named, what is said to be its accuracy, and its weights taken out again."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from app.commands.models import parse_architecture
from auditor.errors import SpecError
from tests.app.test_cli import Auditor, auditor, world
from tests.worker.test_harden import harden
from tests.worker.world import World, run_here
from worker.client import Client
from worker.settings import Settings

__all__ = ["auditor", "world"]  # fixtures

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
    assert Client(settings).model("net").declared_accuracy == 0.925


def test_the_weights_of_a_child_are_taken_out_and_added_again(world: World, auditor: Auditor, tmp_path: Path) -> None:
    job = run_here(world.client, harden(world, "tough", epochs=1))
    child = world.client.child(job)
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
        added = load_file(world.client.blobs.path(world.client.model(f"again {name}").weights))
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
    result = world.client.training_result(job)
    line = next(line.split() for line in shown.splitlines() if line.startswith("clean accuracy"))
    assert line == f"clean accuracy {result.points[0].clean} {result.best.clean}".split(), (
        "parent and child, on the same images"
    )
    assert f"on the same {result.validation_samples} validation images" in shown
