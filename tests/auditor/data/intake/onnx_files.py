"""ONNX files as exporters write them, what onnxruntime says of them, and graphs made by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig

from auditor.data.intake.onnx.convert import Converted, convert

EXPORTERS: dict[str, dict[str, Any]] = {
    "default": {"external_data": False},
    "not optimized": {"external_data": False, "optimize": False},
    "older": {"dynamo": False},
    "older, any batch, opset 11": {
        "dynamo": False,
        "opset_version": 11,
        "input_names": ["x"],
        "dynamic_axes": {"x": {0: "batch"}},
    },
}
"""torch.onnx.export's two exporters."""


SMALL: dict[str, Callable[[], nn.Module]] = {
    "small vit": lambda: models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10),
    "small convnext": lambda: models.ConvNeXt(
        [CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 1)], stochastic_depth_prob=0.1, num_classes=10
    ),
    "small densenet": lambda: models.DenseNet(8, (2, 2), 16, num_classes=10),
}
"""The classes of torchvision's heavy networks, with few and narrow blocks."""


def torchvision_network(name: str, classes: int = 10) -> nn.Module:
    """A network of torchvision (or of SMALL) in eval mode, its batch norms and its head with weights of their own."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_classes": classes}
    network: nn.Module = SMALL[name]() if name in SMALL else models.get_model(name, weights=None, **options)
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():  # the head of a vision transformer
            nn.init.normal_(module.weight, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.2)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network.eval()


def export(network: nn.Module, path: Path, exporter: str, side: int, **options: Any) -> Path:
    """The network's file, made for one image of side x side pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.rand(1, 3, side, side),), str(path), **{**EXPORTERS[exporter], "verbose": False, **options}
        )
    return path


def onnxruntime_logits(path: Path, x: Tensor, one_by_one: bool = True) -> Tensor:
    """What onnxruntime gives, image by image, since most files are made for one."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = x.split(1) if one_by_one else (x,)
    return torch.cat([torch.from_numpy(np.array(session.run(None, {name: part.numpy()})[0])) for part in parts])


def network_of(converted: Converted) -> nn.Module:
    """The converted network with its weights, in eval mode."""
    network = converted.architecture.build().eval()
    network.load_state_dict(converted.tensors, strict=True)
    return network


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def graph_file(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, Any],
    *,
    shape: Sequence[int | str | None] = (1, 3, 8, 8),
    outputs: Mapping[str, Sequence[int | str] | None] | None = None,
    opset: int = 18,
    kind: int = TensorProto.FLOAT,
) -> Path:
    """A file with the input ``x``, the output ``y`` (or those given) and these nodes and tensors."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None if sizes is None else list(sizes))
            for name, sizes in (outputs or {"y": ("N", 10)}).items()
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


def head(
    values: str, features: int, classes: int = 10, seed: int = 0
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """A flatten and a linear layer after a value, giving ``y``."""
    random = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Flatten", [values], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    weight = (random.normal(size=(classes, features)) / features**0.5).astype("float32")
    return nodes, {"fc.weight": weight, "fc.bias": random.normal(size=classes).astype("float32")}


def agrees(path: Path, converted: Converted | None = None, images: int = 3, seed: int = 0) -> Converted:
    """Assert that the converted network says what onnxruntime says, for one image and for several; returns the conversion."""
    converted = converted or convert(path, path.name)
    network = network_of(converted)
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(images, *converted.architecture.input_shape, generator=random)
    fed = x
    shape = onnx.load(str(path), load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    if shape[3].dim_value == x.shape[1] != shape[1].dim_value:
        fed = x.permute(0, 2, 3, 1).contiguous()
    expected = onnxruntime_logits(path, fed).reshape(images, -1)
    with torch.no_grad():
        together, alone = network(x), network(x[:1])
    assert expected.abs().max() > 0
    assert difference(together, expected) < 1e-5
    assert difference(alone, expected[:1]) < 1e-5
    return converted
