"""Which layers and images a search for interior Delta-values looks at: predictions, scales of neurons, first-order estimates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from auditor.kit.errors import EvaluationError, known_names
from auditor.kit.statistics.moments import Moments
from auditor.models.classifier import Classifier, finite
from auditor.models.neurons import Layer, LayerKind, altered, list_layers, watch
from auditor.neural.analysis import Pairs

RUNNERS_UP = 10
"""Classes that the first-order estimate looks at: those with the highest logits after the predicted one."""

Choose = Literal["evenly", "gradient"]
"""Which neurons: evenly spaced over the layer, or those with the smallest first-order estimate of Delta."""


class DeltaSurvey(NamedTuple):
    """One pass over N images. Batch by batch: which ``standing`` (bool) have one highest logit, and the predictions of those;
    by layer: first-order estimates of all that stand, (standing, M)."""

    standing: list[Tensor]
    predicted: list[Tensor]
    estimates: dict[str, Tensor]


def in_float64(classifier: Classifier) -> Classifier:
    """A copy whose rounding is far below any margin of interest. Raises EvaluationError if it does not run."""
    exact = copy.deepcopy(classifier).double()
    image = torch.full((1, *classifier.input_shape), 0.5, device=exact.device, dtype=torch.float64)
    try:
        exact.logits(image)
    except (RuntimeError, TypeError, EvaluationError) as error:
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


def layers_to_search(classifier: Classifier, names: str, most: int) -> list[Layer]:
    """Layers by their names, separated by +, or without names ``before_each_change_of_size``, at most so many.

    Raises EvaluationError if the network lacks one.
    """
    if not names:
        return before_each_change_of_size(classifier, most)
    known = {layer.name: layer for layer in list_layers(classifier)}
    wanted = [name.strip() for name in names.split("+")]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise EvaluationError(f"The network has no layer {', '.join(missing)}.", known_names(missing[0], known))
    return [known[name] for name in dict.fromkeys(wanted)]


def neurons_to_search(estimate: Tensor, std: Tensor, most: int, choose: Choose) -> Tensor:
    """Indices of at most so many of the neurons that vary at all, ascending. ``estimate``: first-order, (N, M). ``std``: (M,)."""
    alive = (std > 0).nonzero().squeeze(1)
    count = min(most, len(alive))
    if choose == "gradient":
        # The median over the images is finite where the gradient is not zero on most of them.
        score = (estimate[:, alive].abs() / std[alive]).median(0).values
        return alive[score.argsort(stable=True)[:count]].sort().values
    places = np.linspace(0, max(len(alive) - 1, 0), count).round().astype(np.int64)
    return alive[torch.from_numpy(places).to(alive.device)]


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


def surveyed(exact: Classifier, layers: list[Layer], pairs: Pairs) -> DeltaSurvey:
    """``exact``: in float64."""
    standing, predicted = list[Tensor](), list[Tensor]()
    estimates: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    for pair in pairs:
        x = pair.x.double()
        top = exact.logits(x).topk(2, dim=1)
        clear = top.values[:, 0] > top.values[:, 1]
        standing.append(clear)
        predicted.append(top.indices[clear, 0])
        for name, estimate in first_order(exact, layers, x).items():
            estimates[name].append(estimate[clear])
    return DeltaSurvey(standing, predicted, {name: torch.cat(parts) for name, parts in estimates.items()})


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
