"""Arithmetic, reductions and products of matrices."""

from __future__ import annotations

import math

from auditor.data.intake.onnx import constants, patterns
from auditor.data.intake.onnx.builder import Builder, Const, Live, Refusal, Value
from auditor.data.intake.onnx.document import Node
from auditor.data.intake.onnx.operators.activations import clamp
from auditor.data.intake.onnx.operators.given import Inputs, attribute, axis_in, both, live_of, operator, tensors
from auditor.models.graph import steps

_ARITHMETIC = {"Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide", "Pow": "power"}


@operator(*_ARITHMETIC)
def _arithmetic(builder: Builder, node: Node, inputs: Inputs) -> Live:
    a, b = both(inputs[0], inputs[1])
    function = _ARITHMETIC[node.op]
    if isinstance(a, Const) and function in ("add", "multiply"):
        a, b = b, a
    if function in ("multiply", "divide") and (found := patterns.activation(builder, node, a, b, function == "divide")):
        return found
    if function == "divide" and (found := patterns.normalized(builder, node, a, b)):
        return found
    if isinstance(a, Live) and isinstance(b, Const):
        if function == "add" and (found := patterns.with_bias(builder, node, a, b)):
            return found
        if function == "multiply" and (found := patterns.with_scale(builder, a, b)):
            return found
    return _combined(builder, node, function, a, b)


def _combined(builder: Builder, node: Node, function: str, a: Value, b: Value) -> Live:
    for number, x, first in ((b, a, False), (a, b, True)):
        if not isinstance(number, Const) or not isinstance(x, Live):
            continue
        if number.tensor.numel() == 1 and number.tensor.dim() <= len(x.shape):
            value = float(number.tensor)
            if not math.isfinite(value):
                raise Refusal("has a constant that is infinite or NaN")
            return builder.emit(node, steps.Arithmetic, [x], function=function, number=value, number_first=first)
    return builder.emit(node, steps.Arithmetic, [a, b], function=function)


@operator("Sum")
def _sum(builder: Builder, node: Node, inputs: Inputs) -> Value:
    return _chained(builder, node, "add", inputs)


@operator("Max", "Min")
def _extreme(builder: Builder, node: Node, inputs: Inputs) -> Value:
    if len(inputs) == 2:
        for x, bound in ((inputs[0], inputs[1]), (inputs[1], inputs[0])):
            if isinstance(x, Live) and isinstance(bound, Const) and bound.tensor.numel() == 1:
                value = float(bound.tensor)
                return clamp(builder, node, x, value if node.op == "Max" else None, value if node.op == "Min" else None)
    return _chained(builder, node, "maximum" if node.op == "Max" else "minimum", inputs)


def _chained(builder: Builder, node: Node, function: str, inputs: Inputs) -> Value:
    first, *rest = (value for value in inputs if value is not None)
    for value in rest:
        first = builder.emit(node, steps.Arithmetic, [first, value], function=function)
    return first


_ELEMENTWISE = {
    "Abs": "abs",
    "Erf": "erf",
    "Exp": "exp",
    "Log": "log",
    "Neg": "negative",
    "Reciprocal": "reciprocal",
    "Sign": "sign",
    "Sqrt": "sqrt",
}


@operator(*_ELEMENTWISE)
def _elementwise(builder: Builder, node: Node, inputs: Inputs) -> Live:
    return builder.emit(node, steps.Elementwise, [live_of(inputs[0])], function=_ELEMENTWISE[node.op])


_REDUCTIONS = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min"}


@operator(*_REDUCTIONS)
def _reduce(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x = live_of(inputs[0])
    axes = constants.axes_of(tensors(inputs), node.attributes)
    if not axes and attribute(node, "noop_with_empty_axes", 0):
        return x
    dims = tuple(sorted(axis_in(axis, x) for axis in axes or range(len(x.shape))))
    keep = bool(attribute(node, "keepdims", 1))
    if x.axis in dims:
        raise Refusal("is over the images of a batch")
    if dims == (2, 3) and len(x.shape) == 4 and keep and node.op == "ReduceMean":
        return builder.emit(node, steps.GlobalPool, [x], function="mean")
    return builder.emit(node, steps.Reduce, [x], function=_REDUCTIONS[node.op], dims=dims, keepdim=keep)


@operator("Einsum")
def _einsum(builder: Builder, node: Node, inputs: Inputs) -> Live:
    parts = [value for value in inputs if value is not None]
    return builder.emit(node, steps.Einsum, parts, equation=str(attribute(node, "equation", "")).replace(" ", ""))


@operator("Attention")
def _attention(builder: Builder, node: Node, inputs: Inputs) -> Live:
    query, key, value = (live_of(item) for item in inputs[:3])
    if any(item is not None for item in inputs[3:]) or set(node.attributes) - {"scale"} or len(query.shape) != 4:
        raise Refusal(
            "is attention with a mask, a cache or heads that are not apart; expected images x heads x tokens x width and a scale"
        )
    return builder.emit(
        node, steps.Attention, [query, key, value], scale=attribute(node, "scale", query.shape[-1] ** -0.5)
    )
