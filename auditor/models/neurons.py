"""Layers and neurons: which there are, what they are called, and their outputs, seen by hooks that come off again.

A neuron is one channel of a layer's output (one unit of a linear layer). A layer is one *call*: a module that the network
uses twice gives two layers, ``relu`` and ``relu#2``, and an activation that the network calls as a function is named
after the module that calls it, ``branch1.relu()``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from auditor.models.classifier import Classifier

LayerKind = Literal["conv", "linear", "norm", "activation"]

KIND_TITLES: dict[LayerKind, str] = {
    "conv": "convolutions",
    "norm": "normalizations",
    "activation": "activations",
    "linear": "linear layers",
}

_MODULES: dict[LayerKind, tuple[type[nn.Module], ...]] = {
    "conv": (nn.modules.conv._ConvNd,),
    "linear": (nn.Linear,),
    "norm": (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm),
    "activation": (
        nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
        nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Hardshrink, nn.Softshrink, nn.Sigmoid, nn.LogSigmoid, nn.Tanh,
        nn.Tanhshrink, nn.Softplus, nn.Softsign, nn.Threshold,
    ),
}  # fmt: skip

_FUNCTIONS: dict[Any, str] = {
    function: name
    for name, functions in {
        "relu": (functional.relu, functional.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
        "relu6": (functional.relu6,),
        "leaky_relu": (functional.leaky_relu, functional.leaky_relu_),
        "elu": (functional.elu, functional.elu_),
        "gelu": (functional.gelu,),
        "silu": (functional.silu,),
        "mish": (functional.mish,),
        "hardswish": (functional.hardswish,),
        "hardsigmoid": (functional.hardsigmoid,),
        "hardtanh": (functional.hardtanh, functional.hardtanh_),
        "sigmoid": (functional.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_),
        "tanh": (functional.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_),
        "softplus": (functional.softplus,),
    }.items()
    for function in functions
}


class Layer(NamedTuple):
    """One layer as it runs: its place in the order of execution (from 1), name, kind, type, neurons and map size.

    ``spatial`` is the shape of one neuron's output: (H, W) for a convolution, () for a linear layer on a vector, (T,) for
    one on T tokens.
    """

    depth: int
    name: str
    kind: LayerKind
    type: str
    neurons: int
    spatial: tuple[int, ...]


OnOutput = Callable[[str, LayerKind, str, Tensor], Tensor | None]
"""Called with a layer's name, kind, type and output, neurons first: shape (B, neurons, ...). Must not keep it or write to it:
the next layer may work in place. What it returns, if anything, takes the output's place."""


@contextmanager
def watch(network: nn.Module, on_output: OnOutput) -> Iterator[None]:
    """While inside, every layer's output is handed to ``on_output`` in the order of execution, once per call."""
    watcher = _Watcher(network, on_output)
    with ExitStack() as stack:
        for name, module in network.named_modules():
            for handle in watcher.hook(name, module):
                stack.callback(handle.remove)
        stack.enter_context(watcher)
        yield


