"""The state of a training: what moves from step to step, and the checkpoints through which it outlives its process."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from auditor.hardening.hardening import Memory
from auditor.hardening.learning import checkpoint
from auditor.hardening.learning.averaging import AveragedState
from auditor.hardening.learning.checkpoint import BEST, LAST, ComputeSite, prefixed, under
from auditor.hardening.learning.passes import Passes
from auditor.hardening.learning.trainee import Trainee
from auditor.hardening.result import BestWeights, TrainingPoint
from auditor.hardening.spec import TrainingSpec
from auditor.models.classifier import Classifier

CHECKPOINT_SHARE = 0.02
"""Of the time, writing checkpoints may take this share."""


class TrainingState(BaseModel):
    """Where a training stands, but for its tensors. ``sums``: of the loss and its parts over ``summed`` steps, since the last
    point."""

    step: int = 0
    points: list[TrainingPoint] = []
    best: BestWeights = BestWeights(epoch=0)
    training: Passes = Passes()
    validation: Passes = Passes()
    seconds: float = 0.0
    sums: dict[str, float] = {}
    summed: int = 0
    averaged: int = 0


@dataclass
class Learner:
    """All that a step changes. ``memory``: what the method goes by."""

    trainee: Trainee
    optimizer: torch.optim.Optimizer
    average: AveragedState = field(default_factory=AveragedState)
    memory: Memory = field(default_factory=dict)
    state: TrainingState = field(default_factory=TrainingState)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of it, under ``network/``, ``momentum/``, ``average/`` and ``memory/``."""
        momentum = {
            name: self.optimizer.state[value]["momentum_buffer"]
            for name, value in self.trainee.parameters.items()
            if self.optimizer.state.get(value, {}).get("momentum_buffer") is not None
        }
        return (
            prefixed("network", self.trainee.network.state_dict())
            | prefixed("momentum", momentum)
            | prefixed("average", self.average.state)
            | prefixed("memory", self.memory)
        )

    def restore(self, tensors: Mapping[str, Tensor], state: TrainingState) -> None:
        """Be as it was when these were taken."""
        self.state = state
        self.trainee.network.load_state_dict(under("network", tensors))
        self.trainee.passes = state.training
        parameters = self.trainee.parameters
        for name, value in under("momentum", tensors).items():
            parameter = parameters[name]
            self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(value)
        self.average.load(self._on_device("average", tensors), state.averaged)
        self.memory = self._on_device("memory", tensors)

    def _on_device(self, prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        device = self.trainee.classifier.device
        return {name: value.to(device) for name, value in under(prefix, tensors).items()}


class Checkpoints:
    """The files of one training: the checkpoint from which it goes on, and the weights that it keeps.

    ``interval``: seconds between checkpoints, more where writing is slow; 0 for one after every step.
    """

    def __init__(self, folder: Path, fingerprint: str, place: ComputeSite, interval: float) -> None:
        self.folder, self.fingerprint, self.place = folder, fingerprint, place
        self._interval, self._writing = interval, 0.0
        self._saved = self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start or the last checkpoint."""
        return time.monotonic() - self._began

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        wanted = max(self._interval, self._writing / CHECKPOINT_SHARE) if self._interval else 0.0
        return time.monotonic() - self._saved >= wanted

    def save(self, learner: Learner) -> None:
        """Write the checkpoint."""
        began = time.monotonic()
        state = learner.state
        state.training, state.averaged = learner.trainee.passes, learner.average.count
        state.seconds += began - self._began
        data = {"fingerprint": self.fingerprint, "place": self.place, "state": state.model_dump(mode="json")}
        checkpoint.save(self.folder / LAST, learner.tensors(), data)
        self._began = self._saved = time.monotonic()
        self._writing = self._saved - began

    def keep(self, candidate: Classifier, best: BestWeights) -> None:
        """These weights are the best so far."""
        data = {"fingerprint": self.fingerprint, "place": self.place, "best": best.model_dump(mode="json")}
        checkpoint.save(self.folder / BEST, candidate.network.state_dict(), data)

    @property
    def found(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return (self.folder / LAST).exists()

    def resume(self, learner: Learner) -> None:
        """Go on from the checkpoint. Raises MismatchError if it is that of another training, or made elsewhere."""
        tensors, data = checkpoint.read(self.folder / LAST, self.fingerprint, self.place)
        state = TrainingState.model_validate(data["state"])
        # The weights that are kept may be newer than the checkpoint.
        best = checkpoint.read(self.folder / BEST, self.fingerprint, self.place).data["best"]
        state.best = BestWeights.model_validate(best)
        learner.restore(tensors, state)


def fingerprint(spec: TrainingSpec, *digests: str) -> str:
    """What a checkpoint must have been made for; where, its place says."""
    parts = [spec.model_dump(mode="json", exclude={"device", "processes"}), *digests]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
