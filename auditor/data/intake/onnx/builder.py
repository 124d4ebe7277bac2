"""Builder: writes steps while the nodes of a file are read, and keeps book of shapes and of where the images of a batch are.

Files are often made for one batch size, 1 above all, and shapes inside them are written for it. So each value has its shape
for one image and the dimension that grows with the batch. Every step is tried on the meta device with two and three images,
where nothing is computed but shapes: exactly one dimension of its output must grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from auditor.data.intake.onnx.document import Node
from auditor.models.graph import steps
from auditor.models.graph.network import MOST_STEPS

IMAGE = -1


class Refusal(Exception):
    """Why a node cannot be converted, as the end of a sentence that begins with it, and what to do."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason, self.hint = reason, hint


@dataclass(frozen=True, eq=False)
class Const:
    """A tensor that does not depend on the image. ``name``: that of the file's tensor which it is or was made from, or empty."""

    tensor: Tensor
    name: str = ""


class Live(NamedTuple):
    """A value that depends on the image: the draft that gives it, its shape for one image, the dimension ``axis`` that has
    ``shape[axis]`` positions for each image, and how many of these come before the images (1 where images come first)."""

    draft: int
    shape: tuple[int, ...]
    axis: int
    outer: int = 1

    def at(self, images: int) -> tuple[int, ...]:
        """The shape for so many images."""
        return (*self.shape[: self.axis], self.shape[self.axis] * images, *self.shape[self.axis + 1 :])


Value = Live | Const


@dataclass
class Draft:
    """A step without its name: what it is, what it takes, its weights, and the node that it comes from. ``base``: the name
    of the layer whose weights these are, if the file says."""

    step: type[steps.Step]
    values: dict[str, Any]
    inputs: tuple[Value, ...]
    weights: dict[str, Tensor]
    node: Node
    base: str = ""


@dataclass
class Builder:
    """The steps so far. ``batch``: for how many images the shapes in the file are written."""

    batch: int
    opset: int
    drafts: list[Draft] = field(default_factory=list)

    def of(self, value: Value | None) -> Draft | None:
        """The draft that gives a value; None for the image and for constants."""
        return self.drafts[value.draft] if isinstance(value, Live) and value.draft != IMAGE else None

    def emit(
        self,
        node: Node,
        kind: type[steps.Step],
        inputs: Sequence[Value],
        weights: dict[str, Tensor] | None = None,
        base: str = "",
        outer: int | None = None,
        **values: Any,
    ) -> Live:
        """Add a step. ``outer``: as in Live, where it is not that of the inputs. Raises Refusal where it cannot be, or would not
        treat each image for itself."""
        if len(self.drafts) >= MOST_STEPS:
            raise Refusal(f"is one too many: a network has at most {MOST_STEPS:,} steps")
        fitted = tuple(self._fitted(value, inputs) for value in inputs)
        two, three = (self._tried(kind, fitted, values, images) for images in (2, 3))
        growing = [axis for axis, (a, b) in enumerate(zip(two, three, strict=True)) if a != b]
        if len(growing) != 1 or two[growing[0]] * 3 != three[growing[0]] * 2:
            raise Refusal("mixes the images of a batch, or loses them")
        axis = growing[0]
        shape = (*two[:axis], two[axis] // 2, *two[axis + 1 :])
        outers = {value.outer for value in fitted if isinstance(value, Live)}
        outer = outer or max(outers)
        if shape[axis] % outer or (outer > 1 and len(outers) > 1):
            raise Refusal("takes values in which the images of a batch lie in different orders")
        self.drafts.append(Draft(kind, values, fitted, weights or {}, node, base))
        return Live(len(self.drafts) - 1, shape, axis, outer)

    def reshape(self, node: Node, value: Live, target: tuple[int, ...], axis: int | None = None) -> Live:
        """The value in a shape that is written for ``batch`` images; ``axis``: where these are in it, if that is known.

        Images keep their place in the order of the values, so the dimension that holds them follows from the sizes before it.
        """
        if target == value.at(self.batch) and axis in (None, value.axis):
            return value
        before = torch.Size(value.shape[: value.axis]).numel() * value.outer
        found = []
        for place, size in enumerate(target):
            ahead = torch.Size(target[:place]).numel()
            if before % ahead == 0 and size % (before // ahead * self.batch) == 0:
                found.append((place, before // ahead, size == before // ahead * self.batch))
        if axis is not None:
            found = [item for item in found if item[0] == axis]
        if not found:
            raise Refusal(
                f"gives a shape for {self.batch} image(s) in which the images of a batch cannot be told apart",
                "Export it with a dynamic batch dimension: torch.onnx.export(..., dynamic_shapes=({0: 'batch'},)).",
            )
        last = len(target) - 1
        # Features come last: images are put among them only where there is no other way.
        place, outer, _ = min(
            found,
            key=lambda item: (
                item[0] == last and not item[2],
                item[1] > 1,
                not item[2],
                item[0] != value.axis,
                item[0],
            ),
        )
        shape = tuple(-1 if index == place else size for index, size in enumerate(target))
        if (
            shape == (-1, torch.Size(target[1:]).numel())
            and len(target) == 2
            and value.axis == 0
            and value.shape[0] == 1
        ):
            return self.emit(node, steps.Flatten, [value])
        return self.emit(node, steps.Reshape, [value], outer=outer, shape=shape)

    def _tried(
        self, step: type[steps.Step], inputs: Sequence[Value], values: dict[str, Any], images: int
    ) -> tuple[int, ...]:
        """The shape of what a step gives for so many images."""
        try:
            with torch.device("meta"), torch.no_grad():
                module = step(name="step", inputs=("step",) * len(inputs), **values).make().eval()
                shapes = [value.at(images) if isinstance(value, Live) else value.tensor.shape for value in inputs]
                return tuple(module(*(torch.empty(shape) for shape in shapes)).shape)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise Refusal(f"has values that no layer has here ({where}: {fault['msg']})") from None
        except (ValueError, RuntimeError, IndexError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise Refusal(f"cannot be run on a batch of {images} images ({reason[:200]})") from None

    def _fitted(self, value: Value, beside: Sequence[Value]) -> Value:
        """A constant that was written out for every image of the batch, for one image again."""
        if isinstance(value, Live) or self.batch == 1:
            return value
        tensor = value.tensor
        for other in beside:
            if isinstance(other, Live):
                axis = other.axis - len(other.shape) + tensor.dim()
                if axis >= 0 and tensor.shape[axis] == self.batch and other.shape[other.axis] == 1:
                    first = tensor.narrow(axis, 0, 1)
                    if not bool((tensor == first).all()):
                        raise Refusal(
                            f"holds other values for each of the {self.batch} images that the file was made for"
                        )
                    return Const(first, value.name)
        return value
