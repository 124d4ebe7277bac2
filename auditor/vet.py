"""Vetting: does the model run as declared, and would another normalisation explain it better? The answer is a card."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from auditor.classifier import NO_CLASS, NORMALIZATIONS, Classifier, Normalization, predicted
from auditor.dataset import ImageDataset
from auditor.errors import MismatchError
from auditor.evaluation import clean_pass
from auditor.flag import Flag
from auditor.metrics import Rate, paired_difference
from auditor.neurons import list_layers
from auditor.preflight import batch_dependence, drawn, no_gradient, probabilities, random_output, unrepeatable
from auditor.progress import OnProgress, no_progress
from auditor.unanswered import without_answer

VET_SAMPLES = 512
"""Enough to tell a difference of a few points; seven forward passes over them stay cheap."""

SIGNIFICANT = 0.01 / 8
"""Level of the paired test of another normalisation, 1 % shared by the up to eight candidates."""

CLEARLY_BETTER, FAR_BETTER = 0.02, 0.10
"""Points of accuracy by which another normalisation must lead for a warning, and for withholding a headline."""


class Candidate(BaseModel):
    """A normalisation, how it scores on the data, and how far it leads the declared one (paired, same samples)."""

    model_config = ConfigDict(frozen=True)

    name: str
    normalization: Normalization
    accuracy: Rate
    lead: float
    lead_low: float
    lead_high: float
    p: float


class ClassifierCard(BaseModel):
    """What vetting saw. ``accuracy`` and ``candidates`` need a data set; without one they are None and empty."""

    model_config = ConfigDict(frozen=True)

    parameters: int
    input_shape: tuple[int, int, int]
    num_classes: int
    layers: tuple[dict[str, Any], ...]
    layer_counts: dict[str, int]
    normalization: Normalization
    dataset: str | None
    samples: int
    accuracy: Rate | None
    candidates: tuple[Candidate, ...]
    flags: tuple[Flag, ...]
    forward_seconds: float | None = None
    """Time of one forward pass, per image of a full batch, where the vetting ran."""
    random: bool = False
    """Whether the model answers at random: then the accuracies are of one draw per image."""


def vet(
    classifier: Classifier,
    dataset: ImageDataset | None = None,
    *,
    samples: int = VET_SAMPLES,
    batch_size: int = 128,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
) -> ClassifierCard:
    """Look the model over: two batches through, finite logits, a gradient that flows, accuracy under the declared
    normalisation and under the likely mistakes. Raises MismatchError when model and data set do not fit, EvaluationError
    when the network returns NaN or something that is not logits.
    """
    flags: list[Flag] = []
    accuracy: Rate | None = None
    candidates: tuple[Candidate, ...] = ()
    if dataset is None:
        images = torch.rand(16, *classifier.input_shape, generator=torch.Generator().manual_seed(seed))
        classifier = drawn(classifier, images.to(classifier.device, classifier.dtype), seed)
    else:
        check_fit(classifier, dataset)
        first = dataset.images(dataset.select(16, seed)).to(classifier.device, classifier.dtype)
        classifier = drawn(classifier, first, seed)
        ids = dataset.select(samples, seed)
        seen = clean_pass(classifier, dataset, ids, batch_size=batch_size, draws=1)
        flags += without_answer(dataset, ids, seen.answered, seen.images)
        usable = ids[seen.answered]
        few = dataset.select(16, seed)
        few = few[np.isin(few, usable)]
        images = dataset.images(few if len(few) > 1 else usable[:16])
    flags += _runs(classifier, images.to(classifier.device, classifier.dtype))
    if dataset is not None:
        accuracy, candidates, doubts = check_normalization(
            classifier, dataset, ids, batch_size=batch_size, on_progress=on_progress
        )
        flags += doubts
    layers = list_layers(classifier)
    return ClassifierCard(
        parameters=count_parameters(classifier),
        input_shape=classifier.input_shape,
        num_classes=classifier.num_classes,
        layers=tuple(layer._asdict() for layer in layers),
        layer_counts={
            kind: sum(layer.kind == kind for layer in layers) for kind in ("conv", "linear", "norm", "activation")
        },
        normalization=classifier.normalization,
        dataset=dataset.name if dataset is not None else None,
        samples=0 if accuracy is None else accuracy.n,
        accuracy=accuracy,
        candidates=candidates,
        flags=tuple(flags),
        forward_seconds=_forward_seconds(classifier, images),
        random=classifier.random,
    )


def _forward_seconds(classifier: Classifier, images: Tensor, passes: int = 3) -> float:
    """Seconds per image of a forward pass over 64 images, the best of some."""
    batch = images.to(classifier.device, classifier.dtype).repeat(4, 1, 1, 1)[:64]
    times = []
    for _ in range(passes):
        began = time.perf_counter()
        classifier.logits(batch).sum().item()  # waits for a GPU
        times.append(time.perf_counter() - began)
    return min(times) / len(batch)


def count_parameters(classifier: Classifier) -> int:
    """Trainable numbers of the network (buffers such as running means are not counted)."""
    return sum(parameter.numel() for parameter in classifier.network.parameters())


def check_fit(classifier: Classifier, dataset: ImageDataset) -> None:
    """Raises MismatchError unless the data set's images and labels are ones that the model can take."""
    if len(dataset) == 0:
        raise MismatchError(f"The data set {dataset.name} holds no images.")
    if dataset.shape != classifier.input_shape:
        came, wanted = ("x".join(map(str, shape)) for shape in (dataset.shape, classifier.input_shape))
        raise MismatchError(
            f"The model takes images of {wanted} (channels, height, width), the data set {dataset.name} has {came}.",
            "Declare the model's input size as it was trained, or add the data set resized to that size.",
        )
    if dataset.num_classes > classifier.num_classes:
        raise MismatchError(
            f"The data set {dataset.name} has {dataset.num_classes} classes, the model only {classifier.num_classes}.",
            "Use the data set that the model was trained for.",
        )


