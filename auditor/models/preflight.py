"""How a model behaves on a few clean images: is it one function of one image, with a gradient, and does it return logits?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from auditor.kit.flag import Flag, Opinion
from auditor.kit.randomness import derive_seed, seeded
from auditor.models.classifier import Classifier, input_gradient
from auditor.models.dataset import ImageDataset
from auditor.models.drawing import DRAWS, Sampling, View
from auditor.models.likeness import undisturbed
from auditor.models.outputs import one_logit, outputs_said

SAME = 1e-4
"""Logits that differ by less than this share of the largest one are the same, but for the order of summation."""

REPEATS = 5
"""How often the same images are asked about (AutoAttack's number)."""

ALONE = 4
"""Images that are also asked about one by one."""

GRADIENT_BATCH = 16
"""Images per backward pass here: few enough for a large network."""


def drawn(classifier: Classifier, images: Tensor, seed: int, draws: int = DRAWS) -> Classifier:
    """The classifier with its random numbers from the seed, where it gives different logits for the same images; else itself.

    ``images``: a few clean ones, (B, C, H, W), on its device. ``draws``: how many attacks average over, and judge an image.
    Everything that measures a model asks this first.
    """
    if classifier.random or not len(images) or _change(_repeated(classifier, images, seed))[0] <= SAME:
        return classifier
    return classifier.sampled(Sampling(derive_seed(seed, "model"), usual=draws))


def random_output(classifier: Classifier, images: Tensor) -> Opinion:
    """Does the same image get the same logits each time?"""
    answers = _repeated(classifier, images, 0)
    share, change = _change(answers)
    moved = (answers.argmax(2) != answers[0].argmax(1)).any(0)
    evidence = (
        f"{len(images)} images asked about {REPEATS} times: logits differ by up to {change:.2g}, "
        f"the class of {int(moved.sum())} images changes"
    )
    if share <= SAME:
        return Opinion(evidence)
    known, draws = classifier.random, classifier.usual_draws
    flag = Flag(
        name="random output",
        severity="warning" if known else "severe",
        message="The model has random outputs: it gives different logits for the same images."
        + ("" if known else " The attacks treated it as deterministic."),
        evidence=evidence,
        remedy=f"An audit attacks through the mean of {draws} draws (EOT), and its accuracies are means over as many fresh ones, "
        "together with the majority vote: quote both, with the number of draws."
        if known
        else "It does so too seldom to be seen on a few images: take the randomness out, or measure it on more images.",
    )
    return Opinion(evidence, (flag,))


def unrepeatable(classifier: Classifier, images: Tensor) -> tuple[Flag, ...]:
    """Is a model with random outputs one whose random numbers follow from no seed, or which keeps a state of its own?"""
    if classifier.sampling is None or not len(images):
        return ()
    with torch.no_grad():
        share, change = _change(torch.stack([classifier(images), classifier(images)]))
    if share <= SAME:
        return ()
    flag = Flag(
        name="no repeatable output",
        severity="severe",
        message="The model has random outputs, and the seed does not decide how: no number measured on it can be repeated.",
        evidence=f"{len(images)} images asked about twice with the same seed: logits differ by up to {change:.2g}",
        remedy="Let the network draw from the global generators of torch, NumPy or Python, which are seeded here, not from its "
        "own, and keep nothing from one pass to the next.",
    )
    return (flag,)


def fixed_draw(classifier: Classifier) -> Classifier:
    """One draw of a network with random outputs, the same for every batch: a function, which can be looked into. Other models
    stay as they are."""
    sampling = classifier.sampling
    return classifier if sampling is None else classifier.sampled(replace(sampling, draws=1, fixed=True))


def averaging(classifier: Classifier) -> Classifier:
    """A model with random outputs as attackers see it: each answer is the mean of draws of their own. Others stay the same."""
    return classifier.seen(View(adaptive=True, draws=classifier.usual_draws)) if classifier.random else classifier


def comparing(classifier: Classifier) -> Classifier:
    """The same with the same random numbers for every batch: images that are compared differ in nothing else."""
    view = averaging(classifier)
    return view if view.sampling is None else view.sampled(replace(view.sampling, fixed=True))


def one_draw(classifier: Classifier) -> tuple[Flag, ...]:
    """What must be said of neurons of a network with random outputs."""
    if not classifier.random:
        return ()
    flag = Flag(
        name="neurons of one draw",
        severity="warning",
        message="The neuron analyses look at one draw of a model with random outputs: the same random numbers in every pass.",
        remedy="Another seed gives other neurons: compare several audits before you read much into single ones.",
    )
    return (flag,)


def _repeated(classifier: Classifier, images: Tensor, seed: int) -> Tensor:
    """Logits of the same images, asked about REPEATS times with different seeds, (REPEATS, B, K)."""
    answers = []
    for repeat in range(REPEATS):
        with seeded(derive_seed(seed, "repeat", repeat), classifier.device), torch.no_grad():
            answers.append(classifier.redrawn("repeat", repeat)(images))
    return torch.stack(answers)


def _change(answers: Tensor) -> tuple[float, float]:
    """The largest change from the first of several answers, where all are finite: as a share of the largest logit, and itself."""
    answers = answers[:, answers.isfinite().all(2).all(0)]
    if not answers.shape[1]:
        return 0.0, 0.0
    change = float((answers - answers[0]).abs().amax())
    return change / _scale(answers[0]), change


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
        remedy="Robust accuracy is not defined for such a model; batch normalization must use its running statistics.",
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
    count, n = int(dead_gradients(averaging(classifier), images, _lead).sum()), len(images)
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


def said_of_outputs(classifier: Classifier, images: Tensor) -> tuple[str, ...]:
    """What a reader should know of how the logits were taken from what the network returns for a few images."""
    with undisturbed(images.device), torch.no_grad():
        return outputs_said(classifier.returned(images), classifier.num_classes, classifier.output)


def probabilities(classifier: Classifier, images: Tensor) -> Opinion:
    """Does the model return probabilities, or squash its logits otherwise?"""
    logits = classifier.logits(images)
    low, high = float(logits.amin()), float(logits.amax())
    sums = logits.double().sum(1)
    evidence = f"outputs from {low:.3g} to {high:.3g}, their sums from {sums.amin():.3g} to {sums.amax():.3g}"
    if low < 0 or high > 1:
        return Opinion(evidence)
    normalized = torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
    with undisturbed(images.device), torch.no_grad():
        single = one_logit(classifier.returned(images), classifier.num_classes, classifier.output)
    if single and low < high:
        return Opinion(evidence, (_one_probability(evidence),))
    flag = Flag(
        name="probabilities",
        severity="warning",
        message="The model returns probabilities, not logits." if normalized
        else "All outputs lie between 0 and 1, as after a sigmoid: these are not logits.",
        evidence=evidence,
        remedy="Remove the final softmax: it makes gradients vanish and attacks look weak." if normalized
        else "Remove the final sigmoid: it makes gradients vanish and attacks look weak.",
    )  # fmt: skip
    return Opinion(evidence, (flag,))


def _one_probability(evidence: str) -> Flag:
    return Flag(
        name="probabilities",
        severity="severe",
        message="The network's single output lies between 0 and 1 for every image, as after a sigmoid. It counts as a logit, so "
        "every image is of class 1.",
        evidence=evidence,
        remedy="Remove the final sigmoid, or return torch.logit of the output.",
    )


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
