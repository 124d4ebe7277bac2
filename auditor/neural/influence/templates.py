"""Neuron templates: the neurons that are neither front nor tail on benign images (Chen et al. 2021, arXiv 2112.13060, eq. 3), of
all images and of each class, as images are added."""

from __future__ import annotations

from collections import Counter

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

from auditor.models.classifier import Classifier, finite
from auditor.neural.analysis import Pair
from auditor.neural.found import Found, shown
from auditor.neural.influence.influence import chosen_mask, expected_jaccard, head_influence, needed, split_parts
from auditor.neural.probes.head import Head, penultimate

CLASSES = 20
"""Classes whose templates are compared, those with the most images."""
STEPS = 60
"""Points of the curve of the template's size."""
ALL = "all classes"


class TemplateSize(Found):
    """Of the template of the first so many images: its own, and with random front and tail."""

    images: int
    size: int
    random: float


class Template(Found):
    """One template, of all images or of those of a class; ``random``: its size with random front and tail."""

    name: str = shown("Class")
    images: int = shown("Images")
    size: int = shown("Neurons")
    random: float = shown("Neurons, if random", ".1f")


class TemplateOverlap(Found):
    """|both| / |either| of two templates, and its mean over random sets of the same sizes; None where both are empty."""

    row: str
    column: str
    value: float | None
    random: float | None


class Templates:
    """Counts in how many images each neuron remains; of images that come batch by batch, those that are classified correctly."""

    def __init__(self, classifier: Classifier, head: Head, front: int, tail: int, quorum: float) -> None:
        self.classifier, self.head, self.front, self.tail, self.quorum = classifier, head, front, tail, quorum
        self.neurons: int = head.layer.in_features
        self.images = Counter[int]()
        self.sizes: list[int] = []
        self._total, self._by_class = np.zeros(self.neurons, np.int64), dict[int, NDArray[np.int64]]()

    def add(self, pair: Pair) -> None:
        """The clean images."""
        masks, labels = self.remaining(pair)
        for mask, label in zip(masks, labels.tolist(), strict=True):
            self._total += mask
            self._by_class[label] = self._by_class.get(label, np.zeros(self.neurons, np.int64)) + mask
            self.images[label] += 1
            self.sizes.append(len(self._members(self._total, len(self.sizes) + 1)))

    def remaining(self, pair: Pair) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Of the correctly classified clean images: which neurons remain, bool (B, M), and the labels, (B,)."""
        with torch.no_grad():
            features, logits = penultimate(self.classifier, self.head, pair.x.to(self.classifier.dtype))
        predicted = finite(logits).argmax(1)
        parts = split_parts(head_influence(features, logits, self.head.weight, predicted), self.front, self.tail)
        mask, right = chosen_mask(parts.remaining, features.shape[1]), predicted == pair.labels
        return mask[right].cpu().numpy(), pair.labels[right].cpu().numpy()

    def members(self) -> dict[str, NDArray[np.int64]]:
        """The neurons of each template, which may be empty here: of all images, and of the classes with the most images."""
        found = {ALL: self._members(self._total, len(self.sizes))}
        for label in self._largest():
            found[self.classifier.class_name(label)] = self._members(self._by_class[label], self.images[label])
        return found

    def rows(self) -> list[Template]:
        """In the order of ``members``."""
        counts = [len(self.sizes), *(self.images[label] for label in self._largest())]
        return [
            Template(name=name, images=count, size=len(chosen), random=self.expected(count))
            for (name, chosen), count in zip(self.members().items(), counts, strict=True)
        ]

    def curve(self) -> list[TemplateSize]:
        """After t images, in the order that they came, at up to ``STEPS`` numbers t and where it first is empty."""
        images = len(self.sizes)
        steps = set(np.linspace(1, images, min(STEPS, images)).round().astype(int).tolist())
        empty = {self.sizes.index(0) + 1} if 0 in self.sizes else set()
        return [TemplateSize(images=t, size=self.sizes[t - 1], random=self.expected(t)) for t in sorted(steps | empty)]

    def overlaps(self) -> list[TemplateOverlap]:
        """Every two templates."""
        members = self.members()
        return [self._overlap(row, column, members[row], members[column]) for row in members for column in members]

    def expected(self, images: int) -> float:
        """Mean size of a template whose front and tail are random neurons on every image."""
        stays = 1 - (self.front + self.tail) / self.neurons
        return float(self.neurons * scipy.stats.binom.sf(needed(images, self.quorum) - 1, images, stays))

    def _overlap(self, row: str, column: str, first: NDArray[np.int64], second: NDArray[np.int64]) -> TemplateOverlap:
        both = len(np.intersect1d(first, second))
        either = len(first) + len(second) - both
        if not either:
            return TemplateOverlap(row=row, column=column, value=None, random=None)
        chance = 1.0 if row == column else expected_jaccard(len(first), len(second), self.neurons)
        return TemplateOverlap(row=row, column=column, value=both / either, random=chance)

    def _members(self, remains: NDArray[np.int64], images: int) -> NDArray[np.int64]:
        return np.flatnonzero(remains >= needed(images, self.quorum))

    def _largest(self) -> list[int]:
        return sorted(label for label, _ in sorted(self.images.items(), key=lambda item: (-item[1], item[0]))[:CLASSES])
