"""The forward pass of a network as a graph of operations: the shape of every value in it, and what each operation is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier
from auditor.models.likeness import probes, stands_in

IntPair = tuple[int, int]


def traced(network: nn.Module) -> fx.Graph:
    """PyTorch's own modules are operations. Raises EvaluationError if the forward pass is no fixed graph."""
    try:
        return fx.Tracer().trace(network)
    except Exception as error:  # tracing runs the network's own code, which may fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise EvaluationError(
            f"The forward pass of the network cannot be traced: {reason}.",
            "A forward pass that depends on the values or sizes it meets has no fixed graph of layers.",
        ) from error


class _Shapes(fx.Interpreter):
    """Runs the traced network and notes the shape of every tensor that depends on the image, () for a tuple of tensors."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if node.op == "placeholder" or any(item in self.shapes for item in node.all_input_nodes):
            if isinstance(value, Tensor):
                self.shapes[node] = value.shape
            elif isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
                self.shapes[node] = torch.Size()
        return value


def shapes_in(classifier: Classifier, graph: fx.Graph) -> Mapping[fx.Node, torch.Size]:
    """Of every tensor that depends on the image, for two images.

    Raises EvaluationError if the graph gives other logits, or other gradients: a trace forgets hand-written backwards.
    """

    def by_graph(images: Tensor) -> Tensor:
        return classifier.read(fx.Interpreter(classifier.network, graph=graph).run(classifier.normalize(images)))

    if not stands_in(by_graph, classifier, probes(classifier), proven=False):
        raise EvaluationError(
            "The traced forward pass of the network does not give its logits and its gradients, so its graph is not known.",
            "A network that draws random numbers, or has a hand-written autograd function or a hook, cannot be traced; the "
            "analyses of importance and sensitivity need no trace.",
        )
    run = _Shapes(classifier.network, graph)
    with torch.no_grad():
        run.run(classifier.normalize(probes(classifier)[:2]))
    return run.shapes


def function_of(node: fx.Node, network: nn.Module) -> Any:
    """What a node calls: a module, or a function (a method as Tensor has it)."""
    if node.op == "call_module":
        return network.get_submodule(str(node.target))
    return getattr(Tensor, str(node.target), None) if node.op == "call_method" else node.target


class Window(NamedTuple):
    """The windows of a pool: (rows, columns) each."""

    kernel: IntPair
    stride: IntPair
    padding: IntPair = (0, 0)
    dilation: IntPair = (1, 1)
    ceil_mode: bool = False

    @property
    def reach(self) -> IntPair:
        """How many windows at most hold one position, by rows and columns; (1, 1) where windows do not overlap."""
        rows, columns = ((k - 1) * d // s + 1 for k, s, d in zip(self.kernel, self.stride, self.dilation, strict=True))
        return rows, columns

    @property
    def overlaps(self) -> bool:
        return self.reach != (1, 1)

    def first(self, axis: int, positions: Tensor) -> Tensor:
        """Index of the first window that can hold a position; below 0 where that one lies outside the map."""
        spread = (self.kernel[axis] - 1) * self.dilation[axis]
        return -((spread - positions - self.padding[axis]) // self.stride[axis])

    def winners(self, maps: Tensor) -> Tensor:
        """Flat index of the largest entry of each window, (B, C, windows)."""
        indices = functional.max_pool2d(
            maps, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode, return_indices=True
        )[1]
        return indices.flatten(2)


def window_of(node: fx.Node, what: Any) -> Window:
    """The windows of a max- or average pool, module or function, with PyTorch's defaults."""
    if isinstance(what, nn.Module):
        values = vars(what)
    else:
        positional = ["input", "kernel_size", "stride", "padding"]
        positional += ["dilation", "ceil_mode"] if same_function(what, "max_pool2d") else ["ceil_mode"]
        values = dict(zip(positional, node.args, strict=False)) | dict(node.kwargs)
    kernel = pair(values["kernel_size"])
    return Window(
        kernel,
        pair(values["stride"]) if values.get("stride") not in (None, [], ()) else kernel,
        pair(values.get("padding", 0)),
        pair(values.get("dilation", 1)),
        bool(values.get("ceil_mode", False)),
    )


def pair(value: Any) -> IntPair:
    """(rows, columns) of a size that may be one number for both."""
    return (int(value[0]), int(value[-1])) if isinstance(value, list | tuple) else (int(value), int(value))


def same_function(what: Any, name: str) -> bool:
    """Whether a function is PyTorch's of that name, in functional or in torch itself (they may be different objects)."""
    return what is not None and what in (getattr(functional, name), getattr(torch, name, None))


def dimensions_of(node: fx.Node) -> set[int]:
    """The dimensions of a map (B, C, H, W) over which a mean goes."""
    dim: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
    return {int(item) % 4 for item in (dim if isinstance(dim, list | tuple) else [dim])}


def arguments(node: fx.Node, function: Callable[..., Any]) -> dict[str, Any]:
    """What a node gives the function it calls, by name, defaults included."""
    given = inspect.signature(function).bind(*node.args, **node.kwargs)
    given.apply_defaults()
    return given.arguments
