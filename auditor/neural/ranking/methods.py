"""Rankings: the neurons of a layer in order of importance by each method, all measured on the same pairs.

In every ranking the largest value comes first. Before the head all methods exist; in a layer further in, those that need
neither the head's weights nor a closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.kit.statistics.moments import Moments
from auditor.models.classifier import Classifier
from auditor.models.neurons import list_layers, watch
from auditor.neural.analysis import Pair, Pairs
from auditor.neural.delta.values import delta_values
from auditor.neural.influence.influence import head_influence, log_odds, neuron_slopes
from auditor.neural.probes.head import Head, head_of, penultimate

METHODS = {
    "sensitivity": "Neuron sensitivity",
    "influence": "Neuron influence (NIP)",
    "delta": "Delta-values (closest flip)",
    "gradient": "|Gradient x activation|",
    "importance": "Importance for the wrong class",
    "activation": "Activation magnitude",
    "weight": "L1 norm of outgoing weights",
}
"""The rankings by key. What each averages over the pairs:

sensitivity: |change of the output| between an image and its twin (Zhang et al. 2020, eq. 1). influence: influence on the log
odds of the predicted class, clean images, with its sign (Chen et al. 2021, eq. 2). delta: standard deviation of the output over
the median of the smallest change of it that flips the prediction (Suri and Evans 2020, eq. 1). gradient: |gradient x
activation| of the label's log odds, clean images. importance: output on the twin times its weight to the class that the twin
is taken for, over the fooled twins (Zhang et al. 2020, eq. 3). activation: |output|, clean images. weight: no image at all.
"""

DELTA_IMAGES = 1000
"""A median needs its values kept: the Delta-values of at most so many images are."""


class Ranking(NamedTuple):
    """The neurons of a layer by one method: ``values`` float64 (M,), larger is more important."""

    method: str
    values: NDArray[np.float64]

    @property
    def title(self) -> str:
        return METHODS[self.method]

    @property
    def order(self) -> NDArray[np.int64]:
        """Indices, the most important first, ties by the lower index."""
        return np.argsort(-self.values, kind="stable")


def alive(rankings: Iterable[Ranking]) -> NDArray[np.bool_]:
    """Which of a layer's neurons put out anything but zero, or change between an image and its twin, (M,)."""
    outputs = [item.values != 0 for item in rankings if item.method in ("sensitivity", "activation")]
    return np.asarray(np.logical_or.reduce(outputs))


def rank_features(classifier: Classifier, head: Head, pairs: Iterable[Pair]) -> tuple[Ranking, ...]:
    """Every method on the features before the head, from one clean and one twin pass. No fooled twin: no "importance"."""
    sums, moments = _Means(), Moments()
    deltas: list[NDArray[np.float32]] = []
    weight = head.weight.double()
    for pair in pairs:
        with torch.no_grad():
            features, logits = (part.double() for part in penultimate(classifier, head, pair.x.to(classifier.dtype)))
            moved, wrong = (part.double() for part in penultimate(classifier, head, pair.x_adv.to(classifier.dtype)))
        sums.add("sensitivity", (features - moved).abs())
        sums.add("influence", head_influence(features, logits, weight, logits.argmax(1)))
        sums.add("gradient", head_influence(features, logits, weight, pair.labels).abs())
        sums.add("importance", (moved * weight[wrong.argmax(1)])[torch.from_numpy(pair.fooled).to(moved.device)])
        sums.add("activation", features.abs())
        moments.add(features.T)
        if (room := DELTA_IMAGES - sum(map(len, deltas))) > 0:
            deltas.append(closest_flips(features[:room], logits[:room], weight).float().cpu().numpy())
    spread = moments.std.cpu().numpy()
    values = {name: sums.mean(name) for name in ("sensitivity", "influence", "gradient", "importance", "activation")}
    values["delta"] = _over(spread, np.median(np.concatenate(deltas), axis=0).astype(np.float64))
    values["weight"] = weight.abs().sum(0).cpu().numpy()
    return tuple(Ranking(name, values[name]) for name in METHODS if not np.isnan(values[name]).any())


