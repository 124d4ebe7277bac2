"""What an ONNX file leaves open, on the command line and on the page: the size of its images, and the output with the logits."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper
from streamlit.testing.v1 import AppTest

from tests import hostile
from tests.app.test_cli import Auditor, auditor
from tests.app.test_pages import opened, texts, world
from tests.auditor.data.intake.onnx_files import graph_file
from tests.worker.world import World

__all__ = ["auditor", "world"]  # fixtures

pytestmark = pytest.mark.usefixtures("warm_sandbox")


def open_size(path: Path) -> Path:
    """A convolution and a mean over all positions: any height and width."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype("float32")
    nodes = [helper.make_node("Conv", ["x", "conv.weight"], ["c"]), helper.make_node("GlobalAveragePool", ["c"], ["p"])]
    nodes.append(helper.make_node("Flatten", ["p"], ["y"]))
    return graph_file(path, nodes, {"conv.weight": weight}, shape=("n", 3, "h", "w"))


def two_outputs(path: Path) -> Path:
    """Two heads, of 4 classes each; the second one has a bias of its own."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 6, 6)).astype("float32")
    tensors = {"conv.weight": weight, "aux.weight": weight[::-1].copy(), "aux.bias": np.arange(4, dtype="float32")}
    nodes = [helper.make_node("Conv", ["x", "conv.weight"], ["c"]), helper.make_node("Flatten", ["c"], ["main"])]
    nodes += [
        helper.make_node("Conv", ["x", "aux.weight", "aux.bias"], ["a"]),
        helper.make_node("Flatten", ["a"], ["aux"]),
    ]
    return graph_file(path, nodes, tensors, shape=(1, 3, 6, 6), outputs={"main": (1, 4), "aux": (1, 4)})


def test_the_command_line_gives_the_size(world: World, auditor: Auditor, tmp_path: Path) -> None:
    file = str(open_size(tmp_path / "net.onnx"))
    assert "--size 224x224" in auditor("models", "add", file, expect=1)
    said = auditor("models", "inspect", file, "--size", "6x8")
    assert re.search(r"auditor models add \S+net\.onnx'? --size 6x8", said)
    auditor("models", "add", file, "--size", "6x8")
    row = world.client.library.model("net")
    assert (row.architecture["height"], row.architecture["width"]) == (6, 8)
    assert "expected height x width, such as 224x224" in auditor("models", "add", file, "--size", "6 by 8", expect=1)


def test_the_command_line_chooses_the_output(world: World, auditor: Auditor, tmp_path: Path) -> None:
    file = str(two_outputs(tmp_path / "net.onnx"))
    refused = auditor("models", "add", file, expect=1)
    assert "has 2 outputs ('main', 'aux')" in refused
    assert "--output main" in refused
    steps = {}
    for wanted in ("main", "aux", "1"):
        auditor("models", "add", file, "--output", wanted, "--name", f"net {wanted}")
        steps[wanted] = world.client.library.model(f"net {wanted}").architecture["graph"]["steps"]
    assert steps["aux"] == steps["1"] != steps["main"]
    assert "Did you mean aux?" in auditor("models", "add", file, "--output", "auxx", expect=1)


def test_weights_alone_leave_nothing_open(world: World, auditor: Auditor, tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    file.write_bytes(hostile.saved(hostile.tiny_state()))
    options = ["--architecture", hostile.ARCHITECTURE]
    for option, words in (
        (["--size", "32x32"], "does not leave the size of its images open"),
        (["--output", "y"], "returns one tensor, and no output 'y'"),
    ):
        assert words in auditor("models", "add", str(file), *options, *option, expect=1)
    auditor("models", "add", str(file), *options)  # the remedy: without


def upload(path: Path) -> AppTest:
    page = opened("models", add="1")
    page.file_uploader(key="model-file").upload(path.name, path.read_bytes(), "application/octet-stream").run()
    return page


def test_the_page_asks_for_the_size(world: World, tmp_path: Path) -> None:
    page = upload(open_size(tmp_path / "net.onnx"))
    page.button(key="model-add").click().run()
    assert "'Height' and 'Width' on the page" in texts(page)
    page.number_input(key="model-height").set_value(6)
    page.button(key="model-add").click().run()
    assert not page.error
    architecture = world.client.library.model("net").architecture
    assert (architecture["height"], architecture["width"]) == (6, 6)


def test_the_page_offers_the_outputs(world: World, tmp_path: Path) -> None:
    page = upload(two_outputs(tmp_path / "net.onnx"))
    page.button(key="model-add").click().run()
    assert "has 2 outputs ('main', 'aux')" in texts(page)
    assert page.selectbox(key="model-output-offered").options == ["main", "aux"]
    page.selectbox(key="model-output-offered").set_value("aux")
    page.button(key="model-add").click().run()
    assert not page.error
    (row,) = [row for row in world.client.library.models() if row.name == "net"]
    assert any(step["op"] == "conv" and step["bias"] for step in row.architecture["graph"]["steps"])


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_other_files_are_not_asked_for_the_size(world: World, name: str) -> None:
    page = opened("models", add="1")
    page.file_uploader(key="model-file").upload(name, b"anything", "application/octet-stream").run()
    assert not [box for box in page.number_input if box.key == "model-height"]


def test_the_page_takes_the_normalization_and_the_output_of_the_network(world: World) -> None:
    scaling = {"normalize.mean": torch.tensor([0.5, 0.4, 0.3]), "normalize.std": torch.tensor([0.2, 0.2, 0.25])}
    content = hostile.saved(hostile.tiny_state() | scaling)
    page = opened("models", add="1")
    page.file_uploader(key="model-file").upload("net.pt", content, "application/octet-stream").run()
    page.selectbox(key="model-architecture").set_value("resnet18-cifar").run()
    page.number_input(key="model-resnet18-cifar-width_factor").set_value(0.0625)
    page.text_input(key="model-output").set_value("aux")
    page.button(key="model-add").click().run()
    assert "returns one tensor, and no output 'aux'" in texts(page)
    page.text_input(key="model-output").set_value("")
    page.button(key="model-add").click().run()
    assert not page.error
    row = world.client.library.model("net")
    assert row.normalization["mean"] == pytest.approx([0.5, 0.4, 0.3])
    assert row.normalization["std"] == pytest.approx([0.2, 0.2, 0.25])
    assert "The normalization is the file's own: mean 0.5 0.4 0.3, std 0.2 0.2 0.25" in texts(page)
