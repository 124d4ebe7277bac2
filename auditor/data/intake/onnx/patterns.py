"""Layers that older operator sets write as several nodes: GELU, SiLU, hard swish, layer normalization, a bias added later."""

from __future__ import annotations

import math
from typing import NamedTuple

from auditor.data.intake.onnx.builder import Builder, Const, Draft, Live, Value
from auditor.data.intake.onnx.document import Node
from auditor.models.graph import steps

_CLOSE = 1e-3


class Scaled(NamedTuple):
    """A product: a number times values."""

    number: float
    factors: tuple[Live, ...]


def near(a: float | None, b: float) -> bool:
    """Whether a number in a file is this one, to the digits that exporters write."""
    return a is not None and abs(a - b) <= _CLOSE * max(abs(b), 1e-9)


def activation(builder: Builder, node: Node, a: Value, b: Value, divide: bool) -> Live | None:
    """The activation that a product or quotient completes, if it is one: its step is added and returned."""
    if divide:
        if not isinstance(b, Const) or b.tensor.numel() != 1 or not float(b.tensor):
            return None
        right = [Scaled(1 / float(b.tensor), ())]
    else:
        right = _forms(builder, b)
    for first in _forms(builder, a):
        for second in right:
            whole = Scaled(first.number * second.number, (*first.factors, *second.factors))
            if found := _activation(builder, node, whole):
                return found
    return None


def _activation(builder: Builder, node: Node, whole: Scaled) -> Live | None:
    if len(whole.factors) == 1 and near(whole.number, 1 / 6) and _relu6_of(builder, whole.factors[0]) is not None:
        x = _relu6_of(builder, whole.factors[0])
        assert x is not None
        return builder.emit(node, steps.Activation, [x], function="hardsigmoid")
    if len(whole.factors) != 2:
        return None
    for x, gate in (whole.factors, whole.factors[::-1]):
        draft = builder.of(gate)
        if draft is None:
            continue
        if near(whole.number, 1) and draft.step is steps.Activation and draft.inputs[0] == x:
            function = {"sigmoid": "silu", "hardsigmoid": "hardswish"}.get(draft.values["function"])
            if function is not None:
                return builder.emit(node, steps.Activation, [x], function=function)
        if near(whole.number, 1) and _is(draft, "tanh") and _is_softplus(builder.of(draft.inputs[0]), x):
            return builder.emit(node, steps.Activation, [x], function="mish")
        if near(whole.number, 1 / 6) and _relu6_of(builder, gate) == x:
            return builder.emit(node, steps.Activation, [x], function="hardswish")
        if near(whole.number, 0.5) and (inner := _plus(builder, gate, 1)) is not None:
            if _is_erf(builder, inner, x):
                return builder.emit(node, steps.GELU, [x], approximate="none")
            if _is_cubic_tanh(builder, inner, x):
                return builder.emit(node, steps.GELU, [x], approximate="tanh")
    return None


def _forms(builder: Builder, value: Value, deep: int = 3) -> list[Scaled]:
    """The ways to write a value as a product, the plainest first; none for tensors of constants."""
    if isinstance(value, Const):
        return [Scaled(float(value.tensor), ())] if value.tensor.numel() == 1 else []
    forms = [Scaled(1.0, (value,))]
    draft = builder.of(value)
    if draft is None or draft.step is not steps.Arithmetic or not deep:
        return forms
    function, number = draft.values["function"], draft.values.get("number")
    live = tuple(item for item in draft.inputs if isinstance(item, Live))
    if function == "multiply" and len(live) == 2:
        forms.append(Scaled(1.0, live))
    elif number and (function == "multiply" or (function == "divide" and not draft.values["number_first"])):
        factor = number if function == "multiply" else 1 / number
        forms += [Scaled(form.number * factor, form.factors) for form in _forms(builder, live[0], deep - 1)]
    return forms


def _plus(builder: Builder, value: Value, number: float) -> Live | None:
    """x where the value is x + number."""
    draft = builder.of(value)
    if draft is None or draft.step is not steps.Arithmetic or draft.values["function"] != "add":
        return None
    x = draft.inputs[0]
    return x if isinstance(x, Live) and near(draft.values.get("number"), number) else None


def _relu6_of(builder: Builder, value: Live) -> Live | None:
    """x where the value is relu6(x + 3)."""
    draft = builder.of(value)
    return _plus(builder, draft.inputs[0], 3) if draft is not None and _is(draft, "relu6") else None


def _is(draft: Draft | None, function: str) -> bool:
    return (
        draft is not None
        and draft.step in (steps.Activation, steps.Elementwise)
        and draft.values["function"] == function
    )


def _is_softplus(draft: Draft | None, x: Live) -> bool:
    return draft is not None and _is(draft, "softplus") and draft.inputs[0] == x


