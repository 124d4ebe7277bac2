"""A penalty on the weights along the critical attacking route."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from auditor.hardening.hardening import Memory, Terms, TrainingStep
from auditor.hardening.learning.routed import PREFIX, RoutePenalized
from auditor.kit.flag import Flag
from auditor.models.classifier import Classifier
from auditor.neural.probes.intervention import layer_of
from auditor.neural.routes.routes import RouteFinder


class Link(NamedTuple):
    """A layer of the route and the one before; ``norm``: the normalization of the layer's output, if any."""

    source: str
    layer: str
    norm: str


class RouteWeight(RoutePenalized):
    """Small weights between the channels of the critical attacking route (Li et al. 2021, eq. 13-15): Vanilla_w and PAT_w.

    Adds lambda times the sum of |w[m, n]| over the channels m of each layer and n of the one before. A normalization by the
    batch undoes the scale of a filter, so the paper's form only acts through sizes within a filter and through the learning
    rate; ``fold_bn`` penalizes the weights as they act, gamma / sqrt(var + eps) w. Lambda is not given in the paper.
    """

    title: ClassVar[str] = "Route penalty, weights"
    kind: Literal["route_weight"] = "route_weight"
    penalty: float = Field(1e-5, ge=0, le=1e6, description="Lambda, the weight of the penalty.")
    fold_bn: bool = Field(False, description="Penalize weights times the factor of the normalization that follows.")

    def loss(self, step: TrainingStep) -> Terms:
        clean, _ = sides = self.sides(step)
        mixed = self.mixed(step, sides) if self.base == "pat" else _clean(step.cross_entropy(clean.logits))
        links = step.trainee.fact("links of the route", links_of)
        penalty = self._size(step.trainee.network, links, step.memory, mixed.loss)
        return Terms(mixed.loss + self.penalty * penalty, {**mixed.parts, "route weight": penalty})

    def flags(self, classifier: Classifier, memory: Memory) -> tuple[Flag, ...]:
        found = super().flags(classifier, memory)
        normed = [link.layer for link in links_of(classifier) if link.norm]
        if self.fold_bn or not normed:
            return found
        flag = Flag(
            name="undone by normalization",
            severity="warning",
            message="Batch normalization undoes the scale of the filters that the penalty shrinks.",
            evidence=f"{', '.join(normed)}: normalized right after.",
            remedy="Set fold_bn, which penalizes the effective weights.",
        )
        return (*found, flag)

    def _size(self, network: nn.Module, links: tuple[Link, ...], memory: Memory, like: Tensor) -> Tensor:
        """L_w (eq. 13); zero where no two layers of the route are connected by weights of their own."""
        total = like.new_zeros(())
        for link in links:
            weight = layer_of(network, link.layer).get_parameter("weight")
            targets, sources = (memory[PREFIX + name] for name in (link.layer, link.source))
            sizes = weight.abs().flatten(2).sum(2)[targets][:, sources].sum(1)
            if self.fold_bn and link.norm:
                sizes = sizes * norm_factor(layer_of(network, link.norm))[targets].abs()
            total = total + sizes.sum()
        return total


def links_of(classifier: Classifier) -> tuple[Link, ...]:
    """Adjacent convolutions of the route where the first's channels are the second's inputs."""
    plain, folded = RouteFinder(classifier), RouteFinder(classifier, node="bn")
    norms = dict(zip(folded.layers, folded.outputs, strict=True))
    modules = {layer: layer_of(classifier.network, layer) for layer in plain.layers}
    return tuple(
        Link(source, layer, norms.get(layer, layer) if norms.get(layer, layer) != layer else "")
        for source, layer in pairwise(plain.layers)
        if _weights_between(modules[source], modules[layer]) and "#" not in layer
    )


def norm_factor(norm: nn.Module) -> Tensor:
    """gamma / sqrt(var + eps), (C,), with a gradient by gamma."""
    assert isinstance(norm, nn.modules.batchnorm._NormBase)
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.detach().clone() + norm.eps)
    return scale if norm.weight is None else norm.weight * scale


def _weights_between(source: nn.Module, layer: nn.Module) -> bool:
    weights = (module.get_parameter("weight") for module in (source, layer))
    before, after = (weight.shape for weight in weights)
    return len(after) == 4 and after[1] == before[0]


def _clean(loss: Tensor) -> Terms:
    return Terms(loss, {"clean": loss})
