"""What an operation of a traced network does to a local derivative: its step, or the reason why there is no closed
form."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from auditor.models.neurons import is_activation, kind_of
from auditor.models.tracing import Window, arguments, dimensions_of, function_of, same_function, window_of
from auditor.neural.routes.derivative import (
    Add,
    AvgPoolRule,
    Concatenate,
    Elementwise,
    MaxPoolRule,
    Pad,
    ReluRule,
    Same,
    ScaleRule,
    Step,
    Subsample,
)

ADDITIONS = (operator.add, operator.iadd, torch.add, Tensor.add, Tensor.add_)
CONCATENATIONS = (torch.cat, torch.concat)
_SAME = (torch.flatten, Tensor.flatten, Tensor.view, Tensor.reshape, torch.reshape, Tensor.contiguous, Tensor.clone)
_DROPOUTS = (functional.dropout, functional.dropout2d, functional.alpha_dropout, functional.feature_alpha_dropout)
_MEANS = (torch.mean, Tensor.mean)
_LINEAR_MAPS = (nn.Linear, nn.modules.conv._ConvNd)
MOST_BITS = 62
"""Windows that may hold one position of an overlapping pool; each is one bit of an int64."""


def step_of(node: fx.Node, source: fx.Node, network: nn.Module, shapes: Mapping[fx.Node, torch.Size]) -> Step | str:
    """The step from ``source``, one of the node's inputs, to its output; or why there is none, as in "because ..."."""
    what = function_of(node, network)
    name = type(what).__name__ if isinstance(what, nn.Module) else getattr(what, "__name__", str(node.target))
    before, after = shapes[source], shapes[node]
    if len(before) < 2 or len(after) < 2:
        return f"{name} takes maps apart or puts them together"
    if isinstance(what, _LINEAR_MAPS) or what in (functional.linear, functional.conv2d):
        return f"there is another linear map between them ({name}), and two have no closed form"
    if isinstance(what, nn.modules.batchnorm._BatchNorm):
        return _normalization(what, before)
    if isinstance(what, nn.Identity):
        return Same()
    if isinstance(what, nn.modules.dropout._DropoutNd) or what in _DROPOUTS:
        active = what.training if isinstance(what, nn.Module) else arguments(node, what)["training"]
        return f"{name} is active" if active else Same()
    if isinstance(what, nn.Flatten) or what in _SAME:
        return Same() if after in (before, torch.Size([before[0], before[1:].numel()])) else f"{name} mixes dimensions"
    if isinstance(what, nn.ReLU) or (is_activation(what) and name.rstrip("_") == "relu"):
        return ReluRule()
    if (isinstance(what, nn.Module) and kind_of(what) == "activation") or is_activation(what):
        return Elementwise(_applied(node, what))
    if what in ADDITIONS:
        once = [*node.args, *node.kwargs.values()].count(source) == 1 and node.kwargs.get("alpha", 1) == 1
        return Add() if once and after == before else f"{name} repeats or scales what it adds"
    if what in CONCATENATIONS:
        return _concatenation(node, source, shapes)
    pool = _pool(node, what, before, after)
    if pool is not None:
        return pool
    return f"{name} is between them, and its derivative is not one factor for each position"


def _normalization(module: nn.modules.batchnorm._BatchNorm, before: torch.Size) -> Step | str:
    if module.running_mean is None or module.running_var is None or module.training:
        return f"{type(module).__name__} uses the statistics of the batch"
    if len(before) == 3:
        return "the maps between them have one dimension"
    factor = torch.rsqrt(module.running_var + module.eps)
    return ScaleRule(factor if module.weight is None else factor * module.weight.detach())


def _concatenation(node: fx.Node, source: fx.Node, shapes: Mapping[fx.Node, torch.Size]) -> Step | str:
    parts, dim = node.args[0], node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if not isinstance(parts, list | tuple) or dim not in (1, 1 - len(shapes[source])) or parts.count(source) != 1:
        return "they are concatenated in another dimension than the channels, or twice"
    return Concatenate(sum(shapes[part][1] for part in parts[: parts.index(source)] if isinstance(part, fx.Node)))


def _pool(node: fx.Node, what: Any, before: torch.Size, after: torch.Size) -> Step | str | None:
    """The steps that change the size of the maps."""
    if len(before) != 4:
        return None
    if isinstance(what, nn.MaxPool2d) or same_function(what, "max_pool2d"):
        window = window_of(node, what)
        many = window.reach[0] * window.reach[1] > MOST_BITS
        return "too many windows of the pool overlap" if many else MaxPoolRule(window)
    if isinstance(what, nn.AvgPool2d) or same_function(what, "avg_pool2d"):
        if window_of(node, what).overlaps:
            return "the windows of the average pool overlap"
        return AvgPoolRule(_applied(node, what))
    if isinstance(what, nn.AdaptiveAvgPool2d) or same_function(what, "adaptive_avg_pool2d"):
        if before == after:
            return Same()
        if any(a % b for a, b in zip(before[2:], after[2:], strict=True)):
            return "the windows of the average pool overlap"
        return AvgPoolRule(_applied(node, what))
    if isinstance(what, nn.AdaptiveMaxPool2d) or same_function(what, "adaptive_max_pool2d"):
        if any(a % b for a, b in zip(before[2:], after[2:], strict=True)):
            return "the windows of the max-pool overlap unevenly"
        kernel = (before[2] // after[2], before[3] // after[3])
        return MaxPoolRule(Window(kernel, kernel))
    if what in _MEANS and dimensions_of(node) == {2, 3}:
        return AvgPoolRule(lambda maps: maps.mean((2, 3), keepdim=True))
    if isinstance(what, nn.ZeroPad2d):
        left, right, top, bottom = what.padding
        return Pad((left, right, top, bottom)) if min(what.padding) >= 0 else "the maps are cropped"
    if what is functional.pad:
        return _padding(node)
    if what is operator.getitem:
        return _subsample(node.args[1])
    return None


def _padding(node: fx.Node) -> Step | str:
    given = arguments(node, functional.pad)
    amounts = list(given["pad"]) + [0] * (8 - len(given["pad"]))
    if given["mode"] != "constant" or given["value"] not in (None, 0) or min(amounts) < 0 or any(amounts[6:]):
        return "the padding is not with zeros"
    return Pad((amounts[0], amounts[1], amounts[2], amounts[3]), before=amounts[4])


def _subsample(index: Any) -> Step | str:
    whole = slice(None)
    picks = [*index, whole, whole, whole, whole][:4] if isinstance(index, tuple) else []
    if not all(isinstance(pick, slice) for pick in picks) or picks[:2] != [whole, whole]:
        return "only a part of the channels or positions is used"
    return Subsample(picks[2], picks[3])


def _applied(node: fx.Node, what: Any) -> Callable[[Tensor], Tensor]:
    """The operation as a function of its first input, with the rest of its arguments as they are."""
    if isinstance(what, nn.Module):
        return what.forward
    return lambda value: what(value, *node.args[1:], **node.kwargs)
