"""What the operators of ONNX share: the table of all of them, and how they read a node's inputs and attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from auditor.data.intake.onnx.builder import Builder, Const, Live, Refusal, Value
from auditor.data.intake.onnx.document import Node

Inputs = list["Value | None"]
"""The inputs of a node; None for one that is left out."""
Made = Value | list[Value]
Operator = Callable[[Builder, Node, Inputs], Made]

OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Note a function in OPERATORS, under the names of the operators that it converts."""

    def note(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return note


def live_of(value: Value | None) -> Live:
    """The value, which must depend on the image."""
    if not isinstance(value, Live):
        raise Refusal("works on constants where the image is expected")
    return value


def const(inputs: Inputs, place: int, what: str) -> Const | None:
    """An input that must be constant; None where it is left out."""
    value = inputs[place] if len(inputs) > place else None
    if isinstance(value, Live):
        raise Refusal(f"has {what} that depend on the image")
    return value


def needed(inputs: Inputs, place: int, what: str) -> Const:
    """An input that must be constant and there."""
    value = const(inputs, place, what)
    if value is None:
        raise Refusal(f"has no {what}")
    return value


def tensors(inputs: Inputs) -> list[Tensor | None]:
    """The constants among the inputs; None for those that depend on the image, or are left out."""
    return [value.tensor if isinstance(value, Const) else None for value in inputs]


def number(inputs: Inputs, place: int) -> float | None:
    """A constant of one value; None where it is left out."""
    value = const(inputs, place, "bounds")
    return None if value is None or value.tensor.numel() != 1 else float(value.tensor)


def axis_in(axis: int, value: Live) -> int:
    """The axis, counted from the front."""
    rank = len(value.shape)
    if not -rank <= axis < rank:
        raise Refusal(f"has the axis {axis}, but {rank} dimensions come in")
    return axis % rank


def image(value: Value | None) -> Live:
    """The value, which must be maps: images x channels x height x width."""
    live = live_of(value)
    if len(live.shape) != 4 or live.axis != 0:
        shape = "x".join(map(str, live.shape))
        raise Refusal(f"gets {shape} for an image; expected maps (images x channels x height x width)")
    return live


def layer_of(name: str) -> str:
    """The layer of a tensor's name: ``conv1`` of ``conv1.weight``."""
    return name.rpartition(".")[0]


def weights_of(**given: Const | None) -> dict[str, Tensor]:
    """The tensors of a layer by name, without those that it does not have."""
    return {name: value.tensor for name, value in given.items() if value is not None}


def attribute(node: Node, name: str, default: Any) -> Any:
    """What the node says, or the operator's default."""
    return node.attributes.get(name, default)


def pair(node: Node, name: str) -> tuple[int, int]:
    """An attribute for (height, width); 1 where it is left out."""
    first, second = attribute(node, name, None) or [1, 1]
    return first, second


def padding_of(
    node: Node, x: Live, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(top, left), (bottom, right) of a window's padding, in pixels."""
    word = attribute(node, "auto_pad", "NOTSET")
    if word == "VALID":
        return (0, 0), (0, 0)
    if word in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for size, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True):
            total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            small, large = total // 2, total - total // 2
            before.append(small if word == "SAME_UPPER" else large)
            after.append(large if word == "SAME_UPPER" else small)
        return (before[0], before[1]), (after[0], after[1])
    top, left, bottom, right = attribute(node, "pads", None) or [0, 0, 0, 0]
    return (top, left), (bottom, right)


def both(a: Value | None, b: Value | None) -> list[Value]:
    """Two inputs that must be there."""
    if a is None or b is None:
        raise Refusal("lacks an input")
    return [a, b]