def check_normalization(
    classifier: Classifier,
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    *,
    batch_size: int,
    on_progress: OnProgress = no_progress,
) -> tuple[Rate, tuple[Candidate, ...], list[Flag]]:
    """Accuracy under the declared normalisation and under the likely mistakes, and the doubts that follow."""
    labels = dataset.labels[ids]
    choices = likely_mistakes(classifier)
    declared = _predictions(classifier, dataset, ids, batch_size)
    correct = declared == labels
    candidates = []
    for done, (name, normalization) in enumerate(choices.items(), 1):
        other = _predictions(classifier.with_normalization(normalization), dataset, ids, batch_size) == labels
        lead = paired_difference(correct, other)
        candidates.append(
            Candidate(
                name=name,
                normalization=normalization,
                accuracy=Rate.of(other),
                lead=lead.value,
                lead_low=lead.low,
                lead_high=lead.high,
                p=lead.p,
            )
        )
        on_progress(done / len(choices), "normalisation")
    accuracy = Rate.of(correct)
    flags = [*_better_normalization(accuracy, candidates), *_order_of_classes(classifier, declared, labels)]
    return accuracy, tuple(candidates), flags


def likely_mistakes(classifier: Classifier) -> dict[str, Normalization]:
    """The normalisations that are commonly declared, or left out, by mistake; without the declared one."""
    declared = classifier.normalization
    channels = classifier.input_shape[0]
    named = {
        "none": "none",
        "ImageNet's": "imagenet",
        "CIFAR-10's": "cifar10",
        "0.5 / 0.5": "half",
        "MNIST's": "mnist",
        "Fashion-MNIST's": "fashion-mnist",
    }
    choices = {
        title: NORMALIZATIONS[name] for title, name in named.items() if len(NORMALIZATIONS[name].mean) in (1, channels)
    }
    if channels == 3:
        choices = {title: item for title, item in choices.items() if "MNIST" not in title}
        swapped = "RGB" if declared.channel_order == "BGR" else "BGR"
        choices[f"as declared, but {swapped}"] = declared.model_copy(update={"channel_order": swapped})
    other_range = "0-1" if declared.value_range == "0-255" else "0-255"
    choices[f"as declared, but pixels {other_range}"] = declared.model_copy(update={"value_range": other_range})
    return {title: item for title, item in choices.items() if item.for_channels(channels) != declared}


def _predictions(
    classifier: Classifier, dataset: ImageDataset, ids: NDArray[np.int64], batch_size: int
) -> NDArray[np.int64]:
    parts = []
    with torch.no_grad():
        for batch in dataset.batches(ids, batch_size):
            parts.append(predicted(classifier(batch.images.to(classifier.device, classifier.dtype))).cpu().numpy())
    return np.concatenate(parts)


def _runs(classifier: Classifier, images: Tensor) -> list[Flag]:
    """A few batches through: finite, repeatable, independent of their neighbours, with a gradient that reaches the input."""
    flags = [*random_output(classifier, images).flags, *unrepeatable(classifier, images)]
    if not flags:
        flags += batch_dependence(classifier, images).flags
    return [*flags, *no_gradient(classifier, images).flags, *probabilities(classifier, images).flags]


def _better_normalization(accuracy: Rate, candidates: list[Candidate]) -> list[Flag]:
    leading = [item for item in candidates if item.lead >= CLEARLY_BETTER and item.p < SIGNIFICANT]
    if not leading:
        return []
    best = max(leading, key=lambda item: item.lead)
    return [
        Flag(
            name="normalisation",
            severity="severe" if best.lead >= FAR_BETTER else "warning",
            message=f"Another normalisation ({best.name}) scores clearly better than the declared one.",
            evidence=f"declared {accuracy}, {best.name} {best.accuracy} on the same {accuracy.n} images "
            f"(lead {100 * best.lead:.1f} points, p = {best.p:.1g})",
            remedy=f"Check how the model was trained; if it was with {best.name} ({best.normalization}), declare that. "
            "Robustness numbers under a wrong normalisation are wrong.",
        )
    ]


def _order_of_classes(classifier: Classifier, classes: NDArray[np.int64], labels: NDArray[np.int64]) -> list[Flag]:
    """Would the model be right if its classes were named in another order?"""
    counts = np.zeros((classifier.num_classes, classifier.num_classes), np.int64)
    known = classes != NO_CLASS
    np.add.at(counts, (labels[known], classes[known]), 1)
    n, correct = len(labels), int(np.trace(counts))
    rows, columns = linear_sum_assignment(counts, maximize=True)
    matched = int(counts[rows, columns].sum())
    chance = Rate.count(correct, n)
    if matched / n - correct / n > 0.2 and matched / n > 0.5:
        return [
            Flag(
                name="class order",
                severity="severe",
                message="The model separates the classes, but in another order than the data set's labels.",
                evidence=f"accuracy {chance}; {100 * matched / n:.1f} % if the classes are renamed",
                remedy="Compare the model's list of classes with the data set's, and reorder the labels.",
            )
        ]
    if chance.low is not None and chance.low <= 1 / classifier.num_classes:
        return [
            Flag(
                name="no better than chance",
                severity="severe",
                message="The model is no better than guessing on this data set.",
                evidence=f"accuracy {chance}, guessing {100 / classifier.num_classes:.1f} %",
                remedy="Check the weights, the normalisation and the order of the classes.",
            )
        ]
    return []
