"""The form in which tf2onnx writes Keras networks: channels last, uneven padding, a softmax at the end. Made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from onnx import helper
from torch import nn

from auditor.data.intake.onnx.convert import convert
from tests.auditor.data.intake.onnx_files import agrees, graph_file, network_of


def keras_file(path: Path, batch: str | int = "unk__1") -> Path:
    """Rescaling, two convolutions with SAME padding and stride 2, batch normalization, average, two dense layers, softmax."""
    random = np.random.default_rng(0)

    def tensor(*shape: int, scale: float = 0.3) -> np.ndarray:
        return (random.normal(size=shape) * scale).astype("float32")

    make = helper.make_node
    nodes = [
        make("Mul", ["x", "rescale"], ["scaled"], name="sequential/rescaling/mul"),
        make("Add", ["scaled", "offset"], ["moved"], name="sequential/rescaling/add"),
        make("Transpose", ["moved"], ["first"], perm=[0, 3, 1, 2], name="sequential/conv2d/Conv2D__6"),
        make("Conv", ["first", "w1"], ["c1"], name="sequential/conv2d/Conv2D", auto_pad="SAME_UPPER", strides=[2, 2],
             kernel_shape=[3, 3], dilations=[1, 1], group=1),
        make("Add", ["c1", "b1"], ["a1"], name="sequential/conv2d/BiasAdd"),
        make("Relu", ["a1"], ["r1"], name="sequential/conv2d/Relu"),
        make("Conv", ["r1", "w2"], ["c2"], name="sequential/conv2d_1/Conv2D", auto_pad="SAME_UPPER", strides=[2, 2],
             kernel_shape=[2, 2]),
        make("BatchNormalization", ["c2", "gamma", "beta", "mean", "var"], ["n2"], epsilon=1e-3,
             name="sequential/batch_normalization/FusedBatchNormV3"),
        make("Clip", ["n2", "zero", "six"], ["r2"], name="sequential/re_lu/Relu6"),
        make("MaxPool", ["r2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER",
             name="sequential/max_pooling2d/MaxPool"),
        make("AveragePool", ["p2"], ["p3"], kernel_shape=[2, 2], strides=[1, 1], auto_pad="SAME_UPPER",
             name="sequential/average_pooling2d/AvgPool"),
        make("Transpose", ["p3"], ["last"], perm=[0, 2, 3, 1], name="sequential/flatten/transpose"),
        make("Reshape", ["last", "flat"], ["f"], name="sequential/flatten/Reshape"),
        make("MatMul", ["f", "d1"], ["m1"], name="sequential/dense/MatMul"),
        make("Add", ["m1", "db1"], ["h1"], name="sequential/dense/BiasAdd"),
        make("HardSigmoid", ["h1"], ["hs"], name="sequential/dense/HardSigmoid"),
        make("MatMul", ["hs", "d2"], ["m2"], name="sequential/dense_1/MatMul"),
        make("Add", ["m2", "db2"], ["h2"], name="sequential/dense_1/BiasAdd"),
        make("Softmax", ["h2"], ["y"], axis=-1, name="sequential/dense_1/Softmax"),
    ]  # fmt: skip
    tensors = {
        "rescale": np.float32(1 / 127.5), "offset": np.float32(-1.0), "w1": tensor(8, 3, 3, 3), "b1": tensor(1, 8, 1, 1),
        "w2": tensor(6, 8, 2, 2), "gamma": 1 + tensor(6), "beta": tensor(6), "mean": tensor(6),
        "var": np.abs(tensor(6)) + 0.5, "zero": np.float32(0), "six": np.float32(6), "flat": np.array([-1, 54], "int64"),
        "d1": tensor(54, 12), "db1": tensor(12), "d2": tensor(12, 10, scale=2.0), "db2": tensor(10),
    }  # fmt: skip
    return graph_file(path, nodes, tensors, shape=(batch, 21, 21, 3), opset=13)


def test_a_network_with_channels_last_takes_them_first_and_gives_logits(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "keras.onnx")
    kept = agrees(path, convert(path, "keras.onnx", keep_softmax=True))
    assert kept.architecture.input_shape == (3, 21, 21)

    converted = convert(path, "keras.onnx")
    x = torch.rand(3, 3, 21, 21, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(network_of(converted)(x).softmax(1), network_of(kept)(x))
    assert "The softmax at the end" in " ".join(converted.notes)
    assert "channels last" in " ".join(converted.notes)
    assert "scales its input itself (multiply, add)" in " ".join(converted.notes)


def test_its_layers_are_whole_and_named(tmp_path: Path) -> None:
    """The bias that Keras adds after a convolution belongs to it, as that of a dense layer."""
    network = network_of(convert(keras_file(tmp_path / "keras.onnx"), "keras.onnx"))
    layers = {name: type(module) for name, module in network.named_modules()}
    assert layers["sequential.conv2d"] is nn.Conv2d
    assert layers["sequential.conv2d_1"] is nn.Conv2d
    assert layers["sequential.batch_normalization"] is nn.BatchNorm2d
    assert layers["sequential.re_lu"] is nn.ReLU6
    assert layers["sequential.dense"] is nn.Linear
    assert network.get_submodule("sequential.conv2d").bias is not None
    assert network.get_submodule("sequential.dense_1").bias is not None
    assert not any("add" in name for name in layers if "dense" in name)


def test_transposes_that_cancel_are_left_out(tmp_path: Path) -> None:
    """Of the input's two only scaling is between; a network without it has none."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Squeeze", ["p", "axes"], ["y"]),
    ]
    weights = {"w": random.normal(size=(10, 3, 3, 3)).astype("float32"), "axes": np.array([2, 3])}
    path = graph_file(tmp_path / "keras.onnx", nodes, weights, shape=("N", 9, 9, 3))
    converted = agrees(path)
    assert [step.op for step in converted.architecture.graph.steps] == ["conv", "global_pool", "flatten"]
