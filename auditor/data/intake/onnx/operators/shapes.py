"""Operators that move values and compute none: shapes, parts, orders."""

from __future__ import annotations

import torch

from auditor.data.intake.onnx import constants
from auditor.data.intake.onnx.builder import Builder, Const, Live, Refusal, Value
from auditor.data.intake.onnx.document import Node
from auditor.data.intake.onnx.operators.given import (
    Inputs,
    attribute,
    axis_in,
    live_of,
    needed,
    operator,
    tensors,
)
from auditor.models.graph import steps


@operator("Identity", "Dropout", "CastLike")
def _same(builder: Builder, node: Node, inputs: Inputs) -> Value:
    if node.op == "CastLike" and isinstance(inputs[0], Const):
        return Const(inputs[0].tensor.float(), inputs[0].name)  # what depends on the image is float32
    if node.op == "Dropout" and len(inputs) > 2 and inputs[2] is not None:
        mode = needed(inputs, 2, "modes")
        if bool(mode.tensor.any()):
            raise Refusal("is in training mode", "Export the network in evaluation mode: model.eval().")
    return live_of(inputs[0])


@operator("Cast")
def _cast(builder: Builder, node: Node, inputs: Inputs) -> Live:
    if attribute(node, "to", 1) not in (1, 10, 11, 16):
        raise Refusal("turns what depends on the image into whole numbers, which have no gradient")
    return live_of(inputs[0])


@operator("Shape")
def _shape(builder: Builder, node: Node, inputs: Inputs) -> Const:
    return Const(constants.shape_between(live_of(inputs[0]).at(builder.batch), node.attributes))


@operator("Size")
def _size(builder: Builder, node: Node, inputs: Inputs) -> Const:
    return Const(torch.tensor(torch.Size(live_of(inputs[0]).at(builder.batch)).numel()))


