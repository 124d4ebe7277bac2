"""DefendedClassifier: a classifier behind a defense, as it is deployed or as an attacker looks at it who knows everything."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from auditor.kit.randomness import RowRandom, derive_seed
from auditor.models.classifier import Classifier, Normalization
from auditor.models.drawing import View, averaged, image_keys


@dataclass(frozen=True)
class FittedState:
    """What a defense learnt from training images: tensors by name, and facts in JSON form. Empty where it learns nothing."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def to(self, device: torch.device) -> FittedState:
        return FittedState({name: value.to(device) for name, value in self.tensors.items()}, self.facts)


NOTHING = FittedState()


class Answering(Protocol):
    """What a defense does for the classifier behind it (``auditor.defending.defense.Defense``)."""

    random: ClassVar[bool]
    inside: ClassVar[bool]

    @property
    def draws(self) -> int: ...

    def display_title(self) -> str: ...

    def logits(self, inner: Classifier, x: Tensor, passing: Passing) -> Tensor: ...

    def changed(self, inner: Classifier, x: Tensor, passing: Passing) -> Tensor: ...


@dataclass(frozen=True)
class Passing:
    """What a defense may use for one pass: what it learnt, the view, and the random numbers of these images and this draw."""

    state: FittedState
    view: View
    seed: int
    draw: int
    images: Tensor

    @cached_property
    def random(self) -> RowRandom:
        """Random numbers that depend on each image's own bytes, the seed and the draw."""
        return RowRandom(self.seed, "defense", [(key, self.draw) for key in image_keys(self.images)])


def surest(answers: Sequence[Tensor], wanted: int) -> Tensor:
    """For each row the answer, of several (B, K), whose margin in favour of one class is largest: all of them must be fooled."""
    stacked = torch.stack(list(answers))
    others = stacked.index_fill(2, torch.tensor([wanted], device=stacked.device), -torch.inf).amax(2)
    hardest = (stacked[:, :, wanted] - others).argmax(0)
    return stacked.gather(0, hardest.view(1, -1, 1).expand(1, -1, stacked.shape[2])).squeeze(0)


class DefendedClassifier(Classifier):
    """A classifier behind a defense; ``inner`` may be defended itself.

    As deployed it has the defense's true derivative, which may be none at all, and the random numbers of ``seed``.
    """

    def __init__(
        self, inner: Classifier, defense: Answering, state: FittedState, *, seed: int, view: View | None = None
    ) -> None:
        super().__init__(
            inner.network,
            input_shape=inner.input_shape,
            num_classes=inner.num_classes,
            normalization=inner.normalization,
            class_names=inner.class_names,
            name=f"{inner.name} behind {defense.display_title()}",
            output=inner.output,
            copy=False,
        )
        self.inner, self.defense, self.seed, self.view = inner, defense, seed, view or View()
        self._state = state
        self.notes = inner.notes
        self.normalize.to(inner.device, inner.dtype)

    @property
    def state(self) -> FittedState:
        """What the defense learnt, on the device of the network."""
        if any(value.device != self.device for value in self._state.tensors.values()):
            self._state = self._state.to(self.device)
        return self._state

    @property
    def random(self) -> bool:
        """Whether it, or what lies behind it, draws random numbers."""
        return self.defense.random or self.inner.random

    @property
    def draws(self) -> int:
        """Draws that are averaged for one answer."""
        return (self.view.draws or self.defense.draws) if self.defense.random else 1

    def forward(self, x: Tensor) -> Tensor:
        self.expect(x)
        if self.draws == 1:
            return self.defense.logits(self.inner, x, self.passing(x))
        return averaged([self.defense.logits(self.inner, x, self.passing(x, draw)) for draw in range(self.draws)])

    def passing(self, x: Tensor, draw: int = 0) -> Passing:
        return Passing(self.state, self.view, self.seed, draw, x)

    def seen(self, view: View) -> DefendedClassifier:
        """The same defense, looked at in another way; an attacker's view draws its own random numbers.

        Several random defenses in a row: the draws are those of the first one, since it gives the others new images.
        """
        once = view.draws and self.defense.random
        behind = self.inner.seen(View(view.adaptive, 1 if once else view.draws, view.nearest, view.against))
        seed = derive_seed(self.seed, "attacker") if view.adaptive else self.seed
        return DefendedClassifier(behind, self.defense, self._state, seed=seed, view=view)

    def redrawn(self, *key: object) -> DefendedClassifier:
        inner, seed = self.inner.redrawn(*key), derive_seed(self.seed, *key)
        return DefendedClassifier(inner, self.defense, self._state, seed=seed, view=self.view)

    def around(self, inner: Classifier) -> DefendedClassifier:
        """The same defense, in the same view, around another copy of what lies behind it."""
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.inner = inner
        return other

    def with_normalization(self, normalization: Normalization) -> DefendedClassifier:
        inner = self.inner.with_normalization(normalization)
        return DefendedClassifier(inner, self.defense, self._state, seed=self.seed, view=self.view)
