"""Files that torch.onnx.export writes become networks that say what onnxruntime says and have the original's gradients."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import onnx
import pytest
import torch
from torch import Tensor, nn

from auditor.data.intake.onnx.convert import convert
from auditor.kit.errors import AuditorError
from auditor.models.neurons import kind_of
from tests.auditor.data.intake.onnx_files import (
    EXPORTERS,
    agrees,
    difference,
    export,
    network_of,
    torchvision_network,
)


class Family(NamedTuple):
    """A network of torchvision and the side of its images; small, except where the family takes no other."""

    name: str
    side: int


QUICK = [
    Family("squeezenet1_1", 64),
    Family("resnet18", 64),
    Family("mobilenet_v3_small", 64),
    Family("small vit", 32),
    Family("small convnext", 32),
    Family("small densenet", 32),
]
HEAVY = [
    Family("efficientnet_b0", 64),
    Family("densenet121", 64),
    Family("convnext_tiny", 64),
    Family("vgg11_bn", 224),
    Family("vit_b_16", 224),
]


def _marks(family: Family, exporter: str) -> list[pytest.MarkDecorator]:
    """Each small family as the default exporter writes it, and one in each form, are tested with every `make test`."""
    if family in HEAVY:
        return [pytest.mark.slow]
    return [] if exporter == "default" or family.name == "small densenet" else [pytest.mark.thorough]


CASES = [
    pytest.param(family, exporter, marks=_marks(family, exporter), id=f"{family.name}, {exporter}")
    for family in (*QUICK, *HEAVY)
    for exporter in EXPORTERS
    # The older exporter has no form of PyTorch's attention for operator sets below 13.
    if not ("vit" in family.name and exporter == "older, any batch, opset 11")
]


def input_gradient(network: nn.Module, x: Tensor) -> Tensor:
    """Of the sum of squared logits, computed in float64."""
    points = x.double().requires_grad_()
    copy.deepcopy(network).double()(points).square().sum().backward()
    assert points.grad is not None
    return points.grad


@pytest.mark.parametrize(("family", "exporter"), CASES)
def test_logits_are_those_of_onnxruntime_and_gradients_those_of_the_original(
    family: Family, exporter: str, tmp_path: Path
) -> None:
    original = torchvision_network(family.name)
    converted = agrees(export(original, tmp_path / "model.onnx", exporter, family.side))
    network = network_of(converted)
    x = torch.rand(2, 3, family.side, family.side, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert difference(network(x), original(x)) < 1e-5
    # In float64. In float32 a network differs from itself: of a VGG's millions of ReLUs and maxima some are within rounding of
    # their kink, and each that lands on the other side moves the gradient, by some percent of its largest value.
    gradients = zip(input_gradient(network, x), input_gradient(original, x), strict=True)
    assert max(difference(ours, theirs) for ours, theirs in gradients) < 1e-6

    wanted = {name for name, module in original.named_modules() if kind_of(module) in ("conv", "linear")}
    names = {name for name, module in network.named_modules() if kind_of(module) in ("conv", "linear")}
    inside_attention = {name for name in names ^ wanted if ".self_attention" in name}
    assert (names ^ wanted) - inside_attention == set()


@pytest.mark.parametrize("opset", range(11, 26))
def test_every_operator_set_that_the_exporters_write_is_read(opset: int, tmp_path: Path) -> None:
    """The older exporter writes 11 to 20, the newer one the rest."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.Hardswish(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 1),
        nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 5),
    ).eval()  # fmt: skip
    path = export(network, tmp_path / "model.onnx", "older" if opset <= 20 else "default", 16, opset_version=opset)
    written = {item.domain: item.version for item in onnx.load(str(path)).opset_import}
    assert written[""] == opset
    converted = agrees(path)
    kinds = [step.op for step in converted.architecture.graph.steps]
    assert kinds.count("conv") == 2
    assert kinds.count("gelu") == kinds.count("layer_norm") == 1


def test_an_export_without_optimization_keeps_names_and_values_of_the_state_dict(tmp_path: Path) -> None:
    original = torchvision_network("resnet18")
    converted = convert(export(original, tmp_path / "model.onnx", "not optimized", 64), "model.onnx")
    expected = original.state_dict()
    assert converted.tensors.keys() == expected.keys()
    assert all(
        torch.equal(converted.tensors[key], value) for key, value in expected.items() if value.is_floating_point()
    )
    assert not any("folded" in note for note in converted.notes)


def test_the_default_export_keeps_the_names_and_folds_the_values(tmp_path: Path) -> None:
    original = torchvision_network("resnet18")
    path = export(original, tmp_path / "model.onnx", "default", 64)
    stored = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(str(path)).graph.initializer}
    assert not torch.allclose(torch.tensor(stored["conv1.weight"]), original.state_dict()["conv1.weight"], atol=1e-3)
    converted = convert(path, "model.onnx")
    assert "The exporter folded batch normalizations into 20 convolutions" in " ".join(converted.notes)
    torch.testing.assert_close(converted.tensors["conv1.weight"], torch.tensor(stored["conv1.weight"]))


def test_the_older_export_loses_the_names_of_folded_weights_and_its_nodes_keep_them(tmp_path: Path) -> None:
    graph = onnx.load(str(export(torchvision_network("resnet18"), tmp_path / "model.onnx", "older", 64))).graph
    assert sorted(item.name for item in graph.initializer if not item.name.startswith("onnx::Conv_")) == [
        "fc.bias",
        "fc.weight",
    ]
    assert "/layer1/layer1.0/conv1/Conv" in {node.name for node in graph.node}


def test_initializers_that_the_exporter_shares_are_each_layers_own(tmp_path: Path) -> None:
    """Equal tensors are written once: an untrained network's norms, say. Training must not tie what was not tied."""
    torch.manual_seed(0)
    blocks = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = blocks

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(x.mean(3).mean(2) @ torch.ones(3, 4))

    path = export(Network().eval(), tmp_path / "model.onnx", "older", 8)
    proto = onnx.load(str(path))
    assert any(node.op_type == "Identity" for node in proto.graph.node)
    converted = agrees(path)
    assert {"blocks.1.weight", "blocks.3.weight"} <= set(converted.tensors)
    network = network_of(converted)
    assert network.get_parameter("blocks.1.weight") is not network.get_parameter("blocks.3.weight")


def test_a_side_file_is_refused_and_the_remedy_works(tmp_path: Path) -> None:
    """The exporter's default writes the weights beside the file."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)
    ).eval()
    path = export(network, tmp_path / "model.onnx", "default", 8, external_data=True)
    assert (tmp_path / "model.onnx.data").exists()
    with pytest.raises(AuditorError, match=r"keeps .* of its tensors in another file") as refused:
        convert(path, "model.onnx")
    assert "external_data=False" in refused.value.hint
    agrees(export(network, tmp_path / "again.onnx", "default", 8, external_data=False))
    onnx.save(onnx.load(str(path)), tmp_path / "saved.onnx")
    agrees(tmp_path / "saved.onnx")
