"""Ablation: is the answer right when some neurons of a layer are silenced, or get on the twin the values of the clean image?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from auditor.models.classifier import Classifier
from auditor.models.neurons import LayerKind, altered, watch
from auditor.neural.analysis import Pair
from auditor.neural.probes.head import Head, head_of, penultimate


class Ablated(NamedTuple):
    """Whether the answer is the label, bool (B, S), for S sets of neurons.

    ``zero_clean``, ``zero_twin``: on the clean image and on its twin with the set at zero. ``transplant``: on the twin with the
    set at the values that it has on the clean image.
    """

    zero_clean: Tensor
    zero_twin: Tensor
    transplant: Tensor


def ablate(classifier: Classifier, layer: str, pairs: Iterable[Pair], sets: Tensor) -> Ablated:
    """Sets of neurons, bool (S, M), of a layer, or of the features before the head where ``layer`` is empty, on all pairs."""
    sets, head = sets.to(classifier.device), head_of(classifier)
    parts = []
    for pair in pairs:
        x, x_adv = pair.x.to(classifier.dtype), pair.x_adv.to(classifier.dtype)
        if layer:
            parts.append(ablate_layer(classifier, layer, x, x_adv, pair.labels, sets))
        else:
            parts.append(ablate_features(classifier, head, x, x_adv, pair.labels, sets))
    return Ablated(*(torch.cat(part) for part in zip(*parts, strict=True)))


class Unablated(NamedTuple):
    """Whether the answer is the label with nothing ablated, on the clean images and on their twins, bool (N,)."""

    clean: Tensor
    twin: Tensor


def unablated(classifier: Classifier, pairs: Iterable[Pair]) -> Unablated:
    """On all pairs."""
    right = [
        [classifier.logits(images.to(classifier.dtype)).argmax(1) == pair.labels for images in (pair.x, pair.x_adv)]
        for pair in pairs
    ]
    return Unablated(*(torch.cat(part) for part in zip(*right, strict=True)))


def ablate_features(
    classifier: Classifier, head: Head, x: Tensor, x_adv: Tensor, labels: Tensor, sets: Tensor
) -> Ablated:
    """Sets, bool (S, M), of the features before the head. One pass each over ``x`` and ``x_adv``; the head does the rest."""
    with torch.no_grad():
        clean, twin = (penultimate(classifier, head, images).features for images in (x, x_adv))

        def right(features: Tensor) -> Tensor:
            return (features @ head.weight.T + head.bias).argmax(1) == labels

        return _each_set(
            sets,
            lambda chosen: (
                right(clean.masked_fill(chosen, 0.0)),
                right(twin.masked_fill(chosen, 0.0)),
                right(torch.where(chosen, clean, twin)),
            ),
        )


def ablate_layer(classifier: Classifier, layer: str, x: Tensor, x_adv: Tensor, labels: Tensor, sets: Tensor) -> Ablated:
    """Sets, bool (S, M), of a layer's neurons, whole maps at a time. Three passes for each set."""
    clean: list[Tensor] = []

    def keep(name: str, kind: LayerKind, type_name: str, output: Tensor) -> None:
        if name == layer:
            clean.append(output.clone())

    def answer(images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        with altered(classifier.network, {layer: change}):
            return classifier(images).argmax(1)

    def one_set(chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mask = chosen.view(1, -1, *(1 for _ in clean[0].shape[2:]))
        zeroed = answer(torch.cat([x, x_adv]), lambda maps: maps.masked_fill(mask, 0.0))
        grafted = answer(x_adv, lambda maps: torch.where(mask, clean[0], maps))
        return zeroed[: len(x)] == labels, zeroed[len(x) :] == labels, grafted == labels

    with torch.no_grad():
        with watch(classifier.network, keep):
            classifier(x)
        return _each_set(sets, one_set)


def _each_set(sets: Tensor, answer: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]) -> Ablated:
    return Ablated(*(torch.stack(part, 1) for part in zip(*map(answer, sets), strict=True)))
