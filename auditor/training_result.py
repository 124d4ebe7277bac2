"""TrainingResult: what one training did, as data that outlives the model; Point: one point of its live curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from auditor.flag import Flag
from auditor.metrics import Rate
from auditor.training_spec import TrainingSpec


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PassCount(_Data):
    """Images that went through the network, forwards and backwards."""

    forwards: int = 0
    backwards: int = 0

    @property
    def cost(self) -> int:
        """In forward passes; a backward pass counts as two."""
        return self.forwards + 2 * self.backwards


class Point(_Data):
    """Where the training stands after ``step`` steps and ``epoch`` (a fraction of) epochs.

    ``terms``: means of the loss and its parts since the point before; empty at the start. ``clean``, ``robust``: validation
    accuracies, and ``sensitivity``: mean over the neurons of each layer (Zhang et al. 2020, eq. 1) on validation images; only
    at the end of an epoch.
    """

    step: int
    epoch: float
    learning_rate: float
    terms: dict[str, float] = {}
    clean: Rate | None = None
    robust: Rate | None = None
    sensitivity: dict[str, float] = {}


class Best(_Data):
    """The weights that are kept: of which epoch (0: the start, before any epoch was validated), and their validation."""

    epoch: int
    clean: Rate | None = None
    robust: Rate | None = None


class TrainingResult(_Data):
    """What came of a training. ``parent_sha256`` is of the tensors that it started from (before new weights were drawn).

    ``stopped``: "finished" all steps, "patience" ran out, "cancelled", or "diverged" where the loss was no number.
    ``training`` and ``validation``: the passes of each; what a method needs to prepare itself belongs to the training.
    """

    spec: TrainingSpec
    points: tuple[Point, ...]
    best: Best
    best_sha256: str = Field(description="SHA-256 of the file best.safetensors.")
    steps: int
    epochs: float
    stopped: Literal["finished", "patience", "cancelled", "diverged"]
    training: PassCount
    validation: PassCount
    seconds: float
    training_samples: int
    validation_samples: int
    parent_sha256: str
    data_sha256: str
    versions: dict[str, str]
    revision: str
    device: str
    processes: int = 1
    flags: tuple[Flag, ...] = ()
    notes: tuple[str, ...] = ()
    """How the data set was read, and its classes on the model's."""

    @property
    def start(self) -> Best:
        """The network that the training started from, on the validation images: the parent, unless new weights were drawn."""
        return started(self.points)


def started(points: Sequence[Point]) -> Best:
    """The validation of the network that these curves begin with; empty where it was not measured."""
    first = points[0] if points and points[0].step == 0 else None
    return Best(epoch=0) if first is None else Best(epoch=0, clean=first.clean, robust=first.robust)
