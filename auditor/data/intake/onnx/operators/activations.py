"""Activations, clips and softmax."""

from __future__ import annotations

from auditor.data.intake.onnx import patterns
from auditor.data.intake.onnx.builder import Builder, Live, Refusal
from auditor.data.intake.onnx.document import Node
from auditor.data.intake.onnx.operators.given import (
    Inputs,
    attribute,
    axis_in,
    layer_of,
    live_of,
    needed,
    number,
    operator,
)
from auditor.models.graph import steps

_FUNCTIONS = {
    "HardSwish": "hardswish",
    "Mish": "mish",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
}


@operator(*_FUNCTIONS)
def _activation(builder: Builder, node: Node, inputs: Inputs) -> Live:
    return builder.emit(node, steps.Activation, [live_of(inputs[0])], function=_FUNCTIONS[node.op])


@operator("Gelu")
def _gelu(builder: Builder, node: Node, inputs: Inputs) -> Live:
    return builder.emit(node, steps.GELU, [live_of(inputs[0])], approximate=attribute(node, "approximate", "none"))


@operator("Swish")
def _swish(builder: Builder, node: Node, inputs: Inputs) -> Live:
    if attribute(node, "alpha", 1.0) != 1.0:
        raise Refusal(f"has alpha {attribute(node, 'alpha', 1.0):g}; expected 1")
    return builder.emit(node, steps.Activation, [live_of(inputs[0])], function="silu")


@operator("LeakyRelu")
def _leaky_relu(builder: Builder, node: Node, inputs: Inputs) -> Live:
    return builder.emit(node, steps.LeakyReLU, [live_of(inputs[0])], negative_slope=attribute(node, "alpha", 0.01))


@operator("Elu")
def _elu(builder: Builder, node: Node, inputs: Inputs) -> Live:
    return builder.emit(node, steps.ELU, [live_of(inputs[0])], alpha=attribute(node, "alpha", 1.0))


@operator("Celu")
def _celu(builder: Builder, node: Node, inputs: Inputs) -> Live:
    return builder.emit(node, steps.CELU, [live_of(inputs[0])], alpha=attribute(node, "alpha", 1.0))


@operator("Selu")
def _selu(builder: Builder, node: Node, inputs: Inputs) -> Live:
    if not patterns.near(attribute(node, "alpha", 1.67326), 1.67326) or not patterns.near(
        attribute(node, "gamma", 1.0507), 1.0507
    ):
        raise Refusal("has other constants than those of the paper of SELU")
    return builder.emit(node, steps.Activation, [live_of(inputs[0])], function="selu")


@operator("PRelu")
def _prelu(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x, slope = live_of(inputs[0]), needed(inputs, 1, "slopes")
    count = slope.tensor.numel()
    channels = (x.shape[1], *[1] * (len(x.shape) - 2))
    if count != 1 and tuple(slope.tensor.shape)[-len(channels) :] != channels:
        raise Refusal("has slopes that are not one for each channel")
    return builder.emit(
        node, steps.PReLU, [x], {"weight": slope.tensor.flatten()}, layer_of(slope.name), num_parameters=count
    )


@operator("HardSigmoid")
def _hard_sigmoid(builder: Builder, node: Node, inputs: Inputs) -> Live:
    alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    if patterns.near(alpha, 1 / 6) and patterns.near(beta, 0.5):
        return builder.emit(node, steps.Activation, [live_of(inputs[0])], function="hardsigmoid")
    return builder.emit(node, steps.Hardsigmoid, [live_of(inputs[0])], alpha=alpha, beta=beta)


@operator("Clip")
def _clip(builder: Builder, node: Node, inputs: Inputs) -> Live:
    return clamp(builder, node, live_of(inputs[0]), number(inputs, 1), number(inputs, 2))


def clamp(builder: Builder, node: Node, x: Live, low: float | None, high: float | None) -> Live:
    low = None if low is None or low < -3e38 else low
    high = None if high is None or high > 3e38 else high
    if (low, high) == (0, None):
        return builder.emit(node, steps.Activation, [x], function="relu")
    if (low, high) == (0, 6):
        return builder.emit(node, steps.Activation, [x], function="relu6")
    if low is not None and high is not None and low < high:
        return builder.emit(node, steps.Hardtanh, [x], min_val=low, max_val=high)
    return x if low is None and high is None else builder.emit(node, steps.Clamp, [x], low=low, high=high)


@operator("Softmax", "LogSoftmax")
def _softmax(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x = live_of(inputs[0])
    axis = axis_in(attribute(node, "axis", -1 if builder.opset >= 13 else 1), x)
    if builder.opset < 13:
        # Older operator sets take all dimensions from the axis on as one; so PyTorch's form needs the last one alone.
        wide = [place for place in range(axis, len(x.shape)) if x.shape[place] > 1]
        if len(wide) > 1:
            raise Refusal(
                f"is over {len(wide)} dimensions at once (operator set {builder.opset})",
                "Export it with opset_version=18.",
            )
        axis = wide[0] if wide else axis
    if axis == x.axis:
        raise Refusal("is over the images of a batch")
    return builder.emit(node, steps.Softmax, [x], dim=axis, log=node.op == "LogSoftmax")
