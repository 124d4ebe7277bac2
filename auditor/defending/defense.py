"""Defense: what is done to an image, or inside the network, when it is classified; around a Classifier it gives another one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.kit import plugins
from auditor.kit.capability import Capability, Catalog
from auditor.kit.progress import OnProgress, no_progress, part_of
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import NOTHING, DefendedClassifier, FittedState, Passing
from auditor.models.drawing import View
from auditor.models.preflight import drawn

Backward = Literal["exact", "identity"]
"""How an adaptive attacker goes backwards through a defense: by its own derivative, or as if it changed nothing (BPDA, Athalye
et al. 2018, arXiv 1802.00420)."""


PROBED = 16
"""Images on which it is found out whether a network has random outputs."""


class Defense(Capability):
    """A defense that acts at inference. One subclass per file in ``auditor.defending.defenses``.

    ``fit`` learns what it needs from training images; ``logits`` answers for the network behind it and never sees a
    label. ``learns``: whether it must be fitted. ``random``: whether it draws random numbers; those belong to the image
    (its bytes, the seed and the number of the draw), so no answer depends on the batch. ``inside``: whether it changes
    the network's layers, which attacks must then not fold. ``backward``: what an adaptive attacker uses in place of its
    derivative.
    """

    learns: ClassVar[bool] = False
    random: ClassVar[bool] = False
    inside: ClassVar[bool] = False
    backward: ClassVar[Backward] = "exact"
    control: ClassVar[bool] = False
    """Whether it is a control, which shows what moving the image at random does and which every defense must beat."""

    @property
    def draws(self) -> int:
        """Passes with new random numbers whose probabilities are averaged for one answer."""
        return 1

    def inner_passes(self, classes: int, nearest: int = 1) -> int:
        """Forward passes through everything behind it that one draw of an answer takes; ``nearest`` as a view has
        it."""
        return 1

    def check(self, classifier: Classifier) -> None:
        """Raises MismatchError or EvaluationError for a network or images that it cannot defend."""

    def fit(
        self,
        classifier: Classifier,
        dataset: ImageDataset,
        ids: NDArray[np.int64],
        *,
        seed: int,
        batch_size: int = 64,
        on_progress: OnProgress = no_progress,
    ) -> FittedState:
        """What it learns from these samples, which must be training images, for this classifier."""
        return NOTHING

    @abstractmethod
    def logits(self, inner: Classifier, x: Tensor, passing: Passing) -> Tensor:
        """Logits (B, K) of one draw, for images (B, C, H, W) in [0, 1]."""

    def changed(self, inner: Classifier, x: Tensor, passing: Passing) -> Tensor:
        """The images that the network gets in this draw, (B, C, H, W) in [0, 1]; the images themselves if it changes
        none."""
        return x

    def wrap(self, classifier: Classifier, state: FittedState = NOTHING, *, seed: int = 0) -> DefendedClassifier:
        """The classifier behind this defense."""
        self.check(classifier)
        return DefendedClassifier(classifier, self, state, seed=seed)


class ImageDefense(Defense):
    """A defense that changes the image and lets the network answer for the changed one."""

    @abstractmethod
    def transform(self, x: Tensor, passing: Passing) -> Tensor:
        """The changed images, (B, C, H, W); what leaves [0, 1] is cut off."""

    def logits(self, inner: Classifier, x: Tensor, passing: Passing) -> Tensor:
        return inner(self.changed(inner, x, passing))

    def changed(self, inner: Classifier, x: Tensor, passing: Passing) -> Tensor:
        if self.backward == "exact":
            return boxed(self.transform(x, passing), passing.view)
        with torch.no_grad():
            changed = self.transform(x, passing).clamp(0, 1)
        return AsIdentity.apply(x, changed) if passing.view.adaptive else changed


class AsIdentity(torch.autograd.Function):
    """Forwards the second argument as it is; backwards the gradient goes to the first, as if nothing had been done to it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, changed: Tensor) -> Tensor:
        return changed.to(x).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        return gradients[0], None


def boxed(x: Tensor, view: View) -> Tensor:
    """Images cut to [0, 1]; an adaptive attacker goes backwards as if nothing had been cut off."""
    return AsIdentity.apply(x, x.clamp(0, 1)) if view.adaptive else x.clamp(0, 1)


DEFENSES: Catalog[Defense] = Catalog("auditor.defending.defenses", Defense, entry_points=plugins.DEFENSES)


def fit_stack(
    classifier: Classifier,
    defenses: Sequence[Defense],
    dataset: ImageDataset,
    ids: NDArray[np.int64],
    *,
    seed: int,
    batch_size: int = 64,
    on_progress: OnProgress = no_progress,
) -> tuple[FittedState, ...]:
    """What each of several defenses learns, in their order; an image passes the first one first.

    Each is fitted on clean training images for what lies behind it: the network and the defenses after it.
    """
    states: list[FittedState] = []
    few = dataset.images(ids[:PROBED]).to(classifier.device, classifier.dtype)
    behind = drawn(classifier, few, seed)
    for done, defense in enumerate(reversed(defenses)):
        report = part_of(on_progress, done / len(defenses), (done + 1) / len(defenses))
        defense.check(behind)
        state = defense.fit(behind, dataset, ids, seed=seed, batch_size=batch_size, on_progress=report)
        behind = defense.wrap(behind, state, seed=seed)
        states.append(state)
    return tuple(reversed(states))


def defended(
    classifier: Classifier, defenses: Sequence[Defense], states: Sequence[FittedState], *, seed: int
) -> Classifier:
    """The classifier behind these defenses; an image passes the first one first. Without any, the classifier itself."""
    for defense, state in zip(reversed(defenses), reversed(states), strict=True):
        classifier = defense.wrap(classifier, state, seed=seed)
    return classifier
