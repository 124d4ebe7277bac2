"""Layer fields: the types of a layer's parameters, and the checks of a layer against the shape it meets.

The checks raise ValueError with what is wrong; who calls them says where.
"""

from __future__ import annotations

import reprlib
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

Shape = tuple[int, ...]
"""Of one image's values, without the batch: (C, H, W), or (N,) for a flat vector."""

LARGEST = 100_000_000


def _pair_of(least: int, most: int, words: tuple[str, ...] = ()) -> tuple[BeforeValidator, WithJsonSchema]:
    def as_pair(value: Any) -> Any:
        if value in words:
            return value
        pair = [value, value] if type(value) is int else value
        if not isinstance(pair, list | tuple) or len(pair) != 2 or any(type(item) is not int for item in pair):
            choices = "".join(f", or {word!r}" for word in words)
            raise ValueError(f"expected a whole number or a pair of them{choices}, got {reprlib.repr(value)}")
        if min(pair) < least or max(pair) > most:
            raise ValueError(f"expected numbers from {least} to {most}, got {reprlib.repr(value)}")
        return tuple(pair)

    number = {"type": "integer", "minimum": least, "maximum": most}
    pair = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
    choices = [{"type": "string", "enum": list(words)}] if words else []
    return BeforeValidator(as_pair), WithJsonSchema({"anyOf": [number, pair, *choices]})


Pair = Annotated[tuple[int, int], *_pair_of(1, 1024)]
Padding = Annotated[tuple[int, int], *_pair_of(0, 64)]
PaddingOrWord = Annotated[tuple[int, int] | Literal["same", "valid"], *_pair_of(0, 64, ("same", "valid"))]
Count = Annotated[int, Field(ge=1, le=LARGEST, strict=True)]
Given = Annotated[Count | None, Field(description="Checked against what comes in, when given.")]
Epsilon = Annotated[float, Field(gt=0, le=1, description="Added to the variance.")]


def shape_text(shape: Shape) -> str:
    """``16x8x8`` for (16, 8, 8)."""
    return "x".join(map(str, shape))


def by(pair: tuple[int, int]) -> str:
    """``3x5`` for (3, 5)."""
    return f"{pair[0]}x{pair[1]}"


def image_shape(shape: Shape) -> Shape:
    """The shape itself, when it is that of an image."""
    if len(shape) != 3:
        raise ValueError("it takes an image (channels x height x width); no flatten may come before it")
    return shape


def agree(field: str, given: int | None, came: int, what: str) -> None:
    """Whether what the user gave, if anything, is what comes in."""
    if given is not None and given != came:
        raise ValueError(f"{field} is {given}, but {came} {what} come in")


def fits(what: str, shape: Shape, kernel: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]) -> None:
    """Whether a kernel or window has its place in the image. All in pixels, (height, width)."""
    extent = dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1
    room = shape[1] + 2 * padding[0], shape[2] + 2 * padding[1]
    if extent[0] > room[0] or extent[1] > room[1]:
        raise ValueError(f"its {what} covers {by(extent)} pixels, but with padding there are only {by(room)}")
