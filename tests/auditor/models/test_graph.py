"""A graph as data: what makes a network of it, and what is refused, whoever wrote it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import fx

from auditor.kit.errors import SpecError
from auditor.models.architecture import ARCHITECTURES
from auditor.models.architectures.onnx import Onnx
from auditor.models.graph.network import Graph, GraphNetwork

STEPS: list[dict[str, Any]] = [
    {
        "op": "conv",
        "name": "stem.conv",
        "inputs": ["input"],
        "in_channels": 3,
        "out_channels": 4,
        "kernel_size": [3, 3],
    },
    {"op": "arithmetic", "name": "stem.scale", "inputs": ["stem.conv", "stem.gamma"], "function": "multiply"},
    {"op": "arithmetic", "name": "twice", "inputs": ["stem.scale", "stem.conv"], "function": "add"},
    {"op": "global_pool", "name": "pool", "inputs": ["twice"]},
    {"op": "flatten", "name": "flat", "inputs": ["pool"]},
    {"op": "linear", "name": "fc", "inputs": ["flat"], "in_features": 4, "out_features": 10},
]
GRAPH: dict[str, Any] = {"tensors": [{"name": "stem.gamma", "shape": [4, 1, 1]}], "steps": STEPS, "output": "fc"}


def changed(step: int, **values: Any) -> dict[str, Any]:
    """The graph with other values in one of its steps."""
    return {**GRAPH, "steps": [{**item, **values} if index == step else item for index, item in enumerate(STEPS)]}


def test_the_steps_run_as_they_are_written() -> None:
    network = Onnx(graph=Graph.model_validate(GRAPH)).build().eval()
    torch.nn.init.normal_(network.get_parameter("stem.gamma"))
    x = torch.rand(2, 3, 32, 32)
    conv, fc = network.get_submodule("stem.conv"), network.get_submodule("fc")
    with torch.no_grad():
        maps = conv(x)
        expected = fc((maps * network.get_parameter("stem.gamma") + maps).mean((2, 3)))
        torch.testing.assert_close(network(x), expected)
    assert "stem.gamma" in dict(network.named_parameters())


def test_a_trace_gives_the_same_and_knows_the_sums() -> None:
    """The analyses of routes read traces: an addition must be one."""
    network = GraphNetwork(Graph.model_validate(GRAPH)).eval()
    traced = fx.symbolic_trace(network)
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(traced(x), network(x), rtol=0, atol=0)
    assert "add" in {getattr(node.target, "__name__", "") for node in traced.graph.nodes}


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (changed(1, inputs=["fc", "stem.gamma"]), "which is no earlier step"),
        (changed(3, name="stem"), "another step or tensor"),
        (changed(5, name="flat.inner"), "lies within one"),
        (changed(3, name="stem.gamma"), "another step or tensor"),
        (changed(3, name="forward"), "PyTorch keeps the name 'forward'"),
        (changed(3, name="stem.__class__"), "PyTorch keeps the name"),
        (changed(3, name="a b"), "pattern"),
        (changed(3, op="run"), "discriminator|tag|expected"),
        (changed(3, command="touch canary"), "Extra inputs"),
        (changed(0, kernel_size=[5000, 3]), "less than or equal to 4096"),
        ({**GRAPH, "output": "nowhere"}, "is no step"),
        ({**GRAPH, "steps": []}, "at least 1"),
    ],
)
def test_a_graph_that_makes_no_network_is_refused(graph: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Graph.model_validate(graph)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (changed(0, in_channels=5), "cannot take 3 channels of 32x32 pixels"),
        (changed(5, out_features=7), "2x7 for 2 images|gives 2x7"),
        (changed(0, groups=2), "makes no network|cannot take"),
        (changed(5, in_features=100_000, out_features=100_000), "10,000,100,000|weights, at most"),
    ],
)
def test_an_architecture_says_what_does_not_fit(graph: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words) as refused:
        Onnx(graph=Graph.model_validate(graph)).build()
    assert refused.value.message.startswith("onnx: ")


def test_a_kind_that_files_bring_is_not_offered_to_be_filled_in() -> None:
    assert [member.kind_name() for member in ARCHITECTURES if not member.by_hand] == ["onnx", "transformers"]
