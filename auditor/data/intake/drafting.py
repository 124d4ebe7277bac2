"""A draft of layers for a plain chain of convolutions and linear layers: what runs between them is guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import NamedTuple

from auditor.data.intake.alternatives import SIDES
from auditor.kit.errors import AuditorError
from auditor.models.architecture import ARCHITECTURES, Architecture

_MOST_FREE = 6
"""Convolutions of which each may have its own padding and pool; longer chains have the same after each."""

Shapes = Mapping[str, tuple[int, ...]]


class _Layer(NamedTuple):
    """A weighted layer: (outputs, inputs) or (outputs, inputs, height, width), and the batch normalization after it."""

    shape: tuple[int, ...]
    bias: bool
    norm: bool


def draft(shapes: Shapes, *, ordered: bool) -> tuple[Architecture, str] | None:
    """The network and its layers in PyTorch's notation; None where the tensors are no plain chain.

    ReLU is put between layers; paddings, pools and the image size are chosen so that the first linear layer's inputs come out.
    ``shapes``: without counters. ``ordered``: whether they are in the order of the layers.
    """
    found = _chain(shapes if ordered else _by_names(shapes))
    if not found:
        return None
    convolutions = [layer for layer in found if len(layer.shape) == 4]
    linear = found[len(convolutions) :]
    for guess in _guesses(convolutions, linear):
        side, channels = guess.side, guess.channels
        text = _text(convolutions, linear, guess)
        values = {
            "layers": text,
            "channels": channels,
            "height": side,
            "width": side,
            "num_classes": found[-1].shape[0],
        }
        try:
            return ARCHITECTURES.build("sequential", values), text
        except AuditorError:  # a window larger than what is left of the image
            continue
    return None


def _by_names(shapes: Shapes) -> Shapes:
    """In the order of names and their numbers, what has convolutions before what has none."""
    with_maps = {key.partition(".")[0] for key, shape in shapes.items() if len(shape) == 4}
    return dict(
        sorted(shapes.items(), key=lambda item: (item[0].partition(".")[0] not in with_maps, _natural(item[0])))
    )


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,9})", name)]


def _chain(shapes: Shapes) -> list[_Layer] | None:
    """The layers in order, if each takes what the one before gives."""
    if any(0 in shape for shape in shapes.values()):
        return None
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        holder, _, leaf = key.rpartition(".")
        modules.setdefault(holder, {})[leaf] = shape
    layers: list[_Layer] = []
    for leaves in modules.values():
        weight = leaves.get("weight", ())
        if (
            leaves.keys() == {"weight", "bias", "running_mean", "running_var"}
            and layers
            and weight == layers[-1].shape[:1]
        ):
            layers[-1] = layers[-1]._replace(norm=True)
        elif leaves.keys() <= {"weight", "bias"} and len(weight) in (2, 4):
            layers.append(_Layer(weight, "bias" in leaves, norm=False))
        else:
            return None
    for one, other in pairwise(layers):
        if len(one.shape) == 2 and len(other.shape) == 4:
            return None
        if len(one.shape) == len(other.shape) and other.shape[1] != one.shape[0]:
            return None
        if len(one.shape) > len(other.shape) and other.shape[1] % one.shape[0]:
            return None
    return layers if layers and layers[-1].shape[0] > 1 else None


class _Guess(NamedTuple):
    """Side and channels of the images; of each convolution its stride, its padding and whether a pool follows; what comes
    before the linear layers.
    """

    side: int
    channels: int
    strides: Sequence[int] = ()
    paddings: Sequence[int] = ()
    pools: Sequence[bool] = ()
    ending: str = ""


def _guesses(convolutions: Sequence[_Layer], linear: Sequence[_Layer]) -> Iterator[_Guess]:
    """What gives the inputs of the first linear layer, the usual first."""
    if not convolutions:
        for channels, side in ((1, 28), (3, 32), *product((3, 1), SIDES)):
            if channels * side * side == linear[0].shape[1]:
                yield _Guess(side, channels)
        return
    channels = convolutions[0].shape[1]
    usual = 28 if channels == 1 else 32
    windows = tuple(layer.shape[2] for layer in convolutions)
    same = tuple(window // 2 for window in windows)
    count = len(windows)
    ones = (1,) * count
    if linear and linear[0].shape[1] != convolutions[-1].shape[0]:
        wanted = linear[0].shape[1] // convolutions[-1].shape[0]
        free = count <= _MOST_FREE
        paddings = dict.fromkeys([same, (0,) * count, *(product(*({a, 0} for a in same)) if free else ())])
        uniform = [(True,) * count, (False,) * count]
        pools = dict.fromkeys([*uniform, *(product((True, False), repeat=count) if free else ())])
        sides = dict.fromkeys((usual, *SIDES))
        for strides, side, padding, pool in product((ones, windows, (2,) * count), sides, paddings, pools):
            if _side(side, windows, strides, padding, pool) ** 2 == wanted:
                yield _Guess(side, channels, strides, padding, pool)
    for pool in ((True,) * count, (False,) * count):
        yield _Guess(usual, channels, ones, same, pool, "nn.AdaptiveAvgPool2d(1)")


def _side(
    side: int, windows: Sequence[int], strides: Sequence[int], paddings: Sequence[int], pools: Sequence[bool]
) -> int:
    """The side of the maps at the end; 0 where a window is larger than what is left."""
    for window, stride, padding, pool in zip(windows, strides, paddings, pools, strict=True):
        side = (side + 2 * padding - window) // stride + 1
        side = side // 2 if pool else side
        if side < 1:
            return 0
    return side


def _text(convolutions: Sequence[_Layer], linear: Sequence[_Layer], guess: _Guess) -> str:
    parts = []
    for i, layer in enumerate(convolutions):
        out, into, height, width = layer.shape
        window = f"{height}" if height == width else f"({height}, {width})"
        options = f", stride={guess.strides[i]}" if guess.strides[i] > 1 else ""
        options += f", padding={guess.paddings[i]}" if guess.paddings[i] else ""
        parts.append(f"nn.Conv2d({into}, {out}, {window}{options}{'' if layer.bias else ', bias=False'})")
        if layer.norm:
            parts.append(f"nn.BatchNorm2d({out})")
        if linear or i + 1 < len(convolutions):
            parts.append("nn.ReLU()")
            parts += ["nn.MaxPool2d(2)"] if guess.pools[i] else []
    parts += [guess.ending] if guess.ending else []
    parts.append("nn.Flatten()")
    for i, layer in enumerate(linear):
        parts.append(f"nn.Linear({layer.shape[1]}, {layer.shape[0]}{'' if layer.bias else ', bias=False'})")
        if layer.norm:
            parts.append(f"nn.BatchNorm1d({layer.shape[0]})")
        if i + 1 < len(linear):
            parts.append("nn.ReLU()")
    return f"nn.Sequential({', '.join(parts)})"
