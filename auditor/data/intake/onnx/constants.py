"""What follows from constants alone is worked out while the file is read: shapes, indices, weights that an exporter reshapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOST_VALUES = 1 << 26
"""Values of one result: 64 million, 256 MB; a pair of numbers could ask for a terabyte."""

Attributes = dict[str, Any]
Fold = Callable[[list[Tensor | None], Attributes, int], Tensor]


class TooLargeError(Exception):
    """A constant would have more than MOST_VALUES values."""


def room(*sizes: int) -> None:
    """Raises TooLargeError where a tensor of these sizes would be too large."""
    count = 1
    for size in sizes:
        count *= max(int(size), 1)
        if count > MOST_VALUES:
            raise TooLargeError


def numbers(tensor: Tensor) -> list[int]:
    """A tensor of whole numbers as a list."""
    return [int(value) for value in tensor.flatten().tolist()]


def axes_of(inputs: list[Tensor | None], attributes: Attributes, place: int = 1) -> list[int] | None:
    """Axes, which older operator sets write as an attribute and newer ones as an input."""
    if "axes" in attributes:
        return list(attributes["axes"])
    given = inputs[place] if len(inputs) > place else None
    return None if given is None else numbers(given)


def _pair(function: Callable[[Tensor, Tensor], Tensor]) -> Fold:
    def fold(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
        a, b = inputs[0], inputs[1]
        assert a is not None and b is not None  # noqa: PT018
        room(*torch.broadcast_shapes(a.shape, b.shape))
        return function(a, b)

    return fold


def _one(function: Callable[[Tensor], Tensor]) -> Fold:
    return lambda inputs, attributes, opset: function(_first(inputs))


def _first(inputs: list[Tensor | None]) -> Tensor:
    assert inputs[0] is not None
    return inputs[0]


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def _modulo(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
    a, b = inputs[0], inputs[1]
    assert a is not None and b is not None  # noqa: PT018
    return torch.fmod(a, b) if attributes.get("fmod") else torch.remainder(a, b)


_CAST = {1: torch.float32, 10: torch.float32, 11: torch.float32, 16: torch.float32, 9: torch.bool}


def _cast(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
    return _first(inputs).to(_CAST.get(attributes["to"], torch.int64))


def _cast_like(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
    like = inputs[1]
    assert like is not None
    return _first(inputs).to(like.dtype)


def _concat(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
    parts = [part for part in inputs if part is not None]
    room(sum(part.numel() for part in parts))
    return torch.cat(parts, attributes["axis"])


def _constant_of_shape(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
    shape = numbers(_first(inputs))
    room(*shape)
    value = attributes.get("value")
    return torch.zeros(shape) if value is None else value.reshape(()).expand(shape).clone()


def _expand(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
    x, wanted = _first(inputs), inputs[1]
    assert wanted is not None
    shape = torch.broadcast_shapes(x.shape, tuple(numbers(wanted)))
    room(*shape)
    return x.expand(shape).clone()


def _gather(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
    x, index = _first(inputs), inputs[1]
    assert index is not None
    axis = attributes.get("axis", 0) % x.dim()
    room(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    flat = index.flatten() % x.shape[axis]
    if bool(((index < -x.shape[axis]) | (index >= x.shape[axis])).any()):
        raise IndexError("an index of Gather is out of range")
    return x.index_select(axis, flat).reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def _range(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
    start, stop, step = (_number(item) for item in inputs[:3])
    room(abs(int((stop - start) / step)) + 1)
    kind = _first(inputs).dtype
    return torch.arange(start, stop, step, dtype=kind) if (stop - start) * step > 0 else torch.empty(0, dtype=kind)


def _number(tensor: Tensor | None) -> Any:
    assert tensor is not None
    return tensor.reshape(()).item()


def resolved(shape: list[int], before: tuple[int, ...], allow_zero: bool = False) -> tuple[int, ...]:
    """The target of a Reshape in full: 0 copies a size, -1 takes what is left. Raises ValueError where it does not fit."""
    full = [before[index] if size == 0 and not allow_zero else size for index, size in enumerate(shape)]
    count = torch.Size(before).numel()
    known = 1
    for size in full:
        known *= 1 if size == -1 else size
    if full.count(-1) == 1 and known and count % known == 0:
        full[full.index(-1)] = count // known
    elif -1 in full or known != count:
        raise ValueError(f"{count} values do not fit the shape {shape}")
    return tuple(full)


def _reshape(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
    x, wanted = _first(inputs), inputs[1]
    assert wanted is not None
    return x.reshape(resolved(numbers(wanted), tuple(x.shape), bool(attributes.get("allowzero"))))


def slices(inputs: list[Tensor | None], rank: int, shape: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """(axis, start, stop, step) of a Slice, in range; negative steps stay negative. Raises ValueError."""
    if any(item is None for item in inputs[1:3]):
        raise ValueError("Slice without constant starts and ends")
    starts, ends = (numbers(item) for item in inputs[1:3] if item is not None)
    axes = numbers(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
    steps = numbers(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    found = []
    for axis, start, stop, step in zip(axes, starts, ends, steps, strict=True):
        axis %= rank
        begin, end, step = slice(start, stop, step).indices(shape[axis])
        found.append((axis, begin, end, step))
    return found


def _slice(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
    x = _first(inputs)
    for axis, start, stop, step in slices(inputs, x.dim(), tuple(x.shape)):
        x = x.index_select(axis, torch.tensor(range(start, stop, step), dtype=torch.int64))
    return x


def split_sizes(inputs: list[Tensor | None], attributes: Attributes, size: int, outputs: int) -> list[int]:
    """How many positions each output of a Split gets."""
    given = attributes.get("split")
    if given is None and len(inputs) > 1 and inputs[1] is not None:
        given = numbers(inputs[1])
    if given is None:
        each = -(-size // outputs)
        given = [min(each, size - each * index) for index in range(outputs)]
    if sum(given) != size or len(given) != outputs or min(given) < 1:
        raise ValueError(f"{size} positions are not split into {given}")
    return list(given)


def _squeeze(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
    x = _first(inputs)
    axes = axes_of(inputs, attributes)
    gone = {axis % x.dim() for axis in axes} if axes is not None else {i for i, size in enumerate(x.shape) if size == 1}
    return x.reshape([size for index, size in enumerate(x.shape) if index not in gone])


def _unsqueeze(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
    x, axes = _first(inputs), axes_of(inputs, attributes) or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _tile(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
    x, repeats = _first(inputs), inputs[1]
    assert repeats is not None
    times = numbers(repeats)
    room(*(size * count for size, count in zip(x.shape, times, strict=True)))
    return x.repeat(times)


def _where(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
    condition, a, b = inputs
    assert condition is not None and a is not None and b is not None  # noqa: PT018
    room(*torch.broadcast_shapes(condition.shape, a.shape, b.shape))
    return torch.where(condition, a, b)


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Fold:
    def fold(inputs: list[Tensor | None], attributes: Attributes, opset: int) -> Tensor:
        x = _first(inputs)
        axes = axes_of(inputs, attributes)
        if not axes:
            if attributes.get("noop_with_empty_axes"):
                return x
            axes = list(range(x.dim()))
        return function(x, axes, bool(attributes.get("keepdims", 1)))

    return fold


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    room(*a.shape[:-1], b.shape[-1])
    return a @ b


FOLDS: dict[str, Fold] = {
    "Abs": _one(torch.abs),
    "Add": _pair(torch.add),
    "And": _pair(torch.logical_and),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _one(torch.ceil),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _pair(_divide),
    "Equal": _pair(torch.eq),
    "Erf": _one(torch.erf),
    "Exp": _one(torch.exp),
    "Expand": _expand,
    "Floor": _one(torch.floor),
    "Gather": _gather,
    "Greater": _pair(torch.gt),
    "GreaterOrEqual": _pair(torch.ge),
    "Identity": _one(lambda x: x),
    "Less": _pair(torch.lt),
    "LessOrEqual": _pair(torch.le),
    "Log": _one(torch.log),
    "MatMul": lambda inputs, attributes, opset: _matmul(_first(inputs), inputs[1]),  # type: ignore[arg-type]
    "Max": _pair(torch.maximum),
    "Min": _pair(torch.minimum),
    "Mod": _modulo,
    "Mul": _pair(torch.mul),
    "Neg": _one(torch.neg),
    "Not": _one(torch.logical_not),
    "Or": _pair(torch.logical_or),
    "Pow": _pair(_power),
    "Range": _range,
    "Reciprocal": _one(torch.reciprocal),
    "ReduceMax": _reduce(lambda x, axes, keep: torch.amax(x, axes, keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: torch.mean(x, axes, keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: torch.amin(x, axes, keep)),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(lambda x, axes, keep: torch.sum(x, axes, keep)),
    "Reshape": _reshape,
    "Shape": lambda inputs, attributes, opset: shape_between(tuple(_first(inputs).shape), attributes),
    "Sigmoid": _one(torch.sigmoid),
    "Sign": _one(torch.sign),
    "Size": _one(lambda x: torch.tensor(x.numel())),
    "Slice": _slice,
    "Sqrt": _one(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _pair(torch.sub),
    "Tile": _tile,
    "Transpose": lambda inputs, attributes, opset: _first(inputs).permute(
        attributes.get("perm", list(range(_first(inputs).dim()))[::-1])
    ),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
"""Operations on constants: the inputs, the attributes and the operator set give the result."""


def shape_between(shape: tuple[int, ...], attributes: Attributes) -> Tensor:
    """What Shape gives: all sizes, or those from ``start`` to ``end``."""
    return torch.tensor(shape[attributes.get("start", 0) : attributes.get("end", None)], dtype=torch.int64)
