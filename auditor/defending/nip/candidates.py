"""What NIP learns from benign images (Chen et al. 2021, arXiv 2112.13060): template, similarities, inverse perturbations."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier, finite, input_gradient
from auditor.models.defended import DefendedClassifier
from auditor.models.drawing import View
from auditor.models.neurons import LayerKind, watch
from auditor.neural.influence.influence import Parts, head_influence, neuron_slopes, predicted_odds
from auditor.neural.probes.head import Head, head_of, penultimate

Similarity = Literal["index", "member"]


class ObservedLayer(NamedTuple):
    """The layer whose neurons are looked at: by name, or, where ``layer`` is empty, the input of the linear layer ``head``."""

    layer: str
    head: str

    @classmethod
    def of(cls, classifier: Classifier, layer: str) -> ObservedLayer:
        """Raises EvaluationError if the network has no such layer, or no head."""
        if layer:
            _ = _outputs(classifier, layer, torch.full((1, *classifier.input_shape), 0.5).to(classifier.normalize.mean))
            return cls(layer, "")
        return cls("", head_of(classifier).name)

    def head_in(self, classifier: Classifier) -> Head:
        return Head(self.head, cast(nn.Linear, classifier.network.get_submodule(self.head)))


class PredictedInfluence(NamedTuple):
    """Influence of a layer's neurons on the log odds of the predicted class, float64 (B, M), and that class, (B,)."""

    influence: Tensor
    predicted: Tensor


def predicted_influence(classifier: Classifier, place: ObservedLayer, x: Tensor) -> PredictedInfluence:
    """In closed form before the head, from one forward pass; elsewhere from one forward and one backward pass."""
    if place.layer:
        predicted: list[Tensor] = []

        def target(logits: Tensor) -> Tensor:
            predicted.append(finite(logits).detach().argmax(1))
            return predicted_odds(logits)

        (layer,) = neuron_slopes(classifier, x.detach(), target, {place.layer})
        return PredictedInfluence(layer.influence, predicted[0])
    head = place.head_in(classifier)
    with torch.no_grad():
        features, logits = penultimate(classifier, head, x)
    classes = finite(logits).argmax(1)
    return PredictedInfluence(head_influence(features, logits, head.weight, classes), classes)


def outputs(classifier: Classifier, place: ObservedLayer, x: Tensor) -> Tensor:
    """Spatial means of the neurons' outputs (eq. 1), (B, M), with a graph where gradients are on."""
    if place.layer:
        return _outputs(classifier, place.layer, x)
    return penultimate(classifier, place.head_in(classifier), x).features


def _outputs(classifier: Classifier, name: str, x: Tensor) -> Tensor:
    kept: list[Tensor] = []

    def keep(layer: str, kind: LayerKind, type_name: str, output: Tensor) -> None:
        if layer == name:
            kept.append(output.flatten(2).mean(2) if output.dim() > 2 else output.clone())

    with watch(classifier.network, keep):
        classifier(x)
    if not kept:
        raise EvaluationError(
            f"The network has no layer {name!r}.", "Name one that `auditor.models.neurons.list_layers` lists."
        )
    return kept[-1]


def inverse_perturbations(
    classifier: Classifier, place: ObservedLayer, x: Tensor, parts: Parts, literal_sign: bool
) -> Tensor:
    """rho (eq. 6), (B, C, H, W): the gradient by the image that raises front and lowers tail neurons.

    The paper's eq. 5 has the opposite sign, which with the sum of eq. 8 does the reverse of what its text says
    (``literal_sign``). A defense that lies behind is passed as an adaptive attacker would.
    """
    if isinstance(classifier, DefendedClassifier):
        classifier = classifier.seen(View(adaptive=True, draws=1))
    points = x.detach().requires_grad_()
    with torch.enable_grad():
        values = outputs(classifier, place, points)
        total = (values.gather(1, parts.front).sum() - values.gather(1, parts.tail).sum()) * (-1 if literal_sign else 1)
        return input_gradient(total, points)


def normalized(rho: Tensor) -> Tensor:
    """rho / (max rho - min rho) of each image (eq. 8); zero where rho is constant."""
    flat = rho.flatten(1)
    spread = flat.amax(1) - flat.amin(1)
    return torch.where(spread > 0, 1 / spread, 0.0).view(-1, *[1] * (rho.dim() - 1)).to(rho) * rho


def similarity(remaining: Tensor, template: Tensor, neurons: int, mode: Similarity) -> Tensor:
    """delta (eq. 4), float64 (B,): cosine of the remaining neurons of each image and the template.

    ``remaining``: indices (B, r) in the order of influence. ``template``: indices (m,), ascending. ``index``: the vectors hold
    the indices themselves, counted from 0, the shorter one followed by zeros, as the paper has it. ``member``: they hold 1
    where a neuron belongs, else 0.
    """
    if mode == "member":
        belongs = torch.zeros(neurons, dtype=torch.float64, device=remaining.device)
        belongs[template] = 1
        return belongs[remaining].sum(1) / (remaining.shape[1] * len(template)) ** 0.5
    length = max(remaining.shape[1], len(template))
    mine = nn.functional.pad(remaining.double(), (0, length - remaining.shape[1]))
    other = nn.functional.pad(template.double(), (0, length - len(template)))
    return mine @ other / (mine.norm(dim=1) * other.norm()).clamp_min(1e-12)


def nearest_candidates(delta: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Places of the ``count`` candidates whose similarity is nearest, (B, count), nearest first; ties by the lower place.

    ``delta``: (B,). ``candidates``: (t,).
    """
    gap = (delta[:, None] - candidates).abs()
    if count == 1:
        index = torch.arange(len(candidates), device=gap.device)
        return torch.where(gap == gap.amin(1, keepdim=True), index, len(candidates)).amin(1, keepdim=True)
    return gap.sort(dim=1, stable=True).indices[:, :count]
