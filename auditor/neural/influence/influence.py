"""Neuron influence (Chen et al. 2021, arXiv 2112.13060): what each neuron adds to the confidence in a class; front and tail.

The paper takes the derivative of the softmax confidence p of the class (eq. 2). Where p is 1 to rounding, that derivative is
zero for every neuron and orders nothing. Here it is taken of the log odds m = l_c - log sum_{k != c} exp l_k instead: since
dp = p (1 - p) dm, the order of the neurons of one image is the same, and nothing underflows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Annotated, NamedTuple

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.kit.errors import EvaluationError
from auditor.kit.randomness import RowRandom
from auditor.models.classifier import Classifier, finite
from auditor.models.neurons import LayerKind, watch


def log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """Log odds of one class for each row, (B,), from logits (B, K) and classes (B,)."""
    own = classes[:, None]
    return logits.gather(1, own).squeeze(1) - logits.scatter(1, own, -torch.inf).logsumexp(1)


def predicted_odds(logits: Tensor) -> Tensor:
    """Log odds of the predicted class, (B,)."""
    return log_odds(logits, finite(logits).argmax(1))


def confidence_slope(logits: Tensor, classes: Tensor) -> Tensor:
    """dp/dm = p (1 - p) of each row's class, (B,): turns influence on the log odds into influence on the confidence."""
    odds = log_odds(logits, classes)
    return odds.sigmoid() * (-odds).sigmoid()