@contextmanager
def altered(network: nn.Module, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """While inside, the outputs of the layers named are replaced: each function gets (B, neurons, ...) and returns as much."""

    def change(name: str, kind: LayerKind, type_name: str, output: Tensor) -> Tensor | None:
        return changes[name](output) if name in changes else None

    with watch(network, change):
        yield


def list_layers(classifier: Classifier) -> list[Layer]:
    """Every conv, linear, normalization and activation layer, nested ones too, in the order of execution.

    Found by running one grey image, so only layers that take part are listed.
    """
    found: list[Layer] = []

    def note(name: str, kind: LayerKind, type_name: str, output: Tensor) -> None:
        found.append(Layer(len(found) + 1, name, kind, type_name, output.shape[1], tuple(output.shape[2:])))

    image = torch.full((1, *classifier.input_shape), 0.5, device=classifier.device, dtype=classifier.dtype)
    with torch.no_grad(), watch(classifier.network, note):
        classifier(image)
    return found


def kind_of(module: nn.Module) -> LayerKind | None:
    """What kind of layer a module is, None for containers, pools and the rest."""
    return next((kind for kind, types in _MODULES.items() if isinstance(module, types)), None)


def is_activation(function: Any) -> bool:
    """Whether a function, a method of Tensor or one of torch or torch.nn.functional, is an elementwise activation."""
    return function in _FUNCTIONS


class CustomFunctions:
    """The hand-written ``autograd.Function`` classes that there are.

    What one of them computes inside has no gradient of its own, whatever its backward is, and cannot be exchanged for something
    that has.
    """

    def __init__(self) -> None:
        forwards = [item.forward for item in _subclasses(torch.autograd.Function)]
        self.forwards = {forward.__code__ for forward in forwards if hasattr(forward, "__code__")}

    def running(self) -> bool:
        """Whether the caller is called by the forward of one of them."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code not in self.forwards:
            frame = frame.f_back
        return frame is not None


def _subclasses(of: Any) -> Iterator[Any]:
    for item in of.__subclasses__():
        yield item
        yield from _subclasses(item)


class _Watcher(TorchFunctionMode):
    """Sees modules by hooks and activations called as functions by a function mode.

    What a hand-written ``autograd.Function`` does inside is not a layer: see ``CustomFunctions``.
    """

    def __init__(self, network: nn.Module, on_output: OnOutput) -> None:
        super().__init__()
        self.network, self.on_output, self.custom = network, on_output, CustomFunctions()
        self.calls: Counter[str] = Counter()
        self.inside: list[tuple[str, nn.Module]] = []
        self.axes: dict[torch.Size, int] = {}

    def hook(self, name: str, module: nn.Module) -> Iterator[torch.utils.hooks.RemovableHandle]:
        def enter(_module: nn.Module, _inputs: Any) -> None:
            if module is self.network:
                self.calls.clear()
                self.inside.clear()
            self.inside.append((name, module))

        def leave(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
            self.inside.pop()
            kind = kind_of(module)
            if kind is None or not isinstance(output, Tensor) or self.custom.running():
                return None
            return self._report(name or type(module).__name__.lower(), kind, module, output)

        yield module.register_forward_pre_hook(enter)
        yield module.register_forward_hook(leave)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        function = _FUNCTIONS.get(func)
        if function is not None and self.inside and isinstance(output, Tensor) and not self.custom.running():
            name, module = self.inside[-1]
            if kind_of(module) is None:
                return self._report(f"{name}.{function}()".removeprefix("."), "activation", function, output)
        return output

    def _report(self, name: str, kind: LayerKind, what: nn.Module | str, output: Tensor) -> Tensor:
        """The output, or what the listener puts in its place."""
        self.calls[name] += 1
        if self.calls[name] > 1:
            name = f"{name}#{self.calls[name]}"
        axis = self._axis(kind, what, output)
        self.axes[output.shape] = axis
        type_name = what if isinstance(what, str) else type(what).__name__
        instead = self.on_output(name, kind, type_name, output.movedim(axis, 1))
        return output if instead is None else instead.movedim(1, axis)

    def _axis(self, kind: LayerKind, what: nn.Module | str, output: Tensor) -> int:
        """Which dimension of the output counts the neurons."""
        if kind == "linear" or output.dim() < 3:
            return output.dim() - 1
        if kind == "activation":
            # An activation keeps the shape of what it follows, so it keeps its neuron axis too.
            return self.axes.get(output.shape, 2 if output.dim() == 3 else 1)
        over_last = isinstance(what, nn.LayerNorm | nn.RMSNorm) and len(what.normalized_shape) == 1
        # torchvision's LayerNorm2d normalizes the last dimension of a permuted map and permutes it back.
        return output.dim() - 1 if over_last and type(what).__name__ != "LayerNorm2d" else 1
