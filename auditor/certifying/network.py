"""A classifier as a chain of operations that bounds pass through: linear ones, and those with a linear relaxation."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from auditor.certifying.linear_maps import Convolution, LinearMap, Matrix, Nonnegative, Reshaping, Same, Scaling
from auditor.certifying.relaxations import MaxPool, Nonlinear, Rectifier
from auditor.kit.errors import EvaluationError
from auditor.kit.wording import listed
from auditor.models.classifier import Classifier
from auditor.models.likeness import probes
from auditor.models.tracing import (
    Window,
    arguments,
    function_of,
    pair,
    same_function,
    shapes_in,
    traced,
    window_of,
)

_ADD = (operator.add, operator.iadd, torch.add, Tensor.add, Tensor.add_)
_SUBTRACT = (operator.sub, operator.isub, torch.sub, Tensor.sub, Tensor.sub_)
_MULTIPLY = (operator.mul, operator.imul, torch.mul, Tensor.mul, Tensor.mul_)
_DIVIDE = (operator.truediv, operator.itruediv, torch.div, Tensor.div, Tensor.div_)
_ARITHMETIC: dict[Any, Callable[[Any, Any], Any]] = {
    spelled: function
    for function, spellings in (
        (operator.add, _ADD), (operator.sub, _SUBTRACT), (operator.mul, _MULTIPLY), (operator.truediv, _DIVIDE),
    )
    for spelled in spellings
}  # fmt: skip
_CONCATENATE = (torch.cat, torch.concat)
_MEANS = (torch.mean, Tensor.mean)
_REARRANGE = (
    torch.permute, Tensor.permute, torch.transpose, Tensor.transpose, operator.getitem, torch.flip, Tensor.flip,
    nn.ZeroPad2d,
)  # fmt: skip
_RESHAPE = (
    torch.flatten, Tensor.flatten, Tensor.view, Tensor.reshape, torch.reshape, torch.squeeze, Tensor.squeeze,
    torch.unsqueeze, Tensor.unsqueeze,
)  # fmt: skip
_SAME = (Tensor.contiguous, Tensor.clone, torch.clone, Tensor.float, Tensor.double)
_DROPOUTS = (functional.dropout, functional.dropout2d, functional.alpha_dropout, functional.feature_alpha_dropout)
_ORDER_KEPT = (functional.softmax, functional.log_softmax, torch.softmax, torch.log_softmax, Tensor.softmax)
_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "relu_", "add_", "sub_", "mul_", "div_", "leaky_relu_")


class Affine(NamedTuple):
    """The sum of a linear map of each input, and ``offset`` (1, *shape)."""

    maps: tuple[LinearMap, ...]
    offset: Tensor


@dataclass(frozen=True)
class Node:
    """``name``: of the layer in the network. ``shape``: of its value, without the batch. ``inputs``: places of earlier nodes."""

    name: str
    shape: tuple[int, ...]
    inputs: tuple[int, ...]
    operation: Affine | Nonlinear | None

    @property
    def size(self) -> int:
        return int(torch.Size(self.shape).numel())


class NotProvable(EvaluationError):
    """A network with an operation that no bound here passes through; the message names it."""


class BoundableNetwork:
    """The operations of a classifier from the image in [0, 1] (node 0) to the logits (the last node), in double precision.

    A softmax at the very end is left out, which keeps the order of the classes; ``shares`` then says that there was one.
    Raises NotProvable for an operation outside the list: convolution, linear layer, batch normalization, ReLU, leaky ReLU,
    average, max and adaptive pooling, additions and other arithmetic with constants, concatenation, and what only rearranges.
    """

    def __init__(self, classifier: Classifier) -> None:
        if classifier.random:
            raise NotProvable(
                "The network draws random numbers, and no bound here holds for a network that does.",
                "Randomized smoothing has certificates for the smoothed classifier.",
            )
        graph = traced(classifier.network)
        shapes = shapes_in(classifier, graph)
        self.device = classifier.device
        self.network = copy.deepcopy(classifier.network).double()
        constants = _constants(self.network, graph, shapes)
        normalize = classifier.normalize
        mean, std = normalize.mean.double(), normalize.std.double()
        self.nodes = [Node("image", classifier.input_shape, (), None)]
        if normalize.normalization.channel_order == "BGR":
            flip = Nonnegative(lambda x: x.flip(1), classifier.input_shape, 1)
            self._linear("channel order", (0,), (flip,), torch.zeros_like(mean[:, :1]))
        self._linear("normalization", (len(self.nodes) - 1,), (Scaling(1 / std),), -mean / std)
        self.shares = False
        self._place: dict[fx.Node, int] = {}
        reader = _Reader(self, shapes, constants)
        refused: list[str] = []
        for node in graph.nodes:
            if node.op == "placeholder" and node in shapes:
                self._place[node] = len(self.nodes) - 1
            elif node.op == "output":
                self._read_logits(node, classifier, refused)
            elif node in shapes:
                try:
                    self._place[node] = reader.add(node)
                    if reader.in_place:
                        self._place[reader.sources[0]] = self._place[node]
                except _Outside as outside:
                    refused.append(outside.said)
                    self._place[node] = len(self.nodes) - 1
        if refused:
            kinds = list(dict.fromkeys(refused))
            raise NotProvable(
                f"Not provable with this method: {listed(kinds[:4])}{f' and {len(kinds) - 4} more' * (len(kinds) > 4)}.",
                "Bounds pass through convolutions, linear layers, batch normalization, ReLU, leaky ReLU, pooling, additions "
                "and concatenations; attacks need no such list.",
            )
        self._compare(classifier)

    def __call__(self, images: Tensor) -> Tensor:
        """The logits (B, K) of images (B, C, H, W)."""
        return self.values(images)[-1]

    def values(self, images: Tensor) -> list[Tensor]:
        """The value of every node, (B, *shape)."""
        values: list[Tensor] = []
        for node in self.nodes:
            given = [values[place] for place in node.inputs]
            if node.operation is None:
                values.append(images.double())
            elif isinstance(node.operation, Affine):
                parts = [part(value) for part, value in zip(node.operation.maps, given, strict=True)]
                values.append(sum(parts[1:], parts[0]) + node.operation.offset)
            else:
                values.append(node.operation(given[0]))
        return values

    def _compare(self, classifier: Classifier) -> None:
        images = probes(classifier)[:3]
        with torch.no_grad():
            own, wanted = self(images).log_softmax(1), classifier(images).double()
            wanted = wanted.log() if self.shares else wanted.log_softmax(1)
        if not torch.allclose(own, wanted, rtol=1e-3, atol=1e-3):
            raise NotProvable(
                f"Not provable with this method: the operations read from the network give other logits than the network "
                f"itself (difference {(own - wanted).abs().max():.2g}).",
                "A network that overwrites a value which it uses again can cause this.",
            )

    @property
    def logits(self) -> int:
        """Place of the last node, whose value is (B, K)."""
        return len(self.nodes) - 1

    def place(self, node: fx.Node) -> int:
        return self._place[node]

    def add(self, node: Node) -> int:
        """Appends; returns its place."""
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _linear(self, name: str, inputs: tuple[int, ...], maps: tuple[LinearMap, ...], offset: Tensor) -> int:
        shape = maps[0](torch.zeros(1, *self.nodes[inputs[0]].shape, dtype=torch.double, device=self.device)).shape[1:]
        return self.add(Node(name, tuple(shape), inputs, Affine(maps, offset.expand(1, *shape))))

    def _read_logits(self, node: fx.Node, classifier: Classifier, refused: list[str]) -> None:
        """From what the network returns to the logits as the classifier reads them."""
        returned = fx.node.map_arg(node.args[0], lambda item: item)
        wanted = [item for item in self._place if item in _tensors(returned)]
        chosen = wanted[0] if len(wanted) == 1 else self._chosen(returned, classifier)
        if chosen is None:
            refused.append("an output that is chosen among several by its shape")
            return
        place, classes = self._place[chosen], classifier.num_classes
        if refused or (self.nodes[place].shape == (classes,) and place == self.logits):
            return
        shape, zero = self.nodes[place].shape, torch.zeros(1, classes, dtype=torch.double, device=self.device)
        entries = int(torch.Size(shape).numel())
        flat = self._linear("logits", (place,), (Reshaping(shape, (entries,)),), zero[:, :1])
        if entries == 1 and classes == 2:
            self._linear("logits (0, z)", (flat,), (Matrix(zero.new_tensor([[0.0], [1.0]])),), zero)
        elif entries != classes:
            refused.append(f"{entries} outputs for {classes} classes")

    @staticmethod
    def _chosen(returned: Any, classifier: Classifier) -> fx.Node | None:
        found = None
        if isinstance(returned, Mapping):
            found = returned.get(classifier.output or "logits")
        elif isinstance(returned, Sequence) and isinstance(classifier.output, int):
            found = returned[classifier.output]
        return found if isinstance(found, fx.Node) else None


def _tensors(returned: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(returned, found.append)
    return found


class _Outside(Exception):
    """An operation that is not in the list; ``said``: what and where."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


