"""What the layers of a network put out, and how the loss or a logit changes with it, from one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from auditor.models.classifier import Classifier, finite
from auditor.models.neurons import LayerKind, watch


class Slope(NamedTuple):
    """A layer's ``output`` and the ``gradient`` of a number by it, both (B, M, ...), neurons first."""

    output: Tensor
    gradient: Tensor


class Slopes(NamedTuple):
    """``layers`` by name. ``logits``: (B, K)."""

    layers: Mapping[str, Slope]
    logits: Tensor

    def of(self, layer: str) -> Slope:
        return self.layers[layer]


def layer_gradients(classifier: Classifier, x: Tensor, labels: Tensor, layers: Collection[str]) -> Slopes:
    """Gradient of each image's cross-entropy with its label by the outputs of some layers, dL/dZ_l, in float64.

    dL/dlogits = (1 - p) (q - e): p of the label, q the softmax over the other classes, e the label's unit vector. The first
    factor comes in at the end, in float64, since for a confident image float32 would lose it.
    """
    doubt: list[Tensor] = []

    def direction(logits: Tensor) -> Tensor:
        own, others = _own_and_others(logits.detach(), labels)
        doubt.append((others.logsumexp(1) - own).sigmoid())
        return (logits * others.softmax(1).scatter(1, labels[:, None], -1.0).to(logits.dtype)).sum()

    found = slopes(classifier, x, direction, layers)
    scaled = {
        name: Slope(output, gradient.double() * doubt[0].view(-1, *[1] * (gradient.dim() - 1)))
        for name, (output, gradient) in found.layers.items()
    }
    return Slopes(scaled, found.logits)


def fine_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of the label, float64 (B,), as log(1 + sum over others of exp(z - z_label)).

    The usual form rounds p to 1 for a confident image, whose loss becomes zero.
    """
    own, others = _own_and_others(logits, labels)
    return softplus(others.logsumexp(1) - own, threshold=40)


def slopes(classifier: Classifier, x: Tensor, objective: Callable[[Tensor], Tensor], layers: Collection[str]) -> Slopes:
    """Gradient of ``objective`` (logits (B, K) to a number, a sum over images) by the outputs of the layers named.

    Zero where the network lets no gradient through. One forward and one backward pass; nothing keeps a graph.
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str, kind: LayerKind, type_name: str, output: Tensor) -> Tensor | None:
        if name not in layers:
            return None
        kept[name] = output if output.requires_grad else output.detach().requires_grad_()
        return kept[name].clone()  # the next layer may work in place

    points = x.detach().to(classifier.dtype).requires_grad_()
    with torch.enable_grad(), watch(classifier.network, keep):
        logits = finite(classifier(points))
        total = objective(logits)
        outputs = list(kept.values())
    blocked = (None,) * len(outputs)
    gradients = torch.autograd.grad(total, outputs, allow_unused=True) if total.requires_grad else blocked
    found = {
        name: Slope(output.detach(), torch.zeros_like(output) if gradient is None else gradient)
        for (name, output), gradient in zip(kept.items(), gradients, strict=True)
    }
    return Slopes(found, logits.detach())


def _own_and_others(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logit of the label (B,) and all logits with that one at minus infinity (B, K), in float64."""
    fine = logits.double()
    return fine.gather(1, labels[:, None]).squeeze(1), fine.scatter(1, labels[:, None], -torch.inf)
