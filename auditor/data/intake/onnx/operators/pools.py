"""Pools, and changes of height and width."""

from __future__ import annotations

from auditor.data.intake.onnx import constants
from auditor.data.intake.onnx.builder import Builder, Live, Refusal
from auditor.data.intake.onnx.document import Node
from auditor.data.intake.onnx.operators.given import (
    Inputs,
    attribute,
    axis_in,
    const,
    image,
    live_of,
    needed,
    number,
    operator,
    padding_of,
    pair,
    tensors,
)
from auditor.models.graph import steps


@operator("MaxPool", "AveragePool")
def _pool(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x, kernel = image(inputs[0]), pair(node, "kernel_shape")
    stride, dilation = pair(node, "strides"), pair(node, "dilations")
    before, after = padding_of(node, x, kernel, stride, dilation)
    ceil = bool(attribute(node, "ceil_mode", 0))
    even = before == after and before[0] <= kernel[0] // 2 and before[1] <= kernel[1] // 2
    if not even and ceil:
        raise Refusal("has uneven padding and counts incomplete windows (ceil_mode)")
    padding = before if even else (0, 0)
    pad = (0, 0, 0, 0) if even else (before[1], after[1], before[0], after[0])
    if node.op == "MaxPool":
        return builder.emit(
            node, steps.MaxPool, [x], kernel_size=kernel, stride=stride, padding=padding, pad=pad, dilation=dilation,
            ceil_mode=ceil,
        )  # fmt: skip
    if dilation != (1, 1):
        raise Refusal("is an average over a dilated window")
    counted = bool(attribute(node, "count_include_pad", 0))
    if counted and not even:
        x, pad = builder.emit(node, steps.Pad, [x], pad=pad), (0, 0, 0, 0)
    return builder.emit(
        node, steps.AvgPool, [x], kernel_size=kernel, stride=stride, padding=padding, pad=pad, ceil_mode=ceil,
        count_include_pad=counted,
    )  # fmt: skip


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(builder: Builder, node: Node, inputs: Inputs) -> Live:
    function = "mean" if node.op == "GlobalAveragePool" else "max"
    return builder.emit(node, steps.GlobalPool, [image(inputs[0])], function=function)


@operator("Resize")
def _resize(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x = image(inputs[0])
    scales, sizes = const(inputs, 2, "scales"), const(inputs, 3, "sizes")
    if sizes is not None and sizes.tensor.numel():
        target = constants.numbers(sizes.tensor)
    elif scales is not None and scales.tensor.numel() == 4:
        wanted = [size * scale for size, scale in zip(x.at(builder.batch), scales.tensor.tolist(), strict=True)]
        target = [round(size) for size in wanted]
        if any(abs(size - whole) > 1e-3 for size, whole in zip(wanted, target, strict=True)):
            raise Refusal("has scales that do not give whole pixels")
    else:
        raise Refusal("has neither sizes nor scales that are constant")
    if node.attributes.get("axes") or attribute(node, "antialias", 0) or tuple(target[:2]) != x.at(builder.batch)[:2]:
        raise Refusal("resizes something else than height and width, or smooths")
    if tuple(target[2:]) == x.shape[2:]:
        return x
    mode, place = attribute(node, "mode", "nearest"), attribute(node, "coordinate_transformation_mode", "half_pixel")
    whole = all(new % old == 0 for new, old in zip(target[2:], x.shape[2:], strict=True))
    floor = place == "asymmetric" and attribute(node, "nearest_mode", "round_prefer_floor") == "floor"
    size = tuple(target[2:])
    if mode == "nearest" and (floor or (whole and place in ("half_pixel", "pytorch_half_pixel"))):
        return builder.emit(node, steps.Upsample, [x], mode="nearest", size=size)
    if mode == "linear" and place in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return builder.emit(
            node, steps.Upsample, [x], mode="bilinear", align_corners=place == "align_corners", size=size
        )
    raise Refusal(f"resizes in a way that PyTorch has not ({mode}, {place})")


@operator("Pad")
def _pad(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x, amounts, value = live_of(inputs[0]), needed(inputs, 1, "amounts"), number(inputs, 2)
    rank = len(x.shape)
    pads = constants.numbers(amounts.tensor)
    axes = constants.axes_of(tensors(inputs), {}, 3)
    places = [axis_in(axis, x) for axis in axes] if axes is not None else list(range(rank))
    before, after = [0] * rank, [0] * rank
    for index, place in enumerate(places):
        before[place], after[place] = pads[index], pads[index + len(places)]
    if before[x.axis] or after[x.axis]:
        raise Refusal("pads the images of a batch")
    if not any(before) and not any(after):
        return x
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    mode = modes.get(attribute(node, "mode", "constant"))
    first = next(index for index in range(rank) if before[index] or after[index])
    first = min(first, rank - 2) if mode != "constant" and rank == 4 else first
    pad = [amount for place in reversed(range(first, rank)) for amount in (before[place], after[place])]
    return builder.emit(node, steps.Pad, [x], pad=tuple(pad), mode=mode, value=value or 0.0)


@operator("DepthToSpace")
def _depth_to_space(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x, block = image(inputs[0]), int(attribute(node, "blocksize", 1))
    if attribute(node, "mode", "DCR") == "CRD":
        return builder.emit(node, steps.PixelShuffle, [x], upscale_factor=block)
    _, channels, height, width = x.shape
    apart = builder.emit(node, steps.Reshape, [x], shape=(-1, block, block, channels // block**2, height, width))
    moved = builder.emit(node, steps.Permute, [apart], dims=(0, 3, 4, 1, 5, 2))
    return builder.emit(node, steps.Reshape, [moved], shape=(-1, channels // block**2, height * block, width * block))


@operator("SpaceToDepth")
def _space_to_depth(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x, block = image(inputs[0]), int(attribute(node, "blocksize", 1))
    _, channels, height, width = x.shape
    apart = builder.emit(node, steps.Reshape, [x], shape=(-1, channels, height // block, block, width // block, block))
    moved = builder.emit(node, steps.Permute, [apart], dims=(0, 3, 5, 1, 2, 4))
    return builder.emit(node, steps.Reshape, [moved], shape=(-1, channels * block**2, height // block, width // block))