@operator("Reshape")
def _reshape(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x, wanted = live_of(inputs[0]), constants.numbers(needed(inputs, 1, "shapes").tensor)
    try:
        target = constants.resolved(wanted, x.at(builder.batch), bool(attribute(node, "allowzero", 0)))
    except (ValueError, IndexError) as error:
        raise Refusal(f"has a shape that does not fit ({error})") from None
    return builder.reshape(node, x, target)


@operator("Flatten")
def _flatten(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x = live_of(inputs[0])
    sizes = x.at(builder.batch)
    axis = attribute(node, "axis", 1)
    axis = axis + len(sizes) if axis < 0 else axis
    return builder.reshape(node, x, (torch.Size(sizes[:axis]).numel(), torch.Size(sizes[axis:]).numel()))


@operator("Squeeze")
def _squeeze(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x = live_of(inputs[0])
    axes = constants.axes_of(tensors(inputs), node.attributes)
    sizes = x.at(builder.batch)
    gone = {axis_in(axis, x) for axis in axes} if axes is not None else {i for i, size in enumerate(sizes) if size == 1}
    target = tuple(size for index, size in enumerate(sizes) if index not in gone)
    if any(sizes[index] != 1 for index in gone):
        raise Refusal("leaves out a dimension that is not 1")
    place = None if x.axis in gone else x.axis - sum(index < x.axis for index in gone)
    return builder.reshape(node, x, target, place)


@operator("Unsqueeze")
def _unsqueeze(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x = live_of(inputs[0])
    axes = constants.axes_of(tensors(inputs), node.attributes) or []
    rank = len(x.shape) + len(axes)
    added = {axis % rank for axis in axes}
    sizes = iter(enumerate(x.at(builder.batch)))
    target, place = [], 0
    for index in range(rank):
        if index in added:
            target.append(1)
            continue
        old, size = next(sizes)
        place = index if old == x.axis else place
        target.append(size)
    return builder.reshape(node, x, tuple(target), place)


@operator("Transpose")
def _transpose(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x = live_of(inputs[0])
    dims = tuple(attribute(node, "perm", None) or range(len(x.shape))[::-1])
    draft = builder.of(x)
    if draft is not None and draft.step is steps.Permute and isinstance(draft.inputs[0], Live):
        x, dims = draft.inputs[0], tuple(draft.values["dims"][dim] for dim in dims)
    return x if dims == tuple(range(len(dims))) else builder.emit(node, steps.Permute, [x], dims=dims)


@operator("Concat")
def _concat(builder: Builder, node: Node, inputs: Inputs) -> Value:
    parts = [value for value in inputs if value is not None]
    live = [value for value in parts if isinstance(value, Live)]
    axis = axis_in(int(attribute(node, "axis", 0)), live[0])
    if len(parts) == 1:
        return parts[0]
    if any(value.axis == axis for value in live):
        raise Refusal("puts values into the dimension of the images")
    held = tuple(index for index, value in enumerate(parts) if isinstance(value, Const))
    return builder.emit(
        node, steps.Concat, parts, dim=axis, batch=live[0].axis, rank=len(live[0].shape), held=held
    )  # fmt: skip


@operator("Split")
def _split(builder: Builder, node: Node, inputs: Inputs) -> list[Value]:
    x = live_of(inputs[0])
    axis = axis_in(attribute(node, "axis", 0), x)
    if axis == x.axis:
        raise Refusal("splits the images of a batch")
    try:
        lengths = constants.split_sizes(tensors(inputs), node.attributes, x.shape[axis], len(node.outputs))
    except ValueError as error:
        raise Refusal(f"has sizes that do not fit ({error})") from None
    parts: list[Value] = []
    start = 0
    for length in lengths:
        parts.append(builder.emit(node, steps.Slice, [x], dim=axis, start=start, stop=start + length))
        start += length
    return parts


@operator("Slice")
def _slice(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x = live_of(inputs[0])
    sizes = x.at(builder.batch)
    try:
        cuts = constants.slices(tensors(inputs), len(sizes), sizes)
    except ValueError as error:
        raise Refusal(f"has bounds that are not constant ({error})") from None
    for axis, start, stop, step in cuts:
        if (start, stop, step) == (0, sizes[axis], 1):
            continue
        if axis == x.axis:
            raise Refusal("takes some of the images of a batch")
        if step > 0:
            x = builder.emit(node, steps.Slice, [x], dim=axis, start=start, stop=stop, step=step)
        else:
            x = builder.emit(node, steps.Take, [x], dim=axis, positions=tuple(range(start, stop, step)))
    return x


@operator("Gather")
def _gather(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x, index = live_of(inputs[0]), needed(inputs, 1, "indices").tensor
    axis = axis_in(attribute(node, "axis", 0), x)
    sizes = x.at(builder.batch)
    size = sizes[axis]
    whole = torch.equal(index.flatten(), torch.arange(size))
    if whole and (axis != x.axis or x.shape[axis] > 1):  # as torch's exporter writes as_strided
        return builder.reshape(node, x, (*sizes[:axis], *index.shape, *sizes[axis + 1 :]))
    if axis == x.axis:
        raise Refusal("takes some of the images of a batch")
    if index.dim() > 1 or bool(((index < -size) | (index >= size)).any()):
        raise Refusal("has indices in a table, or out of range")
    positions = tuple(position % size for position in constants.numbers(index))
    return builder.emit(node, steps.Take, [x], dim=axis, positions=positions, single=index.dim() == 0)


@operator("Expand")
def _expand(builder: Builder, node: Node, inputs: Inputs) -> Live:
    x, wanted = live_of(inputs[0]), constants.numbers(needed(inputs, 1, "shapes").tensor)
    sizes = x.at(builder.batch)
    rank = max(len(sizes), len(wanted))
    offset = rank - len(sizes)
    try:
        shape = torch.broadcast_shapes(sizes, tuple(wanted))
    except RuntimeError:
        raise Refusal("has a shape that does not fit") from None
    target = tuple(-1 if index == offset + x.axis else size for index, size in enumerate(shape))
    return x if shape == sizes else builder.emit(node, steps.Expand, [x], shape=target)
