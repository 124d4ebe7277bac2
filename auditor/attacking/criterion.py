"""Criteria: what an attacker wants, as values that give the loss to ascend and say what counts as success."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.kit.errors import SpecError
from auditor.kit.randomness import derive_seed
from auditor.models.classifier import predicted


class Criterion(Protocol):
    """What an attacker wants of each row of a batch."""

    def loss(self, logits: Tensor) -> Tensor:
        """The loss to ascend for each row, shape (B,), from logits of shape (B, K)."""

    def is_adversarial(self, logits: Tensor) -> Tensor:
        """Which rows have what the attacker wants; bool, shape (B,). Logits that are not finite are no class at all."""

    def leave(self, logits: Tensor) -> Tensor:
        """The class that each row must fall below another, int64, shape (B,): the label, or the best class but the target."""

    def reach(self, logits: Tensor) -> Tensor:
        """The classes that would do, most likely first, int64, shape (B, M): all but the label, or the target alone."""

    def __getitem__(self, rows: Tensor) -> Criterion:
        """The criterion of some of the rows (an index or a bool mask)."""

    def to(self, device: torch.device) -> Criterion:
        """The same on another device."""

    def joined(self, other: Criterion) -> Criterion:
        """These rows followed by those of ``other``, a criterion of the same kind."""


@dataclass(frozen=True)
class Misclassification:
    """Any class but the label; ascends the cross-entropy of the label. ``labels``: int64, shape (B,)."""

    labels: Tensor

    def loss(self, logits: Tensor) -> Tensor:
        return cross_entropy(logits, self.labels, reduction="none")

    def is_adversarial(self, logits: Tensor) -> Tensor:
        return predicted(logits) != self.labels

    def leave(self, logits: Tensor) -> Tensor:
        return self.labels

    def reach(self, logits: Tensor) -> Tensor:
        others = logits.scatter(1, self.labels[:, None], -torch.inf)
        return others.argsort(dim=1, descending=True, stable=True)[:, :-1]

    def __getitem__(self, rows: Tensor) -> Misclassification:
        return Misclassification(self.labels[rows])

    def to(self, device: torch.device) -> Misclassification:
        return Misclassification(self.labels.to(device))

    def joined(self, other: Criterion) -> Misclassification:
        assert isinstance(other, Misclassification)
        return Misclassification(torch.cat([self.labels, other.labels]))


@dataclass(frozen=True)
class TargetedMisclassification:
    """Exactly the target class; descends the cross-entropy of the target. ``targets``: int64, shape (B,)."""

    targets: Tensor

    def loss(self, logits: Tensor) -> Tensor:
        return -cross_entropy(logits, self.targets, reduction="none")

    def is_adversarial(self, logits: Tensor) -> Tensor:
        return predicted(logits) == self.targets

    def leave(self, logits: Tensor) -> Tensor:
        return logits.scatter(1, self.targets[:, None], -torch.inf).argmax(1)

    def reach(self, logits: Tensor) -> Tensor:
        return self.targets[:, None]

    def __getitem__(self, rows: Tensor) -> TargetedMisclassification:
        return TargetedMisclassification(self.targets[rows])

    def to(self, device: torch.device) -> TargetedMisclassification:
        return TargetedMisclassification(self.targets.to(device))

    def joined(self, other: Criterion) -> TargetedMisclassification:
        assert isinstance(other, TargetedMisclassification)
        return TargetedMisclassification(torch.cat([self.targets, other.targets]))


class Untargeted(BaseModel):
    """The attacker wants any wrong class."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["untargeted"] = "untargeted"

    def __str__(self) -> str:
        return "untargeted (any wrong class)"

    def placed(self, class_names: Sequence[str] | None) -> Untargeted:
        """The goal with a target class by number: this has none."""
        return self

    def keeps(self, labels: Tensor) -> Tensor:
        """Which samples can be attacked at all; bool, shape (N,)."""
        return torch.ones_like(labels, dtype=torch.bool)

    def criterion(self, labels: Tensor, logits: Tensor, ids: Sequence[int], seed: int) -> Criterion:
        """What the attacker wants of each sample, from its label and its clean logits."""
        return Misclassification(labels)


class Targeted(BaseModel):
    """The attacker wants one particular wrong class."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["targeted"] = "targeted"
    rule: Literal["next", "least_likely", "random", "class"] = Field(
        "least_likely",
        description="Which class: the one after the label, the one with the smallest clean logit, a random one, or a fixed one.",
    )
    target_class: int | str | None = Field(
        None, description="The class to reach, by number or by name, for rule 'class'."
    )

    @field_validator("target_class", mode="before")
    @classmethod
    def _number_as_text(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value

    @field_validator("target_class")
    @classmethod
    def _from_zero(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and value < 0:
            raise ValueError(f"expected the number of a class, from 0, or its name; got {value}")
        return value

    @model_validator(mode="after")
    def _class_is_given(self) -> Targeted:
        if (self.rule == "class") != (self.target_class is not None):
            raise ValueError("target_class is required for rule 'class' and not allowed for other rules")
        return self

    def __str__(self) -> str:
        return (
            f"targeted (class {self.target_class})"
            if self.rule == "class"
            else f"targeted ({self.rule.replace('_', ' ')})"
        )

    def placed(self, class_names: Sequence[str] | None) -> Targeted:
        """The same with the number of the target class, where it goes by its name. Raises SpecError for an unknown name."""
        if not isinstance(self.target_class, str):
            return self
        wanted = self.target_class.casefold()
        places = [index for index, name in enumerate(class_names or ()) if name.casefold() == wanted]
        if len(places) != 1:
            known = ", ".join(map(repr, (class_names or ())[:10])) + ", ..." * (len(class_names or ()) > 10)
            raise SpecError(
                f"target_class: there is no class {self.target_class!r}.",
                f"The classes are {known}; or give a number."
                if known
                else "The classes have no names: give a number, from 0.",
            )
        return self.model_copy(update={"target_class": places[0]})

    def keeps(self, labels: Tensor) -> Tensor:
        return torch.ones_like(labels, dtype=torch.bool) if self.target_class is None else labels != self._number()

    def _number(self) -> int:
        if not isinstance(self.target_class, int):
            raise SpecError(f"target_class: {self.target_class!r} is a name, and no class names are known here.")
        return self.target_class

    def criterion(self, labels: Tensor, logits: Tensor, ids: Sequence[int], seed: int) -> Criterion:
        classes = logits.shape[1]
        if self.target_class is not None:
            if self._number() >= classes:
                raise SpecError(
                    f"target_class {self.target_class} does not exist.", f"The model has classes 0 to {classes - 1}."
                )
            return TargetedMisclassification(torch.full_like(labels, self._number()))
        if self.rule == "next":
            return TargetedMisclassification((labels + 1) % classes)
        if self.rule == "least_likely":
            others = logits.scatter(1, labels[:, None], torch.inf)
            return TargetedMisclassification(others.argmin(1))
        shifts = [1 + derive_seed(seed, "target", sample) % (classes - 1) for sample in ids]
        return TargetedMisclassification((labels + torch.tensor(shifts, device=labels.device)) % classes)


Goal = Annotated[Untargeted | Targeted, Field(discriminator="kind")]


def goal_of(data: object) -> Goal:
    """From plain data; nothing at all is the untargeted goal."""
    return TypeAdapter[Goal](Goal).validate_python(data or {"kind": "untargeted"})