def rank_layers(
    classifier: Classifier, pairs: Iterable[Pair], layers: Collection[str]
) -> dict[str, tuple[Ranking, ...]]:
    """Sensitivity, influence, |gradient x activation| and activation of the named layers, three passes and one backward.

    For a layer of maps, the gradient x activation of a neuron is summed over its map, and its influence is the derivative by
    its mean output times that mean (eq. 1 and 2 of Chen et al. 2021).
    """
    sums = {name: _Means() for name in layers}
    for pair in pairs if layers else ():
        x, x_adv = pair.x.to(classifier.dtype), pair.x_adv.to(classifier.dtype)
        _add_outputs(sums, classifier, x, x_adv)
        with torch.no_grad():
            predicted = classifier(x).argmax(1)
        for key, classes in (("influence", predicted), ("gradient", pair.labels)):
            for layer in neuron_slopes(classifier, x, _odds_of(classes), layers):
                sums[layer.name].add(key, layer.influence if key == "influence" else layer.scale.abs())
    keys = ("sensitivity", "influence", "gradient", "activation")
    return {name: tuple(Ranking(key, item.mean(key)) for key in keys) for name, item in sums.items()}


def rank_all(classifier: Classifier, pairs: Pairs, inner: int) -> dict[str, tuple[Ranking, ...]]:
    """The features before the head, under the empty name, and up to ``inner`` layers before it."""
    head = head_of(classifier)
    layers = inner_layers(classifier, head, inner)
    return {"": rank_features(classifier, head, pairs)} | rank_layers(classifier, pairs, layers)


def layer_title(classifier: Classifier, name: str) -> str:
    """What readers call a layer of ``rank_all``."""
    return name or f"the input of {head_of(classifier).name}"


def inner_layers(classifier: Classifier, head: Head, count: int) -> list[str]:
    """Names of up to ``count`` activations, or convolutions if there is none, spread over the depth before the head."""
    before = [layer for layer in list_layers(classifier) if layer.name != head.name and layer.neurons > 1]
    kinds = ([layer.name for layer in before if layer.kind == kind] for kind in ("activation", "conv"))
    able = next((found for found in kinds if found), [])
    count = min(count, len(able))
    return [able[(2 * place + 1) * len(able) // (2 * count)] for place in range(count)]


def closest_flips(features: Tensor, logits: Tensor, weight: Tensor) -> Tensor:
    """Smallest |change of one feature| that ties the predicted class with another, float64 (B, M); inf where none does.

    On an image whose features are all at least 0, as after a ReLU, a change may not make one negative.
    """
    floor = torch.where((features >= 0).all(1, keepdim=True), 0.0, -torch.inf)
    return delta_values(features, logits, weight, floor=floor).value.abs()


class _Means:
    """Running means over images of several numbers per neuron."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, key: str, values: Tensor) -> None:
        """``values``: (B, M)."""
        total = values.double().sum(0)
        self.sums[key] = self.sums[key] + total if key in self.sums else total
        self.counts[key] = self.counts.get(key, 0) + len(values)

    def mean(self, key: str) -> NDArray[np.float64]:
        """(M,); NaN where no image counted."""
        total: NDArray[np.float64] = self.sums[key].cpu().numpy()
        return total / self.counts[key] if self.counts[key] else np.full_like(total, np.nan)


def _add_outputs(sums: dict[str, _Means], classifier: Classifier, x: Tensor, x_adv: Tensor) -> None:
    """Clean images and twins side by side, so no feature map outlives its hook."""

    def see(name: str, kind: str, type_name: str, output: Tensor) -> None:
        if name in sums:
            maps = output.double().flatten(2) if output.dim() > 2 else output.double().unsqueeze(2)
            clean, moved = maps[: len(x)], maps[len(x) :]
            sums[name].add("sensitivity", (clean - moved).abs().mean(2))
            sums[name].add("activation", clean.abs().mean(2))

    with torch.no_grad(), watch(classifier.network, see):
        classifier(torch.cat([x, x_adv]))


def _odds_of(classes: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits: log_odds(logits, classes)


def _over(spread: NDArray[np.float64], change: NDArray[np.float64]) -> NDArray[np.float64]:
    """How close a flip is in standard deviations, as spread / change: 0 for neurons that never vary or never flip."""
    return np.where(spread > 0, spread / np.maximum(change, np.finfo(np.float64).tiny), 0.0)