def head_influence(features: Tensor, logits: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
    """Influence (eq. 2, on the log odds) of each feature before the head, float64 (B, M), in closed form.

    sigma_n = z_n (W[c, n] - sum_{k != c} q_k W[k, n]), where q is the softmax over the classes but c. ``features`` (B, M),
    ``logits`` (B, K), ``weight`` (K, M), ``classes`` (B,).
    """
    weight = weight.double()
    rivals = logits.double().scatter(1, classes[:, None], -torch.inf).softmax(1)
    return features.double() * (weight[classes] - rivals @ weight)


class NeuronSlopes(NamedTuple):
    """One layer under a target (a number per image): what its neurons do to it, float64 (B, M) each.

    ``output``: spatial mean of a neuron's output (eq. 1). ``shift``: derivative by an addition to the neuron's whole map, which
    is the derivative by that mean. ``scale``: derivative by a factor on the map, the sum of gradient x activation over it.
    """

    name: str
    kind: LayerKind
    type: str
    output: Tensor
    shift: Tensor
    scale: Tensor

    @property
    def influence(self) -> Tensor:
        """Neuron influence (eq. 2), (B, M): derivative by the mean output, times that mean output."""
        return self.shift * self.output


def neuron_slopes(
    classifier: Classifier,
    x: Tensor,
    target: Callable[[Tensor], Tensor],
    layers: Collection[str] | None = None,
) -> list[NeuronSlopes]:
    """The named layers, or every layer but the one that gives the logits, from one forward and one backward pass.

    In the order of execution. ``x``: (B, C, H, W). ``target`` maps logits (B, K) to (B,); a layer that it does not depend on
    has slopes of zero. Raises EvaluationError at a layer that does not keep one row per image.
    """
    seen: list[tuple[str, LayerKind, str, Tensor]] = []
    probes: list[Tensor] = []

    def insert(name: str, kind: LayerKind, type_name: str, output: Tensor) -> Tensor | None:
        if layers is not None and name not in layers:
            return None
        if output.shape[0] != len(x):
            raise EvaluationError(f"Layer {name} does not keep one row per image; its neurons cannot be told apart.")
        values = output.detach().double()
        seen.append((name, kind, type_name, values.flatten(2).mean(2) if output.dim() > 2 else values.clone()))
        shape = (*output.shape[:2], *(1 for _ in output.shape[2:]))
        factor, shift = output.new_ones(shape).requires_grad_(), output.new_zeros(shape).requires_grad_()
        probes.extend((factor, shift))
        return output * factor + shift

    with torch.enable_grad(), watch(classifier.network, insert):
        logits = classifier(x)
        total = target(logits).sum()
    found = torch.autograd.grad(total, probes, allow_unused=True) if probes else ()
    values = [torch.zeros_like(probe) if value is None else value for probe, value in zip(probes, found, strict=True)]
    by_layer = zip(seen, values[::2], values[1::2], strict=True)
    every = [
        NeuronSlopes(*what, shift.double().flatten(1), scale.double().flatten(1)) for what, scale, shift in by_layer
    ]
    return [layer for layer in every if layers is not None or not _same(layer.output, logits)]


def _same(output: Tensor, logits: Tensor) -> bool:
    """Whether a layer's mean outputs are the logits, up to the rounding of another order of summation."""
    return output.shape == logits.shape and torch.allclose(output, logits.detach().double(), rtol=1e-4, atol=1e-6)


Front = Annotated[int, Field(ge=1, le=1000, description="Neurons of the largest influence that count as front.")]
Tail = Annotated[int, Field(ge=1, le=1000, description="Neurons of the smallest influence that count as tail.")]
"""Parameters of the analyses that split a layer's neurons."""


class Parts(NamedTuple):
    """Neurons of a layer by their influence on one image, largest first: the first, the last, and those between (indices)."""

    front: Tensor
    tail: Tensor
    remaining: Tensor


def split_parts(influence: Tensor, front: int, tail: int) -> Parts:
    """Definition 3: ``front`` neurons of the largest influence, ``tail`` of the smallest, and the rest, each (B, .) in order.

    Ties go by the lower index. Raises EvaluationError if no neuron would remain.
    """
    neurons = influence.shape[1]
    if front + tail >= neurons:
        raise EvaluationError(
            f"The layer before the head has {neurons} neurons, too few for {front} front and {tail} tail neurons.",
            "Lower front and tail.",
        )
    order = influence.sort(dim=1, descending=True, stable=True).indices
    return Parts(order[:, :front], order[:, neurons - tail :], order[:, front : neurons - tail])


def front_odds(values: Tensor, count: int) -> Tensor:
    """For each neuron the chance to be among the ``count`` largest of its row when ties are broken at random, float64 (B, M)."""
    last = values.topk(count, dim=1).values[:, -1:]
    above, tied = (values > last).double(), (values == last).double()
    return above + tied * (count - above.sum(1, keepdim=True)) / tied.sum(1, keepdim=True)


def shuffled_front(values: Tensor, count: int, random: RowRandom) -> Tensor:
    """The ``count`` largest of each row, indices (B, count), largest first, ties broken at random."""
    order = random.uniform(torch.empty(values.shape, dtype=torch.float64)).argsort(1).to(values.device)
    place = values.gather(1, order).sort(dim=1, descending=True, stable=True).indices[:, :count]
    return order.gather(1, place)


def chosen_mask(indices: Tensor, neurons: int) -> Tensor:
    """Sets of neurons, indices (B, k), as bool (B, ``neurons``)."""
    return torch.zeros(len(indices), neurons, dtype=torch.bool, device=indices.device).scatter(1, indices, True)


def needed(images: int, quorum: float) -> int:
    """In how many of ``images`` images a neuron must remain to be in their template."""
    return max(1, int(np.ceil(quorum * images - 1e-9)))


def template(remains: NDArray[np.int64], images: int, quorum: float = 1.0) -> NDArray[np.int64]:
    """The template (eq. 3): neurons that remain (neither front nor tail) in every benign image, or in a ``quorum`` of them.

    ``remains``: in how many of the ``images`` images each neuron remains, (M,). Raises EvaluationError when it is empty.
    """
    members = np.flatnonzero(remains >= needed(images, quorum))
    if len(members) == 0:
        raise EvaluationError(
            f"The neuron template is empty: no neuron remains in {'all' if quorum == 1 else f'{100 * quorum:g} % of'} "
            f"{images} images.",
            "Use fewer images, fewer front and tail neurons, or a lower quorum.",
        )
    return members


def expected_jaccard(first: int, second: int, neurons: int) -> float:
    """Mean of |A and B| / |A or B| over independent random sets of these sizes among ``neurons``."""
    if first + second == 0:
        return float("nan")
    common = np.arange(min(first, second) + 1)
    chance = scipy.stats.hypergeom(neurons, first, second).pmf(common)
    return float((chance * common / (first + second - common)).sum())
