"""Interventions on the channels of a network while it runs: transplanted from another pass, silenced, or weakly connected.

A mask says which channels are meant: bool (M,) or (1, M) for every image alike, (B, M) for each image its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier
from auditor.models.neurons import LayerKind, altered, watch


class Connections(NamedTuple):
    """Connections between two layers: from the channels ``sources`` of the layer before to the channels ``targets``, as masks."""

    sources: Tensor
    targets: Tensor


def record(classifier: Classifier, x: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    """The outputs of some layers for images (B, C, H, W), by name: (B, M, ...), in the order of execution."""
    features: dict[str, Tensor] = {}

    def keep(name: str, kind: LayerKind, type_name: str, output: Tensor) -> None:
        if name in layers:
            features[name] = output.clone()  # the next layer may work in place

    with torch.no_grad(), watch(classifier.network, keep):
        classifier(x)
    return features


def transplanted(
    network: nn.Module, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> AbstractContextManager[None]:
    """While inside, the masked channels of each layer are overwritten by those of ``features`` (Li et al. 2021, section 4.2.2).

    Layers are overwritten in the order of execution, so what one changes reaches the next, which is overwritten in turn.
    """

    def graft(source: Tensor, mask: Tensor) -> Any:
        return lambda output: torch.where(_spread(mask, output), source, output)

    return altered(network, {name: graft(features[name], mask) for name, mask in masks.items()})


def silenced(network: nn.Module, masks: Mapping[str, Tensor]) -> AbstractContextManager[None]:
    """While inside, the masked channels of each layer put out zero."""

    def silence(mask: Tensor) -> Any:
        return lambda output: output.masked_fill(_spread(mask, output), 0)

    return altered(network, {name: silence(mask) for name, mask in masks.items()})


@contextmanager
def weakened(network: nn.Module, connections: Mapping[str, Connections], beta: float) -> Iterator[None]:
    """While inside, the weights of the given connections into each layer count ``beta`` times: w[m, n] *= beta.

    A convolution or linear layer is f(x) = W x + b, so the connections from sources S contribute f(x S) - f(0), of which
    1 - beta is taken away at the targets. No weight is touched, and every image may have its own connections.
    """
    with ExitStack() as stack:
        for name, chosen in connections.items():
            stack.callback(layer_of(network, name).register_forward_hook(_Weaken(chosen, beta)).remove)
        yield


class _Weaken:
    def __init__(self, connections: Connections, beta: float) -> None:
        self.connections, self.beta = connections, beta

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x, axis = inputs[0], -1 if isinstance(layer, nn.Linear) else 1
        sources = self.connections.sources
        sources = sources.repeat_interleave(
            x.shape[axis] // sources.shape[-1], -1
        )  # flattened maps: channel by channel
        part = layer.forward(_spread(sources, x, axis) * x) - layer.forward(torch.zeros_like(x[:1]))
        return output - (1 - self.beta) * part * _spread(self.connections.targets, output, axis)


def connects(network: nn.Module, layer: str, before: int) -> bool:
    """Whether a layer's inputs are ``before`` channels: as many input channels, or a flattened map of them."""
    if "#" in layer:  # one module, run more than once: its weights belong to several layers
        return False
    module = layer_of(network, layer)
    if isinstance(module, nn.Linear):
        return module.in_features % before == 0
    return isinstance(module, nn.modules.conv._ConvNd) and module.in_channels == before


def filter_norms(network: nn.Module, layer: str) -> Tensor:
    """L1 norm of the weights of each channel's filter, float64 (M,)."""
    weight = getattr(layer_of(network, layer), "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2:
        raise EvaluationError(f"Layer {layer} has no filters, one for each channel.")
    return weight.detach().double().abs().flatten(1).sum(1)


def layer_of(network: nn.Module, layer: str) -> nn.Module:
    """The module that runs as the layer of this name (see ``auditor.models.neurons``)."""
    modules = dict(network.named_modules())
    name = layer.split("#")[0]
    if name in modules:
        return modules[name]
    if name == type(network).__name__.lower():
        return network
    raise EvaluationError(f"Layer {layer} is no module of the network, so it has no weights of its own.")


def _spread(mask: Tensor, like: Tensor, axis: int = 1) -> Tensor:
    """A mask of channels, (M,) or (B, M), in a shape that fits ``like``, whose channels are at ``axis``."""
    rows = mask.view(-1, mask.shape[-1])
    shape = [1] * like.dim()
    shape[0], shape[axis] = rows.shape
    return rows.view(shape)
