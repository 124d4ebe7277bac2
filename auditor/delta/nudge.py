"""A network with one neuron's output moved by a number, uniformly over its map: predictions, first-order estimates, scales."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from auditor.analysis import Pairs
from auditor.classifier import Classifier, finite
from auditor.errors import EvaluationError
from auditor.neurons import Layer, LayerKind, altered, list_layers, watch
from auditor.statistics.moments import Moments

RUNNERS_UP = 10
"""Classes that the first-order estimate looks at: those with the highest logits after the predicted one."""


def in_float64(classifier: Classifier) -> Classifier:
    """A copy whose rounding is far below any margin of interest. Raises EvaluationError where it does not run."""
    exact = copy.deepcopy(classifier).double()
    image = torch.full((1, *classifier.input_shape), 0.5, device=exact.device, dtype=torch.float64)
    try:
        exact.logits(image)
    except (RuntimeError, TypeError) as error:
        raise EvaluationError(
            f"The network does not run in float64, which the search for a boundary needs: {error}"
        ) from None
    return exact


def before_each_change_of_size(classifier: Classifier, most: int) -> list[Layer]:
    """The last activation at each size of map (the one before a pool or a new stage), at most so many, evenly spaced.

    A network without activations gives its other layers but the last.
    """
    layers = list_layers(classifier)
    chosen = [layer for layer in layers if layer.kind == "activation"] or layers[:-1]
    last = list({layer.spatial: layer for layer in chosen}.values())
    last.sort(key=lambda layer: layer.depth)
    if len(last) <= most:
        return last
    return [last[round(place * (len(last) - 1) / max(most - 1, 1))] for place in range(most)]


def spreads(classifier: Classifier, layers: Sequence[Layer], pairs: Pairs) -> dict[str, Tensor]:
    """The standard deviation of each neuron's output over clean images and positions, by layer, float64 (M,).

    Exactly zero where the output never varies.
    """
    found = {layer.name: Moments() for layer in layers}

    def see(name: str, kind: LayerKind, type_name: str, output: Tensor) -> None:
        if name in found:
            found[name].add(output.movedim(1, 0).flatten(1))

    for pair in pairs:
        with torch.no_grad(), watch(classifier.network, see):
            classifier(pair.x.to(classifier.dtype))
    return {name: moments.std for name, moments in found.items()}


class Nudge:
    """The classifier with one neuron of a layer moved, for one image at a time.

    ``cut``: whether the layers before run once for all rows of a pass. That works where what comes after the layer takes more
    rows than the image gave (a sum with a shortcut does, a concatenation does not); it is tried, not guessed.
    """

    def __init__(self, classifier: Classifier, layer: str) -> None:
        self.classifier, self.layer = classifier, layer
        image = torch.full((1, *classifier.input_shape), 0.5, device=classifier.device, dtype=classifier.dtype)
        neurons = torch.zeros(3, dtype=torch.int64, device=classifier.device)
        amounts = torch.tensor([0.0, 1.0, -1.0], device=classifier.device, dtype=classifier.dtype)
        self.cut = True
        try:
            short = self.logits(image, neurons, amounts)
        except (RuntimeError, EvaluationError):
            short = None
        self.cut = False
        whole = self.logits(image, neurons, amounts)
        self.cut = short is not None and short.shape == whole.shape and torch.allclose(short, whole)

    def logits(self, image: Tensor, neurons: Tensor, amounts: Tensor) -> Tensor:
        """``image``: (1, C, H, W). Row r adds ``amounts[r]`` to every position of neuron ``neurons[r]``: (R, K)."""
        rows = torch.arange(len(neurons), device=neurons.device)

        def move(output: Tensor) -> Tensor:
            moved = output.expand(len(neurons), *output.shape[1:]).clone()
            moved[rows, neurons] += amounts.view(-1, *[1] * (output.dim() - 2))
            return moved

        with torch.no_grad(), altered(self.classifier.network, {self.layer: move}):
            return finite(self.classifier(image if self.cut else image.expand(len(neurons), -1, -1, -1)))

    def changes(
        self, image: Tensor, predicted: Tensor, chosen: Tensor, rows: int
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Whether the prediction changes, for ``auditor.delta.crossings``; lines are ``chosen`` neurons, ``rows`` a pass."""

        def crossed(lines: Tensor, amounts: Tensor) -> Tensor:
            parts = zip(chosen[lines].split(rows), amounts.split(rows), strict=True)
            answers = [self.logits(image, *part).argmax(1) != predicted for part in parts]
            return torch.cat(answers) if answers else torch.empty(0, dtype=torch.bool, device=image.device)

        return crossed


def first_order(classifier: Classifier, layers: Sequence[Layer], x: Tensor) -> dict[str, Tensor]:
    """What the gradient says of the smallest change of each neuron that changes the prediction, by layer, (B, M), signed.

    -(l_y - l_c) / d(l_y - l_c), the derivative being that with respect to a number added to the neuron's whole map; of the
    10 highest classes c after y the nearest counts. Inf where no derivative is different from zero.
    """
    bumps: dict[str, Tensor] = {}

    def bump(name: str) -> Callable[[Tensor], Tensor]:
        def add(output: Tensor) -> Tensor:
            if len(output) != len(x):
                raise EvaluationError(
                    f"Layer {name} does not keep one row per image; its neurons cannot be told apart."
                )
            bumps[name] = output.new_zeros(output.shape[:2]).requires_grad_()
            return output + bumps[name].view(*output.shape[:2], *[1] * (output.dim() - 2))

        return add

    with torch.enable_grad(), altered(classifier.network, {layer.name: bump(layer.name) for layer in layers}):
        logits = finite(classifier(x))
        ranked = logits.sort(dim=1, descending=True, stable=True).values[:, : RUNNERS_UP + 1]
        best = {name: torch.full_like(value, torch.inf, requires_grad=False) for name, value in bumps.items()}
        for rank in range(1, ranked.shape[1]):
            margin = ranked[:, 0] - ranked[:, rank]
            slopes = torch.autograd.grad(margin.sum(), list(bumps.values()), retain_graph=True, allow_unused=True)
            for name, slope in zip(bumps, slopes, strict=True):
                if slope is not None:
                    estimate = torch.where(slope != 0, -margin.detach()[:, None] / slope, torch.inf)
                    best[name] = torch.where(estimate.abs() < best[name].abs(), estimate, best[name])
    return best
