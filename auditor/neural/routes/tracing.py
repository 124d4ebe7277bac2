"""The forward pass of a network as a graph of operations, and the shape of every value in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier
from auditor.models.likeness import probes, stands_in


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
