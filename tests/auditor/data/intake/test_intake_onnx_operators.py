"""Each operator that is taken says what onnxruntime says, on one image and on several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from auditor.data.intake.onnx.convert import convert
from auditor.data.intake.onnx.operators import OPERATORS
from auditor.models.graph.steps import Arithmetic, Step
from tests.auditor.data.intake.onnx_files import agrees, graph_file, head, network_of, onnxruntime_logits

make = helper.make_node
Tensors = dict[str, Any]


def floats(*shape: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32") * 0.5


def ints(*values: int) -> np.ndarray:
    return np.array(values, "int64")


CHAINS: dict[str, tuple[list[onnx.NodeProto], Tensors, int]] = {
    "pads that differ": ([make("Conv", ["x", "w"], ["v"], pads=[0, 1, 2, 0])], {"w": floats(4, 3, 3, 3)}, 18),
    "same lower": ([make("Conv", ["x", "w"], ["v"], auto_pad="SAME_LOWER", strides=[2, 2])], {"w": floats(4, 3, 2, 2)}, 18),
    "valid, dilated, in groups": (
        [make("Conv", ["x", "w", "b"], ["v"], auto_pad="VALID", group=3, dilations=[2, 2])],
        {"w": floats(6, 1, 3, 3), "b": floats(6)},
        18,
    ),
    "bias added later": (
        [make("Conv", ["x", "w"], ["c"]), make("Add", ["b", "c"], ["v"])],
        {"w": floats(4, 3, 3, 3), "b": floats(4, 1, 1)},
        18,
    ),
    "max pool, ceil": ([make("MaxPool", ["x"], ["v"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], {}, 18),
    "max pool, dilated": (
        [make("MaxPool", ["x"], ["v"], kernel_shape=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1])],
        {},
        18,
    ),
    "max pool, uneven": ([make("MaxPool", ["x"], ["v"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])], {}, 18),
    "average, padding counted": (
        [make("AveragePool", ["x"], ["v"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)],
        {},
        18,
    ),
    "average, padding not counted": (
        [make("AveragePool", ["x"], ["v"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])],
        {},
        18,
    ),
    "average, uneven": (
        [make("AveragePool", ["x"], ["v"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])],
        {},
        18,
    ),
    "average, uneven, counted": (
        [make("AveragePool", ["x"], ["v"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1)],
        {},
        18,
    ),
    "average, ceil": ([make("AveragePool", ["x"], ["v"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], {}, 19),
    "global max": ([make("GlobalMaxPool", ["x"], ["v"])], {}, 18),
    "local response": ([make("LRN", ["x"], ["v"], size=3, alpha=0.2, beta=0.6, bias=1.5)], {}, 18),
    "instance norm": (
        [make("InstanceNormalization", ["x", "s", "b"], ["v"], epsilon=1e-3)],
        {"s": floats(3), "b": floats(3)},
        18,
    ),
    "group norm": (
        [
            make("Conv", ["x", "w"], ["c"]),
            make("GroupNormalization", ["c", "s", "b"], ["v"], num_groups=2, epsilon=1e-3),
        ],
        {"w": floats(6, 3, 3, 3), "s": floats(6), "b": floats(6)},
        21,
    ),
    "layer norm over maps": (
        [make("LayerNormalization", ["x", "s", "b"], ["v"], axis=1)],
        {"s": floats(3, 8, 8), "b": floats(3, 8, 8)},
        18,
    ),
    "rms norm": ([make("RMSNormalization", ["x", "s"], ["v"], axis=-1)], {"s": floats(8)}, 23),
    "batch norm": (
        [make("BatchNormalization", ["x", "s", "b", "m", "q"], ["v"], epsilon=0.01)],
        {"s": floats(3), "b": floats(3), "m": floats(3), "q": np.abs(floats(3)) + 0.1},
        18,
    ),
    "activations": (
        [
            make("Sub", ["x", "half"], ["a0"]),
            make("LeakyRelu", ["a0"], ["a1"], alpha=0.3),
            make("Elu", ["a1"], ["a2"], alpha=0.7),
            make("Softplus", ["a2"], ["a3"]),
            make("PRelu", ["a0", "p"], ["b1"]),
            make("Selu", ["b1"], ["b2"]),
            make("Celu", ["b2"], ["b3"], alpha=0.5),
            make("Softsign", ["b3"], ["b4"]),
            make("HardSigmoid", ["a0"], ["c1"], alpha=0.2, beta=0.4),
            make("Mish", ["a0"], ["c2"]),
            make("Sum", ["a3", "b4", "c1", "c2"], ["v"]),
        ],
        {"half": np.float32(0.5), "p": floats(3, 1, 1)},
        18,
    ),
    "gelus": (
        [
            make("Sub", ["x", "half"], ["a"]),
            make("Gelu", ["a"], ["b"]),
            make("Gelu", ["a"], ["c"], approximate="tanh"),
            make("Mul", ["b", "c"], ["v"]),
        ],
        {"half": np.float32(0.5)},
        20,
    ),
    "bounds": (
        [
            make("Clip", ["x", "low", "high"], ["a"]),
            make("Max", ["x", "low"], ["b"]),
            make("Min", ["high", "b"], ["c"]),
            make("Max", ["a", "x"], ["d"]),
            make("Add", ["c", "d"], ["v"]),
        ],
        {"low": np.float32(0.3), "high": np.float32(0.6)},
        18,
    ),
    "functions": (
        [
            make("Add", ["x", "one"], ["a"]),
            make("Log", ["a"], ["b"]),
            make("Exp", ["b"], ["c"]),
            make("Sqrt", ["c"], ["d"]),
            make("Reciprocal", ["d"], ["e"]),
            make("Neg", ["e"], ["f"]),
            make("Abs", ["f"], ["g"]),
            make("Erf", ["g"], ["h"]),
            make("Pow", ["h", "three"], ["i"]),
            make("Div", ["one", "i"], ["j"]),
            make("Sub", ["one", "j"], ["v"]),
        ],
        {"one": np.float32(1), "three": np.float32(3)},
        18,
    ),
    "reductions": (
        [
            make("ReduceSum", ["x", "last"], ["a"], keepdims=1),
            make("ReduceMax", ["a", "two"], ["b"], keepdims=0),
            make("ReduceMin", ["x", "two"], ["c"], keepdims=0),
            make("Add", ["b", "c"], ["v"]),
        ],
        {"last": ints(-1), "two": ints(2)},
        18,
    ),
    "cut and joined": (
        [
            make("Split", ["x", "sizes"], ["a", "b"], axis=2),
            make("Slice", ["b", "s0", "s1", "s2", "s3"], ["c"]),
            make("Gather", ["a", "order"], ["d"], axis=3),
            make("Slice", ["x", "m1", "far", "s2", "m1"], ["e"]),
            make("Flatten", ["c"], ["f1"]),
            make("Flatten", ["d"], ["f2"]),
            make("Flatten", ["e"], ["f3"]),
            make("Concat", ["f1", "f2", "f3"], ["v"], axis=1),
        ],
        {
            "sizes": ints(3, 5), "s0": ints(0), "s1": ints(8), "s2": ints(3), "s3": ints(3), "order": ints(5, 1, -1, 0),
            "m1": ints(-1), "far": ints(-9),
        },
        18,
    ),
    "padded by each mode": (
        [
            make("Pad", ["x", "p", "value"], ["a"]),
            make("Pad", ["a", "p"], ["b"], mode="reflect"),
            make("Pad", ["b", "q", "", "axes"], ["v"], mode="edge"),
        ],
        {"p": ints(0, 0, 1, 2, 0, 0, 3, 0), "q": ints(2, 1), "axes": ints(-1), "value": np.float32(0.5)},
        18,
    ),
    "depth and space": (
        [
            make("Concat", ["x", "x", "x", "x"], ["a"], axis=1),
            make("DepthToSpace", ["a"], ["b"], blocksize=2, mode="CRD"),
            make("SpaceToDepth", ["b"], ["c"], blocksize=2),
            make("DepthToSpace", ["c"], ["v"], blocksize=2, mode="DCR"),
        ],
        {},
        18,
    ),
    "resized": (
        [
            make("Resize", ["x", "", "", "sizes"], ["a"], mode="linear", coordinate_transformation_mode="half_pixel"),
            make("Resize", ["a", "", "scales"], ["b"], mode="nearest", coordinate_transformation_mode="asymmetric",
                 nearest_mode="floor"),
            make("Resize", ["b", "", "", "more"], ["v"], mode="linear", coordinate_transformation_mode="align_corners"),
        ],
        {"sizes": ints(1, 3, 11, 13), "scales": np.array([1, 1, 2, 2], "float32"), "more": ints(1, 3, 9, 30)},
        18,
    ),
    "attention in one node": (
        [make("Attention", ["x", "x", "x"], ["v"], scale=0.7)],
        {},
        23,
    ),
    "swish": ([make("Swish", ["x"], ["v"])], {}, 24),
    "einsum": (
        [make("Reshape", ["x", "shape"], ["a"]), make("Einsum", ["a", "w"], ["v"], equation="bci,io->bco")],
        {"shape": ints(0, 3, -1), "w": floats(64, 5)},
        18,
    ),
    "softmax over several, older form": (
        [make("Reshape", ["x", "shape"], ["a"]), make("Softmax", ["a"], ["v"], axis=1)],
        {"shape": ints(0, 192, 1, 1)},
        11,
    ),
    "log softmax": ([make("LogSoftmax", ["x"], ["v"], axis=1)], {}, 18),
    "no change": (
        [
            make("Dropout", ["x"], ["a"]),
            make("Identity", ["a"], ["b"]),
            make("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
            make("CastLike", ["c", "x"], ["d"]),
            make("Expand", ["d", "shape"], ["e"]),
            make("Clip", ["e"], ["v"]),
        ],
        {"shape": ints(1, 3, 8, 8)},
        18,
    ),
}  # fmt: skip


def whole(path: Path, nodes: list[onnx.NodeProto], tensors: Tensors, opset: int) -> Path:
    """The chain from ``x`` to ``v``, then a flatten and a linear layer for as many features as there are."""
    probe = graph_file(path, nodes, tensors, opset=opset, outputs={"v": None})
    after, weights = head("v", onnxruntime_logits(probe, torch.rand(1, 3, 8, 8)).numel())
    return graph_file(path, [*nodes, *after], {**tensors, **weights}, opset=opset)


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_of_operators_gives_what_onnxruntime_gives(name: str, tmp_path: Path) -> None:
    nodes, tensors, opset = CHAINS[name]
    agrees(whole(tmp_path / "model.onnx", nodes, tensors, opset))


def test_every_operator_is_in_a_test() -> None:
    here = {node.op_type for nodes, _, _ in CHAINS.values() for node in nodes}
    elsewhere = {  # in the networks of torchvision and of Keras, and below
        "Relu", "Sigmoid", "Tanh", "HardSwish", "Gemm", "MatMul", "GlobalAveragePool", "ReduceMean", "Shape", "Size",
        "Transpose", "Squeeze", "Unsqueeze", "Sign",
    }  # fmt: skip
    assert OPERATORS.keys() - here == elsewhere


PATTERNS: dict[str, tuple[Callable[[], list[onnx.NodeProto]], Tensors, str]] = {
    "gelu": (
        lambda: [
            make("Div", ["a", "root"], ["d"]), make("Erf", ["d"], ["e"]), make("Add", ["e", "one"], ["f"]),
            make("Mul", ["a", "f"], ["g"]), make("Mul", ["g", "half"], ["v"]),
        ],
        {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)},
        "GELU",
    ),
    "gelu, halved first": (
        lambda: [
            make("Mul", ["a", "half"], ["h"]), make("Mul", ["a", "root"], ["d"]), make("Erf", ["d"], ["e"]),
            make("Add", ["one", "e"], ["f"]), make("Mul", ["h", "f"], ["v"]),
        ],
        {"root": np.float32(0.5**0.5), "one": np.float32(1), "half": np.float32(0.5)},
        "GELU",
    ),
    "gelu, tanh": (
        lambda: [
            make("Pow", ["a", "three"], ["p"]), make("Mul", ["p", "k"], ["q"]), make("Add", ["a", "q"], ["r"]),
            make("Mul", ["r", "s"], ["t"]), make("Tanh", ["t"], ["u"]), make("Add", ["u", "one"], ["w0"]),
            make("Mul", ["a", "w0"], ["z"]), make("Mul", ["z", "half"], ["v"]),
        ],
        {"three": np.float32(3), "k": np.float32(0.044715), "s": np.float32((2 / np.pi) ** 0.5), "one": np.float32(1),
         "half": np.float32(0.5)},
        "GELU",
    ),
    "silu": (lambda: [make("Sigmoid", ["a"], ["s"]), make("Mul", ["a", "s"], ["v"])], {}, "SiLU"),
    "hard swish": (
        lambda: [
            make("Add", ["a", "three"], ["b"]), make("Clip", ["b", "zero", "six"], ["c"]), make("Mul", ["a", "c"], ["d"]),
            make("Div", ["d", "six"], ["v"]),
        ],
        {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)},
        "Hardswish",
    ),
    "hard sigmoid": (
        lambda: [
            make("Add", ["a", "three"], ["b"]), make("Clip", ["b", "zero", "six"], ["c"]), make("Div", ["c", "six"], ["v"])
        ],
        {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)},
        "Hardsigmoid",
    ),
    "mish": (
        lambda: [make("Softplus", ["a"], ["s"]), make("Tanh", ["s"], ["t"]), make("Mul", ["a", "t"], ["v"])], {}, "Mish",
    ),
    "layer norm": (
        lambda: [
            make("ReduceMean", ["a"], ["m"], axes=[-1]), make("Sub", ["a", "m"], ["b"]), make("Pow", ["b", "two"], ["p"]),
            make("ReduceMean", ["p"], ["q"], axes=[-1]), make("Add", ["q", "eps"], ["r"]), make("Sqrt", ["r"], ["s"]),
            make("Div", ["b", "s"], ["n"]), make("Mul", ["n", "ln.weight"], ["o"]), make("Add", ["o", "ln.bias"], ["v"]),
        ],
        {"two": np.float32(2), "eps": np.float32(1e-5), "ln.weight": floats(8), "ln.bias": floats(8)},
        "LayerNorm",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
def test_nodes_that_make_one_layer_become_it(name: str, tmp_path: Path) -> None:
    """As older operator sets write it; whatever is left over of the nodes is gone."""
    nodes, tensors, layer = PATTERNS[name]
    first = [make("Sub", ["x", "middle"], ["a0"]), make("Mul", ["a0", "spread"], ["a"])]
    given = {**tensors, "middle": np.float32(0.4), "spread": np.float32(5)}
    converted = agrees(whole(tmp_path / "model.onnx", [*first, *nodes()], given, 17))
    names = [type(module).__name__ for _, module in network_of(converted).named_modules()]
    assert names.count(layer) == 1
    assert names.count("Arithmetic") == 2
    assert not {"Elementwise", "Reduce", "Tanh", "Sigmoid", "Softplus", "ReLU6"} & set(names)


@pytest.mark.parametrize("batch", [1, 4, "N"])
def test_shapes_written_for_a_batch_hold_for_any(batch: int | str, tmp_path: Path) -> None:
    """Tokens first, heads beside the images, a class token: where the images are follows from the order of the values."""
    n = 1 if batch == "N" else int(batch)
    wide = -1 if batch == "N" else n
    nodes = [
        make("Reshape", ["x", "tokens"], ["a"]),  # (n, 3, 64)
        make("Concat", ["class_token", "a"], ["b"], axis=1),  # (n, 4, 64)
        make("Transpose", ["b"], ["c"], perm=[1, 0, 2]),  # (4, n, 64)
        make("Reshape", ["c", "heads"], ["d"]),  # (4, 2 n, 32)
        make("Transpose", ["d"], ["e"], perm=[1, 0, 2]),  # (2 n, 4, 32)
        make("Transpose", ["e"], ["f"], perm=[0, 2, 1]),
        make("MatMul", ["e", "f"], ["g"]),
        make("Softmax", ["g"], ["h"], axis=-1),
        make("MatMul", ["h", "e"], ["i"]),  # (2 n, 4, 32)
        make("Transpose", ["i"], ["j"], perm=[1, 0, 2]),
        make("Reshape", ["j", "together"], ["k"]),  # (4, n, 64)
        make("Gather", ["k", "first"], ["l"], axis=0),  # (n, 64)
        make("Unsqueeze", ["l", "first_axis"], ["m"]),  # (1, n, 64)
        make("Squeeze", ["m", "first_axis"], ["o"]),
        make("Gemm", ["o", "fc.weight"], ["y"], transB=1),
    ]
    token = floats(1, 1, 64)
    tensors = {
        "tokens": ints(wide, 3, 64), "class_token": np.repeat(token, n, 0), "first": ints(0).reshape(()), "first_axis": ints(0),
        "heads": ints(4, wide * 2 if wide > 0 else -1, 32), "together": ints(4, wide, 64), "fc.weight": floats(10, 64),
    }  # fmt: skip
    if batch == "N":
        # onnxruntime runs it image by image, so the token of one image is enough there.
        tensors["class_token"] = token
    path = graph_file(tmp_path / "model.onnx", nodes, tensors, shape=(batch, 3, 8, 8))
    converted = convert(path, "model.onnx")
    one = graph_file(
        tmp_path / "one.onnx",
        nodes,
        {
            **tensors,
            "tokens": ints(1, 3, 64),
            "class_token": token,
            "heads": ints(4, 2, 32),
            "together": ints(4, 1, 64),
        },
    )
    agrees(one, converted)


def test_shapes_that_the_graph_works_out_are_folded(tmp_path: Path) -> None:
    """x.view(x.size(0), -1) as the older exporter writes it for a dynamic batch; sizes of maps as factors."""
    nodes = [
        make("Shape", ["x"], ["s"]), make("Gather", ["s", "zero"], ["n"], axis=0), make("Unsqueeze", ["n", "axis"], ["n1"]),
        make("Concat", ["n1", "rest"], ["t"], axis=0), make("Reshape", ["x", "t"], ["a"]),
        make("Size", ["x"], ["size"]), make("Cast", ["size"], ["f"], to=TensorProto.FLOAT),
        make("Cast", ["n"], ["nf"], to=TensorProto.FLOAT), make("Div", ["f", "nf"], ["each"]),
        make("Sign", ["a"], ["sign"]), make("Mul", ["sign", "a"], ["b"]), make("Div", ["b", "each"], ["c"]),
        make("Gemm", ["c", "fc.weight"], ["y"], transB=1),
    ]  # fmt: skip
    tensors = {"zero": ints(0).reshape(()), "axis": ints(0), "rest": ints(-1), "fc.weight": floats(10, 192)}
    converted = agrees(graph_file(tmp_path / "model.onnx", nodes, tensors, shape=("batch", 3, 8, 8)))
    assert converted.architecture.graph.steps[0].op == "flatten"
    numbers = [step.number for step in converted.architecture.graph.steps if isinstance(step, Arithmetic)]
    assert numbers == [None, 192.0]


def test_a_module_that_runs_twice_is_two_layers_with_the_same_weights(tmp_path: Path) -> None:
    nodes = [
        make("Conv", ["x", "conv.weight"], ["a"], pads=[1, 1, 1, 1]), make("Relu", ["a"], ["b"]),
        make("Conv", ["b", "conv.weight"], ["c"], pads=[1, 1, 1, 1]),
    ]  # fmt: skip
    after, weights = head("c", 192)
    path = graph_file(tmp_path / "m.onnx", [*nodes, *after], {"conv.weight": floats(3, 3, 3, 3), **weights})
    converted = agrees(path)
    convs = [step.name for step in converted.architecture.graph.steps if step.op == "conv"]
    assert convs[0] == "conv"
    assert len(set(convs)) == 2
    torch.testing.assert_close(*(converted.tensors[f"{name}.weight"] for name in convs), rtol=0, atol=0)


def test_steps_are_named_for_what_they_do_where_the_file_names_nothing(tmp_path: Path) -> None:
    nodes = [
        make("Conv", ["x", "w"], ["a"]), make("Relu", ["a"], ["b"]), make("Conv", ["b", "v"], ["c"]),
        make("Add", ["b", "one"], ["unused"]),
    ]  # fmt: skip
    after, weights = head("c", 2 * 4 * 4)
    path = graph_file(
        tmp_path / "m.onnx",
        [*nodes, *after],
        {"w": floats(4, 3, 3, 3), "v": floats(2, 4, 3, 3), "one": np.float32(1), **weights},
    )
    steps: tuple[Step, ...] = agrees(path).architecture.graph.steps
    assert [step.name for step in steps] == ["conv_1", "relu_1", "conv_2", "flatten_1", "fc"]
