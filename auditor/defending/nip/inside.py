"""NeuronPool: candidates that change a layer's neurons instead of the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from auditor.defending.nip.candidates import ObservedLayer
from auditor.defending.nip.pool import CandidateDefense
from auditor.models.classifier import Classifier
from auditor.models.defended import Passing
from auditor.models.neurons import altered
from auditor.neural.influence.influence import Parts


class NeuronPool(CandidateDefense):
    """Candidates v, 1 on front neurons and -1 on tail neurons: the layer's output h becomes h + mean(h) v / (max v - min v)."""

    def candidate(self, classifier: Classifier, place: ObservedLayer, x: Tensor, parts: Parts, neurons: int) -> Tensor:
        signs = torch.zeros(len(x), neurons, device=x.device)
        return signs.scatter(1, parts.front, 1.0).scatter(1, parts.tail, -1.0)

    def answer(self, inner: Classifier, x: Tensor, passing: Passing, candidate: Tensor) -> Tensor:
        spread = (candidate.amax(1, keepdim=True) - candidate.amin(1, keepdim=True)).clamp_min(1)

        def change(output: Tensor) -> Tensor:
            size = output.flatten(1).mean(1, keepdim=True)
            return output + (size * candidate / spread).view(*output.shape[:2], *[1] * (output.dim() - 2))

        place = self.place(passing)
        if place.layer:
            with altered(inner.network, {place.layer: change}):
                return inner(x)

        def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (change(inputs[0]),)

        handle = place.head_in(inner).layer.register_forward_pre_hook(before)
        try:
            return inner(x)
        finally:
            handle.remove()
