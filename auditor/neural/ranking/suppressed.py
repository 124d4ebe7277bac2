"""Networks in which sensitive neurons, or as many others, are suppressed, and what they get right (Zhang et al. 2020, IV-D)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.attacking.attack import Attack
from auditor.attacking.criterion import Misclassification
from auditor.kit.errors import EvaluationError
from auditor.kit.randomness import derive_seed
from auditor.kit.statistics.estimate import Estimate
from auditor.models.classifier import Classifier
from auditor.models.neurons import list_layers
from auditor.neural.analysis import Subject
from auditor.neural.found import Found, OfPairs, shown
from auditor.neural.probes.altered import altered_classifier, scaled
from auditor.neural.ranking.sensitivity import LayerSensitivity, sensitivity_of
from auditor.neural.twins.stored import StoredPairs, for_now, make_twins

NeuronMasks = dict[str, Tensor]
"""The neurons to suppress: a bool mask (M,) for each layer by name."""

Model = Literal["A", "B"]
"""A suppresses the most sensitive neurons, B others."""

TestedImages = Literal["clean", "transfer", "white-box"]
"""Clean images, twins of the whole model, twins of the suppressed model itself."""

IMAGES: dict[TestedImages, str] = {
    "clean": "clean images", "transfer": "twins of the whole model", "white-box": "twins of the suppressed model",
}  # fmt: skip
MODELS: dict[Model, str] = {"A": "model A: sensitive neurons", "B": "model B: other neurons"}


class Hits(NamedTuple):
    """Which images a model gets right: float64 (N,), 1 or 0, or the average over several draws of model B."""

    model: Model
    images: TestedImages
    beta: float
    right: NDArray[np.float64]


class SuppressedLayer(Found):
    """A layer, and the neurons that model A suppresses in it."""

    name: str
    neurons: int
    suppressed: tuple[int, ...]

    @classmethod
    def of(cls, layer: LayerSensitivity, top: float) -> SuppressedLayer:
        return cls(name=layer.name, neurons=len(layer.sensitivity), suppressed=layer.top(top).tolist())


class SuppressedAccuracy(Found):
    """Accuracy of one model, with its interval."""

    model: Model
    images: TestedImages
    beta: float
    value: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, hits: Hits) -> SuppressedAccuracy:
        rate = Estimate.of_rate(hits.right)
        return cls(model=hits.model, images=hits.images, beta=hits.beta, **rate.model_dump())

    def drawn(self, suffix: str) -> dict[str, object]:
        """As a row of a chart; ``suffix``: what the name of its line ends with."""
        more = {"x": self.beta, "series": MODELS[self.model] + suffix, "label": f"beta {self.beta:g}"}
        return self.model_dump() | more


class ModelDifference(Estimate, Found):
    """Accuracy of model A minus that of model B on the same images."""

    images: TestedImages
    beta: float = shown("Beta", "g")
    value: float | None = shown("Difference", "+.1%")
    low: float | None = shown("From", "+.1%")
    high: float | None = shown("To", "+.1%")
    n: int = shown("Images")

    @property
    def on(self) -> str:
        """The images, as a reader calls them."""
        return IMAGES[self.images]


class Suppressed(OfPairs):
    """What suppression does. ``differences``: at every beta but 1, where both are the same model."""

    attack: str
    layers: tuple[SuppressedLayer, ...]
    points: tuple[SuppressedAccuracy, ...]
    differences: tuple[ModelDifference, ...]

    def minus(self, images: TestedImages) -> list[ModelDifference]:
        """Model A minus model B on these images, the largest beta first."""
        return sorted((row for row in self.differences if row.images == images), key=lambda row: -row.beta)


def differences(hits: Sequence[Hits]) -> Iterator[ModelDifference]:
    """Model A minus model B, image by image."""
    control = {(item.images, item.beta): item.right for item in hits if item.model == "B"}
    for item in hits:
        if item.model == "A" and item.beta != 1:
            made = Estimate.of_differences(item.right - control[item.images, item.beta])
            yield ModelDifference(images=item.images, beta=item.beta, **dict(made))


def layers_to_suppress(classifier: Classifier, wanted: Sequence[str]) -> list[str]:
    """The layers wanted, or without any the activations of maps after a convolution. Raises EvaluationError."""
    layers = list_layers(classifier)
    if wanted:
        missing = sorted(set(wanted) - {layer.name for layer in layers})
        if missing:
            raise EvaluationError(f"The network has no layer {missing[0]}.", "Pick layers from its list of layers.")
        return list(wanted)
    first = next((layer.depth for layer in layers if layer.kind == "conv"), len(layers))
    after = (layer for layer in layers if layer.kind == "activation" and layer.depth > first)
    maps = [layer.name for layer in after if len(layer.spatial) > 1]
    if not maps:
        raise EvaluationError(
            "The network has no activation after a convolution to suppress neurons in.", "Name its layers."
        )
    return maps


def sensitivity_in(subject: Subject, names: Sequence[str]) -> list[LayerSensitivity]:
    """The layers named, measured on the subject's own pairs. Raises EvaluationError if none has a choice of neurons."""
    layers = [layer for layer in sensitivity_of(subject) if layer.name in names]
    if all(layer.neurons == 1 for layer in layers):
        raise EvaluationError("Every layer has a single neuron, so there are no others to compare with.")
    return layers


