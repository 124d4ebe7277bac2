"""The head of a network: its last linear layer, what goes into it, and the logits that come out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier


class Head(NamedTuple):
    """The last linear layer of a network. ``weight``: (classes, M). ``bias``: (classes,)."""

    name: str
    layer: nn.Linear

    @property
    def weight(self) -> Tensor:
        return self.layer.weight

    @property
    def bias(self) -> Tensor:
        return self.layer.weight.new_zeros(self.layer.out_features) if self.layer.bias is None else self.layer.bias


class Penultimate(NamedTuple):
    """What goes into the head, (B, M), and the logits, (B, classes)."""

    features: Tensor
    logits: Tensor


def head_of(classifier: Classifier) -> Head:
    """The linear layer whose output is the logits. Raises EvaluationError if the network ends in anything else."""
    seen: list[tuple[str, nn.Linear, Tensor, Tensor]] = []
    handles = [
        module.register_forward_hook(
            lambda layer, inputs, output, name=name: seen.append(
                (name, layer, inputs[0].detach(), output.detach().clone())
            )
        )
        for name, module in classifier.network.named_modules()
        if isinstance(module, nn.Linear)
    ]
    image = torch.full((1, *classifier.input_shape), 0.5, device=classifier.device, dtype=classifier.dtype)
    try:
        with torch.no_grad():
            logits = classifier(image)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise EvaluationError("The network has no linear layer, so there are no features before the logits.")
    name, layer, features, output = seen[-1]
    if features.dim() != 2 or output.shape != logits.shape or not torch.equal(output, logits):
        raise EvaluationError(
            f"The network does not end in a linear layer on one vector per image: the output of {name} is not the logits."
        )
    return Head(name, layer)


def penultimate(classifier: Classifier, head: Head, x: Tensor) -> Penultimate:
    """One pass over ``x`` (B, C, H, W); differentiable where gradients are on."""
    kept: list[Tensor] = []
    handle = head.layer.register_forward_pre_hook(lambda _layer, inputs: kept.append(inputs[0]))
    try:
        logits = classifier(x)
    finally:
        handle.remove()
    return Penultimate(kept[-1], logits)
