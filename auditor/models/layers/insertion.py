"""Blocks put after layers of a network that exists: which layers, and the exchange itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from auditor.kit.errors import SpecError, known_names
from auditor.models.classifier import Classifier
from auditor.models.neurons import Layer, list_layers


class Followed(nn.Module):
    """A layer, and the block that works on what it puts out."""

    def __init__(self, layer: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.block(self.layer(x)))


def insert(classifier: Classifier, layers: Sequence[str], make: Callable[[int], nn.Module]) -> None:
    """Put ``make(channels)`` after each of these modules of the classifier's network, in place.

    A module ``name`` becomes ``name.layer``, with ``name.block`` after it. Raises SpecError for one that is not there, that runs
    more than once, or whose output is not a map.
    """
    shapes = _shapes(classifier, layers)
    for name in layers:
        holder, _, own = name.rpartition(".")
        parent = classifier.network.get_submodule(holder)
        block = make(shapes[name][1]).train(classifier.network.training)
        setattr(parent, own, Followed(classifier.network.get_submodule(name), block))


def stage_ends(classifier: Classifier) -> tuple[str, ...]:
    """The last activation at each size of the maps (the last layer if there is none), input to output."""
    ends: dict[tuple[int, ...], Layer] = {}
    for layer in _maps(classifier):
        if layer.spatial not in ends or layer.kind == "activation" or ends[layer.spatial].kind != "activation":
            ends[layer.spatial] = layer
    return tuple(layer.name for layer in sorted(ends.values(), key=lambda layer: layer.depth))


def last_activations(classifier: Classifier, count: int) -> tuple[str, ...]:
    """The last activations of maps, at most so many, all of the same size, input to output."""
    maps = [layer for layer in _maps(classifier) if layer.kind == "activation"]
    return tuple(layer.name for layer in maps if layer.spatial == maps[-1].spatial)[-count:]


def _maps(classifier: Classifier) -> list[Layer]:
    """Layers with maps as outputs that are modules of their own and run once. Raises SpecError if there is none."""
    listed = list_layers(classifier)
    again = {re.sub("#.*", "", layer.name) for layer in listed if "#" in layer.name}
    modules = dict(classifier.network.named_modules())
    found = [layer for layer in listed if len(layer.spatial) == 2 and layer.name in modules and layer.name not in again]
    if not found:
        raise SpecError("The network has no layer with maps after which a block could be put.", "Name the layers.")
    return found


def _shapes(classifier: Classifier, layers: Sequence[str]) -> dict[str, torch.Size]:
    """The shape of each module's output, from one grey image."""
    modules = dict(classifier.network.named_modules())
    seen: dict[str, list[Any]] = {name: [] for name in layers}
    if missing := [name for name in layers if not name or name not in modules]:
        raise SpecError(f"There is no module {missing[0]!r} in the network.", known_names(missing[0], modules))
    handles = [
        modules[name].register_forward_hook(lambda _module, _inputs, output, name=name: seen[name].append(output))
        for name in layers
    ]
    image = torch.full((1, *classifier.input_shape), 0.5, device=classifier.device, dtype=classifier.dtype)
    try:
        with torch.no_grad():
            classifier(image)
    finally:
        for handle in handles:
            handle.remove()
    for name, outputs in seen.items():
        if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or outputs[0].dim() != 4:
            raise SpecError(
                f"No block can be put after {name}: it must run once and put out maps (channels x height x width).",
                "Name other layers.",
            )
    return {name: outputs[0].shape for name, outputs in seen.items()}