def most_sensitive(layers: Iterable[LayerSensitivity], top: float) -> NeuronMasks:
    """Model A's neurons: a share of each layer."""
    return {layer.name: _mask(len(layer.sensitivity), layer.top(top)) for layer in layers}


def others(layers: Iterable[LayerSensitivity], top: float, seed: int, draw: int) -> NeuronMasks:
    """Model B's neurons: of each layer as many as model A has, none of which is among those.

    Neurons that never change come last: most are dead, and suppressing them would be no control."""
    chosen = {}
    for layer in layers:
        sensitive = layer.top(top)
        rest = np.setdiff1d(np.arange(len(layer.sensitivity)), sensitive)
        order = np.random.default_rng(derive_seed(seed, "vanilla neurons", layer.name, draw)).permutation(rest)
        order = order[np.argsort(layer.sensitivity[order] == 0, kind="stable")]
        chosen[layer.name] = _mask(len(layer.sensitivity), order[: len(sensitive)])
    return chosen


def suppressed(classifier: Classifier, chosen: NeuronMasks, beta: float) -> Classifier:
    """The classifier with these neurons' outputs multiplied by beta."""
    return altered_classifier(classifier, {name: scaled(mask, beta) for name, mask in chosen.items()})


def hits_of(
    subject: Subject,
    attack: Attack,
    models: dict[Model, list[NeuronMasks]],
    betas: Sequence[float],
    white_box_betas: Sequence[float],
) -> Iterator[Hits]:
    """Every model, kind of image and beta. ``models``: of each the neurons, or several draws of them to average over."""
    labels = torch.from_numpy(subject.dataset.labels[subject.ids]).to(subject.classifier.device)
    attacked = [beta for beta in white_box_betas if beta != 1]
    total = 1 + sum(map(len, models.values())) * len(attacked)
    done = 0

    def twins_of(classifier: Classifier, part: Subject) -> StoredPairs:
        nonlocal done
        done += 1
        return make_twins(
            part, attack, Misclassification(labels), classifier=classifier,
            on_progress=lambda share, what: subject.on_progress((done - 1 + share) / total, what),
        )  # fmt: skip

    with for_now(subject) as part:
        twins = twins_of(subject.classifier, part)
        for model, choices in models.items():
            for beta in betas:
                subject.on_progress(done / total, f"suppression, beta {beta:g}")
                both = [_right(suppressed(subject.classifier, chosen, beta), twins) for chosen in choices]
                yield Hits(model, "clean", beta, np.mean([clean for clean, _ in both], axis=0))
                yield Hits(model, "transfer", beta, np.mean([moved for _, moved in both], axis=0))
        whole = _right(subject.classifier, twins)[1]
    for model, choices in models.items():
        yield Hits(model, "white-box", 1.0, whole)
        for beta in attacked:
            right = []
            for chosen in choices:
                with for_now(subject) as part:
                    pairs = twins_of(suppressed(subject.classifier, chosen, beta), part)
                    right.append(1.0 - np.concatenate([pair.fooled for pair in pairs]))
            yield Hits(model, "white-box", beta, np.mean(right, axis=0))


def _right(classifier: Classifier, twins: StoredPairs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Which clean images and which twins the classifier gets right, float64 (N,)."""
    clean: list[NDArray[np.float64]] = []
    moved: list[NDArray[np.float64]] = []
    for pair in twins:
        for images, kept in ((pair.x, clean), (pair.x_adv, moved)):
            right = classifier.logits(images.to(classifier.dtype)).argmax(1) == pair.labels
            kept.append(right.double().cpu().numpy())
    return np.concatenate(clean), np.concatenate(moved)


def _mask(neurons: int, chosen: NDArray[np.int64]) -> Tensor:
    mask = torch.zeros(neurons, dtype=torch.bool)
    mask[torch.from_numpy(chosen)] = True
    return mask
