"""A feed-forward network written as a list of layers."""

from __future__ import annotations

from collections import OrderedDict
from itertools import accumulate, groupby
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import nn

from auditor.kit.errors import SpecError
from auditor.models.architecture import Architecture
from auditor.models.layers.fields import Shape, shape_text
from auditor.models.layers.notation import MAX_TEXT, parse_layers
from auditor.models.layers.specs import (
    AdaptiveAvgPool,
    AnyLayer,
    BatchNorm,
    Conv,
    Flatten,
    LayerSpec,
    Linear,
    MaxPool,
    Relu,
)

MAX_LAYERS = 200
MAX_PARAMETERS = 200_000_000
"""800 MB of float32 weights; VGG-19 in its ImageNet form has 144 million."""

MAX_VALUES = 100_000_000
"""Values that one layer may give for one image: 400 MB of float32."""


def _not_empty(layers: tuple[AnyLayer, ...]) -> tuple[AnyLayer, ...]:
    if not layers:
        raise ValueError("expected at least one layer, got none")
    return layers


Layers = Annotated[
    tuple[AnyLayer, ...],
    Field(max_length=MAX_LAYERS),
    AfterValidator(_not_empty),
    BeforeValidator(
        lambda value: parse_layers(value) if isinstance(value, str) else value,
        json_schema_input_type=Annotated[str, Field(max_length=MAX_TEXT)] | tuple[AnyLayer, ...],
    ),
]

A_SMALL_NETWORK: tuple[AnyLayer, ...] = (
    Conv(out_channels=32, kernel_size=(3, 3), padding=(1, 1)),
    BatchNorm(),
    Relu(),
    MaxPool(kernel_size=(2, 2)),
    Conv(out_channels=64, kernel_size=(3, 3), padding=(1, 1)),
    BatchNorm(),
    Relu(),
    AdaptiveAvgPool(),
    Flatten(),
    Linear(),
)


class Sequential(Architecture):
    """A list of layers, one after another, as data or in PyTorch's notation: nn.Sequential(nn.Conv2d(3, 16, 4), ...).

    Text is read, never run. Tensors are named as nn.Sequential names them, by the layer's place in the list
    (``0.weight``, ``2.weight``), or by the layer's name where it has one (``conv1.weight``). Channels and features
    that come in follow from the layer before.
    """

    kind: Literal["sequential"] = "sequential"
    title: ClassVar[str] = "Layer list"
    layers: Layers = Field(
        A_SMALL_NETWORK,
        description="The layers: a JSON list, nn.Sequential(...) as in PyTorch code, or what print(model) shows.",
    )

    def build(self) -> nn.Module:
        """See Architecture.build. Raises SpecError with the number of the layer, the shape there and what is wrong."""
        steps = self._trace()
        return _nested([(name.split("."), spec.make(shape)) for name, spec, shape in steps])

    def describe(self) -> str:
        """As Capability.describe, the layers by their types: ``layers=conv+relu+flatten+linear``."""
        types = "+".join(layer.type for layer in self.layers)
        return f"{self.kind}:num_classes={self.num_classes},input={shape_text(self.input_shape)},layers={types}"

    def _trace(self) -> list[tuple[str, LayerSpec, Shape]]:
        """Name, spec and input shape of each layer; nothing is allocated, PyTorch only works out the shapes."""
        steps: list[tuple[str, LayerSpec, Shape]] = []
        shape: Shape = self.input_shape
        parameters = 0
        for number, spec in enumerate(self.layers):
            if isinstance(spec, Linear) and spec.out_features is None:
                spec = spec.model_copy(update={"out_features": self.num_classes})
            name = self._name(number, spec, [name for name, _, _ in steps])
            steps.append((name, spec, shape))
            try:
                with torch.device("meta"), torch.no_grad():
                    module = spec.make(shape).eval()
                    after = tuple(module(torch.empty(1, *shape)).shape[1:])
            except (ValueError, RuntimeError, IndexError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
                raise self._wrong(number, spec, shape, reason) from None
            parameters += sum(tensor.numel() for tensor in module.state_dict().values())
            if parameters > MAX_PARAMETERS:
                raise self._wrong(
                    number,
                    spec,
                    shape,
                    f"the network has {parameters:,} weights up to here, at most {MAX_PARAMETERS:,}",
                )
            values = torch.Size(after).numel()
            if values > MAX_VALUES:
                raise self._wrong(number, spec, shape, f"it gives {values:,} values per image, at most {MAX_VALUES:,}")
            shape = after
        if shape != (self.num_classes,):
            last = len(self.layers) - 1
            reason = f"it gives {shape_text(shape)}, but the last layer must give {self.num_classes} logits"
            raise self._wrong(last, self.layers[last], steps[last][2], reason, self._ending(shape))
        return steps

    def _name(self, number: int, spec: LayerSpec, taken: list[str]) -> str:
        name = spec.name or str(number)
        inside = [other for other in taken if other.startswith(f"{name}.") or name.startswith(f"{other}.")]
        if name in taken or inside:
            what = f"an earlier layer is named {(inside or [name])[0]!r}"
            raise SpecError(
                f"sequential: layer {number} ({spec.type}): {what}{'' if inside else ' too'}.", "Choose another name."
            )
        for part in name.split("."):
            if hasattr(nn.Sequential, part) or hasattr(nn.Sequential(), part):
                raise SpecError(
                    f"sequential: layer {number} ({spec.type}): PyTorch keeps the name {part!r} for itself.",
                    "Choose another name.",
                )
        for group in accumulate(name.split(".")[:-1], lambda above, part: f"{above}.{part}"):
            if any(other.startswith(f"{group}.") for other in taken) and not taken[-1].startswith(f"{group}."):
                raise SpecError(
                    f"sequential: layer {number} ({spec.type}): the layers of {group!r} must follow one another.",
                    "Name it otherwise, or put it next to the others.",
                )
        return name

    def _ending(self, shape: Shape) -> str:
        """What to do where the last layer gives ``shape`` instead of one logit for each class."""
        features = torch.Size(shape).numel()
        layers = f"{'nn.Flatten(), ' * (len(shape) > 1)}nn.Linear({features}, {self.num_classes})"
        missing = f"the layers that are missing at the end, such as {layers}."
        if len(shape) > 1 or features == 1:
            return f"Add {missing}"
        declared = f"declare them: num_classes={features} (--num-classes {features})"
        return f"If the model has {features} classes, {declared}; otherwise add {missing}"

    @staticmethod
    def _wrong(number: int, spec: LayerSpec, shape: Shape, reason: str, remedy: str = "") -> SpecError:
        if not remedy and (number == 0 or isinstance(spec, Linear)):
            remedy = "Images are declared by channels, height and width (--input 1x28x28)."
        return SpecError(
            f"sequential: layer {number} ({spec.type}), where {shape_text(shape)} comes in: {reason}.", remedy
        )


def _nested(layers: list[tuple[list[str], nn.Module]]) -> nn.Sequential:
    """The layers one after another, those with a dotted name in a Sequential for each of its parts."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for head, group in groupby(layers, key=lambda layer: layer[0][0]):
        inside = list(group)
        parts[head] = (
            inside[0][1] if len(inside[0][0]) == 1 else _nested([(path[1:], module) for path, module in inside])
        )
    return nn.Sequential(parts)