def _is_erf(builder: Builder, value: Live, x: Live) -> bool:
    """Whether the value is erf(x / sqrt 2)."""
    draft = builder.of(value)
    if draft is None or not _is(draft, "erf"):
        return False
    return any(form.factors == (x,) and near(form.number, math.sqrt(0.5)) for form in _forms(builder, draft.inputs[0]))


def _is_cubic_tanh(builder: Builder, value: Live, x: Live) -> bool:
    """Whether the value is tanh(sqrt(2 / pi) (x + 0.044715 x^3))."""
    draft = builder.of(value)
    if draft is None or not _is(draft, "tanh"):
        return False
    return any(
        len(form.factors) == 1 and near(form.number, math.sqrt(2 / math.pi)) and _is_cubic(builder, form.factors[0], x)
        for form in _forms(builder, draft.inputs[0])
    )


def _is_cubic(builder: Builder, value: Live, x: Live) -> bool:
    """Whether the value is x + 0.044715 x^3."""
    total = builder.of(value)
    if (
        total is None
        or total.step is not steps.Arithmetic
        or total.values["function"] != "add"
        or x not in total.inputs
    ):
        return False
    return any(
        len(form.factors) == 1 and near(form.number, 0.044715) and _is_power(builder.of(form.factors[0]), x, 3)
        for item in total.inputs
        if item != x
        for form in _forms(builder, item)
    )


def _is_power(draft: Draft | None, x: Value, exponent: float) -> bool:
    return (
        draft is not None
        and draft.step is steps.Arithmetic
        and draft.values["function"] == "power"
        and draft.values.get("number") == exponent
        and draft.inputs == (x,)
    )


def with_bias(builder: Builder, node: Node, value: Live, added: Const) -> Live | None:
    """A layer without a bias and what is added to its output, as one layer."""
    draft = builder.of(value)
    if draft is None or draft.values.get("bias") is not False:
        return None
    count = next(iter(draft.weights.values())).shape[0]
    wanted = (1,) * 2 if draft.step is steps.Conv else ()
    bias = added.tensor
    while bias.dim() > 1 + len(wanted) and bias.shape[0] == 1:
        bias = bias[0]
    if tuple(bias.shape) != (count, *wanted) or draft.step not in (steps.Conv, steps.Linear, steps.LayerNorm):
        return None
    return builder.emit(
        draft.node, draft.step, draft.inputs, {**draft.weights, "bias": bias.flatten()}, draft.base or _base(added.name),
        **{**draft.values, "bias": True},
    )  # fmt: skip


def with_scale(builder: Builder, value: Live, factor: Const) -> Live | None:
    """A layer normalization without weights and what its output is multiplied by, as one layer."""
    draft = builder.of(value)
    if draft is None or draft.step is not steps.LayerNorm or draft.values["elementwise_affine"]:
        return None
    if tuple(factor.tensor.shape) != tuple(draft.values["normalized_shape"]):
        return None
    values = {**draft.values, "elementwise_affine": True, "bias": False}
    return builder.emit(draft.node, draft.step, draft.inputs, {"weight": factor.tensor}, _base(factor.name), **values)


def normalized(builder: Builder, node: Node, a: Value, b: Value) -> Live | None:
    """The layer normalization that a quotient completes: (x - mean) / sqrt(mean((x - mean)^2) + eps) over the last dimension."""
    root = builder.of(b)
    if not isinstance(a, Live) or not _is(root, "sqrt"):
        return None
    assert root is not None
    total = builder.of(root.inputs[0])
    if total is None or total.step is not steps.Arithmetic or total.values["function"] != "add":
        return None
    variance, eps = builder.of(total.inputs[0]), total.values.get("number")
    last = len(a.shape) - 1
    if eps is None or not _is_mean(variance, last):
        return None
    assert variance is not None
    square = builder.of(variance.inputs[0])
    if not _is_power(square, a, 2) and (a, a) not in [form.factors for form in _forms(builder, variance.inputs[0])]:
        return None
    centred = builder.of(a)
    if centred is None or centred.step is not steps.Arithmetic or centred.values["function"] != "subtract":
        return None
    x, mean = centred.inputs[0], builder.of(centred.inputs[-1])
    if not isinstance(x, Live) or not _is_mean(mean, last) or mean is None or mean.inputs[0] != x:
        return None
    return builder.emit(
        node, steps.LayerNorm, [x], normalized_shape=(x.shape[-1],), eps=eps, elementwise_affine=False, bias=False
    )


def _is_mean(draft: Draft | None, dim: int) -> bool:
    return (
        draft is not None
        and draft.step is steps.Reduce
        and draft.values["function"] == "mean"
        and tuple(draft.values["dims"]) == (dim,)
        and bool(draft.values["keepdim"])
    )


def _base(name: str) -> str:
    return name.rpartition(".")[0]
