"""An ONNX file as plain data: nodes, tensors, inputs and outputs; everything else is refused before it is looked at.

Nothing of the file runs. The onnx package parses the protocol buffer and checks it; what is kept are names, numbers and tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from auditor.kit.errors import IntakeError, ServiceError
from auditor.kit.limits import Limits
from auditor.kit.wording import listed, shown, size_text

OLDEST = 11
MOST_NODES = 50_000
"""Nodes of a graph; exported without optimization, the largest classifiers of torchvision have 4,000."""

MOST_NUMBERS = 100_000
"""Numbers in one attribute; those of kernels and shapes have eight."""

LARGEST_FILE = (1 << 31) - 1
"""Bytes that one protocol buffer may have: the format's own limit."""

EXPORT = "Export the network alone, to one file: torch.onnx.export(model.eval(), (example,), 'model.onnx', external_data=False)."

Attribute = int | float | str | list[int] | list[float] | list[str] | Tensor


class Node(NamedTuple):
    """One operation. ``inputs`` has an empty name where an optional input is left out. ``scope``: the module that it comes
    from, as the exporter wrote it, empty where it did not. ``fused``: an optimizer put a batch normalization into it."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute]
    scope: str
    fused: bool


class DeclaredTensor(NamedTuple):
    """An input or output: its name, its sizes (a name or None where the file leaves one open), the type of its values."""

    name: str
    shape: tuple[int | str | None, ...] | None
    kind: str


class OnnxFile(NamedTuple):
    """What an ONNX file says."""

    opset: int
    producer: str
    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    inputs: tuple[DeclaredTensor, ...]
    outputs: tuple[DeclaredTensor, ...]


def read_document(source: Path, name: str, limits: Limits) -> OnnxFile:
    """Parse and check a file. Raises IntakeError; ServiceError where the onnx package is missing."""
    onnx = library()
    size = source.stat().st_size
    if size > LARGEST_FILE:
        raise IntakeError(f"{shown(name)} has {size_text(size)}; one ONNX file holds at most 2 GiB.", EXPORT)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(source.read_bytes())
    except Exception:  # never its text: it may hold what the uploader wrote
        raise IntakeError(f"{shown(name)} cannot be read as ONNX: it is damaged, or something else.", EXPORT) from None
    if not model.HasField("graph") or not model.graph.node:
        raise IntakeError(f"{shown(name)} holds no ONNX graph.", EXPORT)
    _refuse_what_is_elsewhere(model, name, limits)
    opset = _opset(model, name, onnx.defs.onnx_opset_version())
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise IntakeError(f"{shown(name)} is not valid ONNX: {shown(reason[:300])}.", EXPORT) from None
    if model.functions:
        model = _inlined(onnx, model, name)
    graph = model.graph
    tensors = {item.name: _tensor(onnx, item, name) for item in graph.initializer}
    return OnnxFile(
        opset,
        f"{model.producer_name} {model.producer_version}".strip(),
        tuple(_node(onnx, node, name) for node in graph.node),
        tensors,
        tuple(_declared(onnx, item) for item in graph.input if item.name not in tensors),
        tuple(_declared(onnx, item) for item in graph.output),
    )


def library() -> Any:
    """The onnx package. Raises ServiceError where it is not installed."""
    try:
        import onnx
        import onnx.checker
        import onnx.inliner
        import onnx.numpy_helper
    except ImportError:
        raise ServiceError(
            "Reading ONNX files needs the onnx package.", "Install it: pip install 'neuron-auditor[onnx]'."
        ) from None
    return onnx


def _refuse_what_is_elsewhere(model: Any, name: str, limits: Limits) -> None:
    """Before the checker, which would look for side files: only plain nodes and tensors that lie in the file."""
    graph = model.graph
    if model.training_info:
        raise IntakeError(f"{shown(name)} holds a training graph; expected a network alone.", EXPORT)
    if graph.sparse_initializer:
        raise IntakeError(f"{shown(name)} holds sparse tensors; expected dense ones.", EXPORT)
    if len(graph.initializer) > limits.tensors:
        raise IntakeError(f"{shown(name)} has {len(graph.initializer):,} tensors, the limit is {limits.tensors:,}.")
    functions = {(item.domain, item.name) for item in model.functions}
    nodes = [*graph.node, *(node for item in model.functions for node in item.node)]
    if len(nodes) > MOST_NODES:
        raise IntakeError(f"{shown(name)} has {len(nodes):,} nodes, the limit is {MOST_NODES:,}.", EXPORT)
    outside = [item for item in _tensors(graph.initializer, nodes) if item.data_location == 1 or item.external_data]
    if outside:
        raise IntakeError(
            f"{shown(name)} keeps {len(outside):,} of its tensors in another file ({shown(outside[0].name)}); an upload is one "
            "file.",
            "Export it with the weights inside: torch.onnx.export(..., external_data=False), or load it with onnx.load and "
            "write it with onnx.save.",
        )
    for node in nodes:
        if node.op_type in ("If", "Loop", "Scan") or any(_graphs(item) for item in node.attribute):
            raise IntakeError(
                f"The node {shown(node.name or node.op_type)} of {shown(name)} is {shown(node.op_type)}, which runs another "
                "graph inside; expected a graph without branches and loops.",
                "Export the network in evaluation mode, without control flow that depends on the image.",
            )
        if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in functions:
            raise IntakeError(
                f"The node {shown(node.name or node.op_type)} of {shown(name)} is {shown(node.op_type)} of the domain "
                f"{shown(node.domain)}; expected the operators of ONNX itself.",
                "Export it without custom, runtime-specific or machine-learning (ai.onnx.ml) operators, before any optimizer of "
                "a runtime has rewritten it.",
            )
        for item in node.attribute:
            if max(len(item.ints), len(item.floats), len(item.strings)) > MOST_NUMBERS or len(item.s) > MOST_NUMBERS:
                raise IntakeError(
                    f"The attribute {shown(item.name)} of the node {shown(node.name or node.op_type)} of {shown(name)} has "
                    f"more than {MOST_NUMBERS:,} values.",
                    EXPORT,
                )


def _tensors(initializers: Any, nodes: list[Any]) -> Iterator[Any]:
    yield from initializers
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _graphs(attribute: Any) -> bool:
    return attribute.HasField("g") or len(attribute.graphs) > 0


def _opset(model: Any, name: str, newest: int) -> int:
    versions = [item.version for item in model.opset_import if item.domain in ("", "ai.onnx")]
    if len(versions) != 1 or not OLDEST <= versions[0] <= newest:
        came = listed([str(version) for version in versions]) or "none"
        raise IntakeError(
            f"{shown(name)} is of the operator set {came}; expected one from {OLDEST} to {newest}.",
            "Export it with opset_version=18, or convert it with onnx.version_converter.",
        )
    return int(versions[0])


def _inlined(onnx: Any, model: Any, name: str) -> Any:
    try:
        inlined = onnx.inliner.inline_local_functions(model)
    except Exception:
        raise IntakeError(f"The functions inside {shown(name)} cannot be written out.", EXPORT) from None
    if len(inlined.graph.node) > MOST_NODES:
        raise IntakeError(
            f"{shown(name)} has {len(inlined.graph.node):,} nodes once its functions are written out, the limit is "
            f"{MOST_NODES:,}.",
            EXPORT,
        )
    if left := [node for node in inlined.graph.node if node.domain not in ("", "ai.onnx")]:
        raise IntakeError(f"The function {shown(left[0].op_type)} of {shown(name)} cannot be written out.", EXPORT)
    return inlined


_FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
_OTHERS = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool"}
KINDS = _FLOATS | _OTHERS
"""The types of values, by their numbers in the format."""


def _tensor(onnx: Any, item: Any, name: str) -> Tensor:
    """A tensor of the file, float32, int64 or bool."""
    if item.data_type not in KINDS:
        raise IntakeError(
            f"The tensor {shown(item.name)} of {shown(name)} has a type that a classifier in PyTorch has not (quantized, complex "
            "or text).",
            "Export it in float32, before quantization.",
        )
    try:
        array = onnx.numpy_helper.to_array(item)
        if item.data_type in _FLOATS:
            return torch.from_numpy(array.astype("float32"))
        return torch.from_numpy(array.astype("bool" if item.data_type == 9 else "int64"))
    except Exception:
        raise IntakeError(f"The tensor {shown(item.name)} of {shown(name)} is damaged.", EXPORT) from None


def _node(onnx: Any, node: Any, name: str) -> Node:
    extra = {item.key: item.value for item in node.metadata_props}
    return Node(
        node.op_type,
        node.name,
        tuple(node.input),
        tuple(node.output),
        {item.name: _attribute(onnx, item, name) for item in node.attribute},
        _scope(node.name, extra.get("pkg.torch.onnx.name_scopes", "")),
        "FuseBatchNormIntoConv" in extra.get("pkg.onnxscript.rewriter.rule_name", ""),
    )


def _attribute(onnx: Any, item: Any, name: str) -> Attribute:
    kinds = onnx.AttributeProto
    values: dict[int, Any] = {
        kinds.INT: lambda: int(item.i),
        kinds.FLOAT: lambda: float(item.f),
        kinds.STRING: lambda: item.s.decode("utf-8", "replace"),
        kinds.INTS: lambda: [int(value) for value in item.ints],
        kinds.FLOATS: lambda: [float(value) for value in item.floats],
        kinds.STRINGS: lambda: [value.decode("utf-8", "replace") for value in item.strings],
        kinds.TENSOR: lambda: _tensor(onnx, item.t, name),
    }
    if item.type not in values:
        raise IntakeError(f"The attribute {shown(item.name)} of {shown(name)} is of a kind that no layer has.", EXPORT)
    value: Attribute = values[item.type]()
    return value


def _declared(onnx: Any, item: Any) -> DeclaredTensor:
    kind = item.type.tensor_type
    shape = (
        tuple(
            int(dim.dim_value) if dim.HasField("dim_value") else (dim.dim_param if dim.HasField("dim_param") else None)
            for dim in kind.shape.dim
        )
        if kind.HasField("shape")
        else None
    )
    return DeclaredTensor(item.name, shape, KINDS.get(kind.elem_type, "another type"))


_MOST_TEXT = 4000
_QUOTED = re.compile(r"'([^']*)'")
_PART = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def _scope(name: str, written: str) -> str:
    """The module of a node: from the list of scopes that torch's exporter writes (the last is the operation), or from a name
    like ``/layer1/layer1.0/conv1/Conv`` of the older one, or ``model/conv2d/Conv2D`` of tf2onnx."""
    scopes = _QUOTED.findall(written[:_MOST_TEXT])
    if len(scopes) > 1:
        return scopes[-2] if _PART.fullmatch(scopes[-2]) else ""
    path: list[str] = []
    for part in name[:_MOST_TEXT].strip("/").split("/")[:-1]:
        if not _PART.fullmatch(part):
            return ""
        if path and part.startswith(f"{path[-1]}."):  # an item of a Sequential repeats its name
            path.pop()
        path.append(part)
    return ".".join(path)
