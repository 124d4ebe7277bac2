"""Layers with weights, and the normalizations."""

from __future__ import annotations

import torch

from auditor.data.intake.onnx.builder import Builder, Const, Live, Refusal
from auditor.data.intake.onnx.document import Node
from auditor.data.intake.onnx.operators.given import (
    Inputs,
    attribute,
    axis_in,
    both,
    const,
    image,
    layer_of,
    live_of,
    needed,
    operator,
    padding_of,
    pair,
    weights_of,
)
from auditor.models.graph import steps


@operator("Conv")
def _conv(builder: Builder, node: Node, inputs: Inputs) -> Live:
    weight, bias = needed(inputs, 1, "weights"), const(inputs, 2, "biases")
    if weight.tensor.dim() != 4:
        raise Refusal(f"is a convolution over {weight.tensor.dim() - 2} dimensions; expected two, height and width")
    if bias is not None and not bias.tensor.any() and bias.name.rpartition(".")[2] != "bias":
        bias = None  # torch's exporter writes zeros for a convolution without a bias
    x = image(inputs[0])
    out, per_group, *kernel = weight.tensor.shape
    stride, dilation = pair(node, "strides"), pair(node, "dilations")
    before, after = padding_of(node, x, (kernel[0], kernel[1]), stride, dilation)
    padding = before
    if before != after:
        padding = (0, 0)
        x = builder.emit(node, steps.Pad, [x], pad=(before[1], after[1], before[0], after[0]))
    return builder.emit(
        node, steps.Conv, [x], weights_of(weight=weight, bias=bias), layer_of(weight.name),
        in_channels=per_group * int(attribute(node, "group", 1)), out_channels=out, kernel_size=tuple(kernel), stride=stride,
        padding=padding, dilation=dilation, groups=attribute(node, "group", 1), bias=bias is not None,
    )  # fmt: skip


@operator("BatchNormalization")
def _batch_norm(builder: Builder, node: Node, inputs: Inputs) -> Live:
    if attribute(node, "training_mode", 0):
        raise Refusal("is in training mode", "Export the network in evaluation mode: model.eval().")
    x = live_of(inputs[0])
    scale, shift, mean, var = (needed(inputs, place, "statistics") for place in range(1, 5))
    weights = weights_of(weight=scale, bias=shift, running_mean=mean, running_var=var)
    weights["num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    return builder.emit(
        node, steps.BatchNorm, [x], weights, layer_of(scale.name), rank=len(x.shape), num_features=scale.tensor.numel(),
        eps=attribute(node, "epsilon", 1e-5),
    )  # fmt: skip


@operator("InstanceNormalization")
def _instance_norm(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x, scale, shift = live_of(inputs[0]), needed(inputs, 1, "weights"), needed(inputs, 2, "biases")
    return builder.emit(
        node, steps.InstanceNorm, [x], weights_of(weight=scale, bias=shift), layer_of(scale.name), rank=len(x.shape),
        num_features=scale.tensor.numel(), eps=attribute(node, "epsilon", 1e-5),
    )  # fmt: skip


@operator("GroupNormalization")
def _group_norm(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x, scale, shift = live_of(inputs[0]), needed(inputs, 1, "weights"), needed(inputs, 2, "biases")
    groups, channels = attribute(node, "num_groups", 1), x.shape[1]
    weights = weights_of(weight=scale, bias=shift)
    if builder.opset < 21:
        weights = {name: tensor.repeat_interleave(channels // groups) for name, tensor in weights.items()}
    return builder.emit(
        node, steps.GroupNorm, [x], weights, layer_of(scale.name), num_groups=groups, num_channels=channels,
        eps=attribute(node, "epsilon", 1e-5),
    )  # fmt: skip


@operator("LayerNormalization")
def _layer_norm(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x, scale, shift = live_of(inputs[0]), needed(inputs, 1, "weights"), const(inputs, 2, "biases")
    shape = x.shape[axis_in(attribute(node, "axis", -1), x) :]
    weights = {name: tensor.expand(shape).clone() for name, tensor in weights_of(weight=scale, bias=shift).items()}
    return builder.emit(
        node, steps.LayerNorm, [x], weights, layer_of(scale.name), normalized_shape=shape, eps=attribute(node, "epsilon", 1e-5),
        elementwise_affine=True, bias=shift is not None,
    )  # fmt: skip


@operator("RMSNormalization")
def _rms_norm(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x, scale = live_of(inputs[0]), needed(inputs, 1, "weights")
    shape = x.shape[axis_in(attribute(node, "axis", -1), x) :]
    weights = {"weight": scale.tensor.expand(shape).clone()}
    eps = attribute(node, "epsilon", 1e-5)
    return builder.emit(node, steps.RMSNorm, [x], weights, layer_of(scale.name), normalized_shape=shape, eps=eps)


@operator("LRN")
def _local_response_norm(builder: Builder, node: Node, inputs: Inputs) -> Live:
    return builder.emit(
        node, steps.LocalResponseNorm, [image(inputs[0])], size=attribute(node, "size", 1), alpha=attribute(node, "alpha", 1e-4),
        beta=attribute(node, "beta", 0.75), k=attribute(node, "bias", 1.0),
    )  # fmt: skip


@operator("Gemm")
def _gemm(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x, weight, bias = live_of(inputs[0]), needed(inputs, 1, "weights"), const(inputs, 2, "biases")
    if attribute(node, "transA", 0):
        raise Refusal("multiplies by the transposed images (transA)")
    matrix = (weight.tensor if attribute(node, "transB", 0) else weight.tensor.T) * attribute(node, "alpha", 1.0)
    weights = {"weight": matrix.contiguous()}
    if bias is not None:
        weights["bias"] = (bias.tensor * attribute(node, "beta", 1.0)).expand(1, matrix.shape[0])[0].clone()
    return builder.emit(
        node, steps.Linear, [x], weights, layer_of(weight.name), in_features=matrix.shape[1], out_features=matrix.shape[0],
        bias=bias is not None,
    )  # fmt: skip


@operator("MatMul")
def _matmul(builder: Builder, node: Node, inputs: Inputs) -> Live:
    a, b = inputs[0], inputs[1]
    if isinstance(a, Live) and isinstance(b, Const) and b.tensor.dim() == 2:
        matrix = b.tensor.T.contiguous()
        return builder.emit(
            node, steps.Linear, [a], {"weight": matrix}, layer_of(b.name), in_features=matrix.shape[1],
            out_features=matrix.shape[0], bias=False,
        )  # fmt: skip
    return builder.emit(node, steps.Arithmetic, both(a, b), function="matmul")
