"""TrainingResult: what one training did, as data that outlives the model; TrainingPoint: one point of its live curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from auditor.hardening.spec import TrainingSpec
from auditor.kit.document import Data, Document, nothing
from auditor.kit.flag import Flag
from auditor.kit.provenance import Provenance, provenance_lifted
from auditor.kit.statistics.estimate import Rate
from auditor.models.class_table import ClassTable


class PassCount(Data):
    """Images that went through the network, forwards and backwards."""

    forwards: int = 0
    backwards: int = 0

    @property
    def cost(self) -> int:
        """In forward passes; a backward pass counts as two."""
        return self.forwards + 2 * self.backwards


class TrainingPoint(Data):
    """Where the training stands after ``step`` steps and ``epoch`` (a fraction of) epochs.

    ``terms``: means of the loss and its parts since the point before; empty at the start. ``clean``, ``robust``: validation
    accuracies, and ``sensitivity``: mean over the neurons of each layer (Zhang et al. 2020, eq. 1) on validation images; only
    at the end of an epoch.
    """

    step: int
    epoch: float
    learning_rate: float
    terms: dict[str, float] = Field(default_factory=dict)
    clean: Rate | None = None
    robust: Rate | None = None
    sensitivity: dict[str, float] = Field(default_factory=dict)


class BestWeights(Data):
    """The weights that are kept: of which epoch (0: the start, before any epoch was validated), and their validation."""

    epoch: int
    clean: Rate | None = None
    robust: Rate | None = None


class TrainingResult(Document):
    """The result of a training. ``parent_sha256`` is of the tensors that it started from (before new weights were drawn).

    ``stopped``: "finished" all steps, "patience" ran out, "cancelled", or "diverged" if the loss became NaN or infinite.
    ``training`` and ``validation``: the passes of each; what a method needs to prepare itself belongs to the training.
    """

    subject: ClassVar[str] = "training"

    version: int = 2
    spec: TrainingSpec
    points: tuple[TrainingPoint, ...]
    best: BestWeights
    best_sha256: str = Field(description="SHA-256 of the file best.safetensors.")
    steps: int
    epochs: float
    stopped: Literal["finished", "patience", "cancelled", "diverged"]
    training: PassCount
    validation: PassCount
    training_samples: int
    validation_samples: int
    parent_sha256: str
    data_sha256: str
    provenance: Provenance
    flags: tuple[Flag, ...] = ()
    classes: ClassTable | None = Field(None, exclude_if=nothing)
    """The classes of the data set on the model's; None in results of before it was kept."""
    notes: tuple[str, ...] = ()
    """How the data set was read, and its classes on the model's."""

    @classmethod
    def lift(cls, data: dict[str, object]) -> dict[str, object]:
        """Version 1 had its provenance among the other fields, and did not note when it started."""
        return (
            provenance_lifted(data | {"started": data.get("started", "")}, "processes") if "versions" in data else data
        )

    @property
    def start(self) -> BestWeights:
        """The network that the training started from, on the validation images: the parent, unless new weights were drawn."""
        return started(self.points)


def started(points: Sequence[TrainingPoint]) -> BestWeights:
    """The validation of the network that these curves begin with; empty where it was not measured."""
    first = points[0] if points and points[0].step == 0 else None
    return BestWeights(epoch=0) if first is None else BestWeights(epoch=0, clean=first.clean, robust=first.robust)
