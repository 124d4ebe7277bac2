"""A network that was read from an ONNX file, as a graph of steps."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from auditor.kit.errors import SpecError
from auditor.models.architecture import Architecture
from auditor.models.graph.network import INPUT, MOST_PARAMETERS, MOST_VALUES, Graph, GraphNetwork
from auditor.models.graph.steps import Activation, Conv, Flatten, GlobalPool, Linear
from auditor.models.layers.fields import shape_text

A_SMALL_GRAPH = Graph(
    steps=(
        Conv(name="conv", inputs=(INPUT,), out_channels=16, kernel_size=(3, 3), padding=(1, 1)),
        Activation(name="relu", inputs=("conv",), function="relu"),
        GlobalPool(name="pool", inputs=("relu",)),
        Flatten(name="flatten", inputs=("pool",)),
        Linear(name="fc", inputs=("flatten",), in_features=16),
    ),
    output="fc",
)


class Onnx(Architecture):
    """The network of an ONNX file: its graph as plain data, each step a layer that analyses see. Adding the file makes it."""

    kind: Literal["onnx"] = "onnx"
    title: ClassVar[str] = "ONNX"
    by_hand: ClassVar[bool] = False
    graph: Graph = Field(A_SMALL_GRAPH, description="The steps, as the converter of ONNX files writes them.")

    def build(self) -> nn.Module:
        """See Architecture.build. Raises SpecError when the steps do not give logits for images of the declared size."""
        with torch.device("meta"):
            outline = self._made()
            self._check(outline)
        return outline.train() if torch.get_default_device().type == "meta" else self._made()

    def describe(self) -> str:
        """As Capability.describe, the graph by the number of its steps: ``onnx:num_classes=10,input=3x32x32,steps=69``."""
        return f"{self.kind}:num_classes={self.num_classes},input={shape_text(self.input_shape)},steps={len(self.graph.steps)}"

    def _made(self) -> GraphNetwork:
        try:
            return GraphNetwork(self.graph.fitted(self.channels, self.num_classes))
        except (ValueError, RuntimeError, TypeError) as error:
            raise SpecError(f"onnx: the graph makes no network ({_first_line(error)}).", _AGAIN) from None

    def _check(self, network: GraphNetwork) -> None:
        """Two and three images through the network on the meta device, where nothing is computed but shapes."""
        count = sum(tensor.numel() for tensor in network.state_dict().values())
        if count > MOST_PARAMETERS:
            raise SpecError(f"onnx: the network has {count:,} weights, at most {MOST_PARAMETERS:,} are taken.")
        largest: dict[str, int] = {}

        def measure(module: nn.Module, inputs: Any, output: Tensor, name: str) -> None:
            largest[name] = output.numel()

        handles = [
            network.get_submodule(step.name).register_forward_hook(
                lambda module, inputs, output, name=step.name: measure(module, inputs, output, name)
            )
            for step in self.graph.steps
        ]
        network.eval()
        try:
            with torch.no_grad():
                shapes = [tuple(network(torch.empty(count, *self.input_shape)).shape) for count in (3, 2)]
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            size = f"{self.height}x{self.width}"
            raise SpecError(
                f"onnx: the graph cannot take {self.channels} channels of {size} pixels ({_first_line(error)}).",
                "Declare the size that the file was exported for, or export it for this one.",
            ) from None
        finally:
            for handle in handles:
                handle.remove()
        if shapes != [(3, self.num_classes), (2, self.num_classes)]:
            raise SpecError(
                f"onnx: the graph gives {shape_text(shapes[1])} for 2 images of {shape_text(self.input_shape)}, expected "
                f"2x{self.num_classes} logits.",
                _AGAIN,
            )
        if (most := max(largest.values()) // 2) > MOST_VALUES:
            name = max(largest, key=lambda item: largest[item])
            raise SpecError(f"onnx: {name} gives {most:,} values per image, at most {MOST_VALUES:,} are taken.")


_AGAIN = "Add the ONNX file anew."


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
