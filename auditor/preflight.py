"""How a model behaves on a few clean images: is it one function of one image, with a gradient, and does it return logits?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from auditor.classifier import Classifier, input_gradient
from auditor.dataset import ImageDataset
from auditor.flag import Flag, Opinion

SAME = 1e-4
"""Logits that differ by less than this share of the largest one are the same, but for the order of summation."""

REPEATS = 5
"""How often the same images are asked about (AutoAttack's number)."""

ALONE = 4
"""Images that are also asked about one by one."""

GRADIENT_BATCH = 16
"""Images per backward pass here: few enough for a large network."""


def random_output(classifier: Classifier, images: Tensor) -> Opinion:
    """Does the same image get the same logits each time?"""
    first = classifier.logits(images)
    others = [classifier.logits(images) for _ in range(REPEATS - 1)]
    change = max(float((first - other).abs().amax()) for other in others)
    moved = torch.stack([first.argmax(1) != other.argmax(1) for other in others]).any(0)
    evidence = (
        f"{len(images)} images asked about {REPEATS} times: logits differ by up to {change:.2g}, "
        f"the class of {int(moved.sum())} images changes"
    )
    if change <= SAME * _scale(first):
        return Opinion(evidence)
    flag = Flag(
        name="random output",
        severity="warning",
        message="The model gives different logits for the same images.",
        evidence=evidence,
        remedy="Attacks on a randomised model need averaging (EOT); plain robust accuracy is too high.",
    )
    return Opinion(evidence, (flag,))


def batch_dependence(classifier: Classifier, images: Tensor) -> Opinion:
    """Do an image's logits depend on the others in the batch?"""
    first = classifier.logits(images)
    reversed_ = classifier.logits(images.flip(0)).flip(0)
    alone = torch.cat([classifier.logits(image[None]) for image in images[:ALONE]])
    change = max(float((first - reversed_).abs().amax()), float((first[:ALONE] - alone).abs().amax()))
    evidence = f"largest change {change:.3g} when a batch is reversed or its images are asked about alone"
    if change <= SAME * _scale(first):
        return Opinion(evidence)
    flag = Flag(
        name="batch dependence",
        severity="severe",
        message="The model's logits depend on the other images in the batch.",
        evidence=evidence,
        remedy="Robust accuracy is not defined for such a model; batch normalisation must use its running statistics.",
    )
    return Opinion(evidence, (flag,))


def dead_gradients(classifier: Classifier, images: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """For which images the gradient of a loss is zero or not finite, bool (B,).

    ``loss`` gets the logits of some images and the places of these among all, and returns one number for each.
    """
    parts = []
    for index in torch.arange(len(images), device=images.device).split(GRADIENT_BATCH):
        points = images[index].clone().requires_grad_()
        with torch.enable_grad():
            gradient = input_gradient(loss(classifier(points), index).sum(), points).flatten(1)
        parts.append(~(gradient != 0).any(1) | ~gradient.isfinite().all(1))
    return torch.cat(parts)


def no_gradient(classifier: Classifier, images: Tensor) -> Opinion:
    """Does a gradient reach the input?

    That of the margin of the logits, not of the loss: a very sure model has a loss gradient of zero, but its logits move.
    """
    count, n = int(dead_gradients(classifier, images, _lead).sum()), len(images)
    evidence = f"the gradient of the margin at the input is zero or not finite for {count} of {n} images"
    if not count:
        return Opinion(evidence)
    flag = Flag(
        name="no gradient",
        severity="severe" if count > n / 2 else "warning",
        message=f"The gradient at the input is exactly zero, or not finite, for {count} of {n} images.",
        evidence=evidence,
        remedy="Gradient attacks are blind there: their success rate says nothing about robustness.",
    )
    return Opinion(evidence, (flag,))


def probabilities(classifier: Classifier, images: Tensor) -> Opinion:
    """Does the model return probabilities, or squash its logits otherwise?"""
    logits = classifier.logits(images)
    low, high = float(logits.amin()), float(logits.amax())
    sums = logits.double().sum(1)
    evidence = f"outputs from {low:.3g} to {high:.3g}, their sums from {sums.amin():.3g} to {sums.amax():.3g}"
    if low < 0 or high > 1:
        return Opinion(evidence)
    normalised = torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
    flag = Flag(
        name="probabilities",
        severity="warning",
        message="The model returns probabilities, not logits." if normalised
        else "All outputs lie between 0 and 1, as after a sigmoid: these are not logits.",
        evidence=evidence,
        remedy="Remove the final softmax: it makes gradients vanish and attacks look weak." if normalised
        else "Remove the final sigmoid: it makes gradients vanish and attacks look weak.",
    )  # fmt: skip
    return Opinion(evidence, (flag,))


def known_images(dataset: ImageDataset, trained_on: Sequence[str]) -> tuple[Flag, ...]:
    """Is the data set one on which the model was trained? ``trained_on``: their SHA-256."""
    if not dataset.sha256 or dataset.sha256 not in trained_on:
        return ()
    flag = Flag(
        name="audited on training images",
        severity="warning",
        message=f"The model, or one that it was trained from, was trained on this very data set, {dataset.name}.",
        evidence=f"SHA-256 {dataset.sha256}",
        remedy="Its accuracies here, clean and robust, are too high for new images: audit it on a data set kept from training.",
    )
    return (flag,)


def _lead(logits: Tensor, index: Tensor) -> Tensor:
    best, second = logits.topk(2, dim=1).values.unbind(1)
    return best - second


def _scale(logits: Tensor) -> float:
    return float(logits.abs().amax().clamp_min(1e-12))