class _Constants(fx.Interpreter):
    """Notes the value of every node that does not depend on the image."""

    def __init__(self, module: nn.Module, graph: fx.Graph, shapes: Mapping[fx.Node, torch.Size]) -> None:
        super().__init__(module, graph=graph)
        self.shapes = shapes
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, node: fx.Node) -> Any:
        if node in self.shapes or node.op in ("placeholder", "output"):
            return None
        try:
            value = super().run_node(node)
        except Exception:  # a size of the image, say, which has no value here
            return None
        self.values[node] = value
        return value


def _constants(network: nn.Module, graph: fx.Graph, shapes: Mapping[fx.Node, torch.Size]) -> dict[fx.Node, Any]:
    run = _Constants(network, graph, shapes)
    with torch.no_grad():
        run.run(*(None for node in graph.nodes if node.op == "placeholder"))
    return run.values


class _Reader:
    """Appends what a node of the traced network does."""

    def __init__(
        self, network: BoundableNetwork, shapes: Mapping[fx.Node, torch.Size], constants: Mapping[fx.Node, Any]
    ) -> None:
        self.network, self.shapes, self.constants = network, shapes, constants

    def add(self, node: fx.Node) -> int:
        """Returns the place of the node's value. Raises _Outside."""
        what = function_of(node, self.network.network)
        self.name = str(node.target) if node.op == "call_module" else node.name
        self.kind = type(what).__name__ if isinstance(what, nn.Module) else getattr(what, "__name__", str(node.target))
        self.sources = [item for item in node.all_input_nodes if item in self.shapes]
        self.in_place = bool(getattr(what, "inplace", False) or node.kwargs.get("inplace")) or self.kind in _IN_PLACE
        self.before = tuple(self.shapes[self.sources[0]][1:])
        self.after = tuple(self.shapes[node][1:])
        if self.shapes[node][:1] != self.shapes[self.sources[0]][:1]:
            raise self._outside()
        if (nonlinear := self._nonlinear(node, what)) is not None:
            return self.network.add(Node(self.name, self.after, self._inputs(), nonlinear))
        if self._passes(node, what):
            return self.network.place(self.sources[0])
        maps, offset = self._maps(node, what)
        full = offset.double().expand(1, *self.after).to(self.network.device)
        return self.network.add(Node(self.name, self.after, self._inputs(), Affine(maps, full)))

    def _outside(self, why: str = "") -> _Outside:
        return _Outside(f"{self.kind} at {self.name}{f' ({why})' * bool(why)}")

    def _inputs(self) -> tuple[int, ...]:
        return tuple(self.network.place(source) for source in self.sources)

    def _zeros(self, shape: Sequence[int] = (1,)) -> Tensor:
        return torch.zeros(shape, dtype=torch.double, device=self.network.device)

    def _nonlinear(self, node: fx.Node, what: Any) -> Nonlinear | None:
        if isinstance(what, nn.ReLU) or what in (
            functional.relu,
            functional.relu_,
            torch.relu,
            torch.relu_,
            Tensor.relu,
            Tensor.relu_,
        ):
            return Rectifier()
        slope: Any = None
        if isinstance(what, nn.LeakyReLU):
            slope = what.negative_slope
        elif what in (functional.leaky_relu, functional.leaky_relu_):
            slope = node.kwargs.get("negative_slope", node.args[1] if len(node.args) > 1 else 0.01)
        if slope is not None:
            if not 0 <= slope < 1:
                raise self._outside(f"slope {slope:g}")
            return Rectifier(float(slope))
        if len(self.before) != 3:
            return None
        if isinstance(what, nn.MaxPool2d) or same_function(what, "max_pool2d"):
            return MaxPool(window_of(node, what))
        if isinstance(what, nn.AdaptiveMaxPool2d) or what is functional.adaptive_max_pool2d:
            if any(a % b for a, b in zip(self.before[1:], self.after[1:], strict=True)):
                raise self._outside("windows of unlike sizes")
            kernel = (self.before[1] // self.after[1], self.before[2] // self.after[2])
            return MaxPool(Window(kernel, kernel))
        return None

    def _passes(self, node: fx.Node, what: Any) -> bool:
        """Whether the value goes on as it is: at rest, or a last step that keeps the order of the classes."""
        if isinstance(what, nn.Identity) or what in _SAME:
            return True
        if isinstance(what, nn.modules.dropout._DropoutNd) or what in _DROPOUTS:
            active = what.training if isinstance(what, nn.Module) else arguments(node, what)["training"]
            if active:
                raise self._outside("active")
            return True
        if isinstance(what, nn.Softmax | nn.LogSoftmax) or what in _ORDER_KEPT:
            dim = what.dim if isinstance(what, nn.Module) else node.kwargs.get("dim", (*node.args, None, None)[1])
            if len(self.before) == 1 and dim in (1, -1) and [user.op for user in node.users] == ["output"]:
                self.network.shares = "log" not in self.kind.lower()
                return True
        return False

    def _maps(self, node: fx.Node, what: Any) -> tuple[tuple[LinearMap, ...], Tensor]:
        if isinstance(what, nn.Conv2d):
            return self._convolution(what)
        if isinstance(what, nn.Linear):
            return (Matrix(what.weight.detach()),), self._bias(what.bias)
        if isinstance(what, nn.modules.batchnorm._BatchNorm):
            return self._normalization(what)
        if what in _ARITHMETIC:
            return self._arithmetic(node, _ARITHMETIC[what])
        if what in _CONCATENATE:
            return self._concatenation(node), self._zeros()
        if isinstance(what, nn.Flatten | nn.Unflatten) or what in _RESHAPE:
            if len(self.sources) == 1 and torch.Size(self.before).numel() == torch.Size(self.after).numel():
                return (Reshaping(self.before, self.after),), self._zeros()
        elif (terms := self._averaged(node, what)) is not None:
            return (Nonnegative(self._applied(node, what), self.before, terms),), self._zeros()
        raise self._outside()

    def _bias(self, bias: Tensor | None, spatial: int = 0) -> Tensor:
        return self._zeros() if bias is None else bias.detach().view(1, -1, *[1] * spatial)

    def _convolution(self, layer: nn.Conv2d) -> tuple[tuple[LinearMap, ...], Tensor]:
        if len(self.before) != 3:
            raise self._outside("without a batch")
        padding: Any = layer.padding
        if padding == "same":
            reach = [(k - 1) * d for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
            if any(item % 2 for item in reach):
                raise self._outside("padding 'same' with an even kernel")
            padding = tuple(item // 2 for item in reach)
        padding = (0, 0) if padding == "valid" else padding
        if layer.padding_mode != "zeros" and any(padding):
            raise self._outside(f"{layer.padding_mode} padding")
        stride, dilation = pair(layer.stride), pair(layer.dilation)
        weight = layer.weight.detach()
        return (Convolution(weight, self.before, stride, pair(padding), dilation, layer.groups),), self._bias(
            layer.bias, 2
        )

    def _normalization(self, layer: nn.modules.batchnorm._BatchNorm) -> tuple[tuple[LinearMap, ...], Tensor]:
        if layer.running_mean is None or layer.running_var is None or layer.training:
            raise self._outside("statistics of the batch")
        factor = torch.rsqrt(layer.running_var + layer.eps) * (1.0 if layer.weight is None else layer.weight.detach())
        shift = (0.0 if layer.bias is None else layer.bias.detach()) - layer.running_mean * factor
        wide = (1, -1, *[1] * (len(self.before) - 1))
        return (Scaling(factor.view(wide)),), shift.view(wide)

    def _arithmetic(self, node: fx.Node, what: Callable[[Any, Any], Any]) -> tuple[tuple[LinearMap, ...], Tensor]:
        if set(node.kwargs) - {"other"} or len(node.args) + len(node.kwargs) != 2:
            raise self._outside("with further arguments")
        terms: list[Any] = [*node.args, *node.kwargs.values()]
        values = [self._value(term) for term in terms]
        depends = [isinstance(term, fx.Node) and term in self.shapes for term in terms]
        if all(depends):
            signs = {operator.add: (1, 1), operator.sub: (1, -1)}.get(what)
            alike = all(self.shapes[term][1:] == self.after for term in terms)
            if signs is None or not alike or terms[0] is terms[1]:
                raise self._outside("of two values that depend on the image" if alike else "of unlike shapes")
            self.sources = list(terms)
            return tuple(
                Same() if sign > 0 else Scaling(-torch.ones_like(self._zeros())) for sign in signs
            ), self._zeros()
        if self.before != self.after or (what is operator.truediv and depends[1]):
            raise self._outside("of unlike shapes" if self.before != self.after else "by the value")
        one, zero = (what(*[number if own else value for own, value in zip(depends, values, strict=True)]) for number in (
            torch.ones_like(self._zeros()), self._zeros()))  # fmt: skip
        return (Scaling(self._batched(one - zero)),), self._batched(zero)

    def _value(self, term: Any) -> Any:
        """A constant in double precision; None for what depends on the image."""
        value = self.constants.get(term) if isinstance(term, fx.Node) else term
        if isinstance(term, fx.Node) and term not in self.shapes and value is None:
            raise self._outside("with a value that is not known")
        return value.detach().double() if isinstance(value, Tensor) else value

    def _batched(self, constant: Tensor) -> Tensor:
        """With the dimension of the batch, and one for each of the value."""
        if constant.dim() > len(self.after) + 1 or (constant.dim() == len(self.after) + 1 and constant.shape[0] != 1):
            raise self._outside("with a constant for each image")
        return constant.view(*[1] * (len(self.after) + 1 - constant.dim()), *constant.shape)

    def _concatenation(self, node: fx.Node) -> tuple[LinearMap, ...]:
        parts: Any = node.args[0]
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        rank = len(self.after) + 1
        if not isinstance(parts, list | tuple) or not isinstance(dim, int) or dim % rank != 1:
            raise self._outside("in another dimension than the channels")
        if any(part not in self.shapes for part in parts) or len(set(parts)) != len(parts):
            raise self._outside("of a constant, or of a value twice")
        self.sources = list(parts)
        widths = [self.shapes[part][1] for part in parts]
        return tuple(
            Nonnegative(_embedding(sum(widths[:at]), sum(widths[at + 1 :]), rank), tuple(self.shapes[part][1:]), 1)
            for at, part in enumerate(parts)
        )

    def _averaged(self, node: fx.Node, what: Any) -> int | None:
        """The longest sum of an average or a rearrangement; None for something else."""
        if isinstance(what, nn.ZeroPad2d) or what in _REARRANGE:
            return 1
        if what is functional.pad:
            given = arguments(node, what)
            return 1 if given["mode"] == "constant" and given["value"] in (None, 0) else None
        if isinstance(what, nn.AvgPool2d) or same_function(what, "avg_pool2d"):
            rows, columns = window_of(node, what).kernel
            return rows * columns
        if isinstance(what, nn.AdaptiveAvgPool2d) or what is functional.adaptive_avg_pool2d or what in _MEANS:
            return int(torch.Size(self.before).numel())
        return None

    def _applied(self, node: fx.Node, what: Any) -> Callable[[Tensor], Tensor]:
        if isinstance(what, nn.Module):
            return what.forward
        if len(self.sources) != 1 or node.args[:1] != (self.sources[0],):
            raise self._outside()
        return lambda value: what(value, *node.args[1:], **node.kwargs)


def _embedding(before: int, behind: int, rank: int) -> Callable[[Tensor], Tensor]:
    """Zeros in front of, and behind, the channels of a value of that many dimensions."""
    amounts = (0, 0) * (rank - 2) + (before, behind)
    return lambda value: functional.pad(value, amounts)
