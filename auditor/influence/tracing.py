"""The forward pass of a network as a graph of operations, and the shape of every value in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from auditor.classifier import Classifier
from auditor.errors import EvaluationError


def traced(network: nn.Module) -> fx.Graph:
    """PyTorch's own modules are operations. Raises EvaluationError where the forward pass is no fixed graph."""
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
    """Of every tensor that depends on the image, for two images. Raises EvaluationError where the graph gives other logits."""
    images = torch.full((2, *classifier.input_shape), 0.5, device=classifier.device, dtype=classifier.dtype)
    images[1] *= torch.linspace(0, 1, images.shape[-1], device=images.device, dtype=images.dtype)
    with torch.no_grad():
        x = classifier.normalize(images)
        expected = classifier.network(x)
        run = _Shapes(classifier.network, graph)
        logits = run.run(classifier.normalize(images))
    if not torch.allclose(logits, expected, rtol=1e-3, atol=1e-5):
        raise EvaluationError(
            "The traced forward pass of the network does not give its logits, so that its graph is not known."
        )
    return run.shapes
