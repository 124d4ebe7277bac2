"""Attack: proposes perturbed images, step by step; the harness (evaluation.py) projects, judges, counts and refills."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.capability import Capability, Catalog
from auditor.criterion import Criterion
from auditor.randomness import RowRandom
from auditor.threat import Norm, ThreatModel


@dataclass(frozen=True)
class Rows:
    """The samples in flight, one row each; rows come and go, so everything here is per row.

    ``position``: place of the sample in the list under attack; ``sample``: its id; ``restart``, ``step``: its own
    counters (all int64, (B,)). ``x``, ``x_adv``: float, (B, C, H, W). ``memory``: the attack's own tensors, by name.
    """

    position: NDArray[np.int64]
    sample: NDArray[np.int64]
    restart: NDArray[np.int64]
    step: NDArray[np.int64]
    x: Tensor
    x_adv: Tensor
    criterion: Criterion
    seed: int
    memory: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.position)

    def random(self, scope: str) -> RowRandom:
        """Random numbers that depend on the seed, the scope and the row's sample, restart and step, not on the batch."""
        keys = zip(self.sample.tolist(), self.restart.tolist(), self.step.tolist(), strict=True)
        return RowRandom(self.seed, scope, list(keys))

    def __getitem__(self, mask: NDArray[np.bool_]) -> Rows:
        """The rows where ``mask`` is true."""
        index = torch.from_numpy(np.flatnonzero(mask)).to(self.x.device)
        parts: dict[str, Any] = {name: getattr(self, name)[mask] for name in ("position", "sample", "restart", "step")}
        parts |= {name: getattr(self, name)[index] for name in ("x", "x_adv", "criterion")}
        return replace(self, **parts, memory={name: value[index] for name, value in self.memory.items()})

    def joined(self, other: Rows) -> Rows:
        """These rows followed by those of ``other``, which runs the same attack."""
        joined: dict[str, Any] = {
            item.name: np.concatenate([mine, theirs]) if isinstance(mine, np.ndarray) else torch.cat([mine, theirs])
            for item in fields(self)
            for mine, theirs in [(getattr(self, item.name), getattr(other, item.name))]
            if isinstance(mine, np.ndarray | Tensor)
        }
        memory = {name: torch.cat([value, other.memory[name]]) for name, value in self.memory.items()}
        return replace(self, **joined, criterion=self.criterion.joined(other.criterion), memory=memory)


class Query(Protocol):
    """What an attack may ask of the model. Every answer is judged and counted by the harness."""

    def gradient(self, points: Tensor | None = None) -> Tensor:
        """Gradient of the criterion's loss (to ascend) at ``points``, by default at the rows' current ``x_adv``.

        Shape of the images. Other points are first projected into the threat model.
        """

    def loss(self, points: Tensor | None = None) -> Tensor:
        """The criterion's loss, (B,), without a gradient."""


class Attack(Capability):
    """A method to find adversarial images. One subclass per file in ``auditor.attacks``.

    ``start`` gives the first image of each row, ``step`` the next one; what they return is projected into the threat
    model, judged and, when it has what the attacker wants, taken out, by the harness. A run has ``iterations`` steps; an
    image gets ``runs`` of them.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset(Norm)

    @property
    def runs(self) -> int:
        """Independent runs per image; one success is enough."""
        return 1

    @property
    @abstractmethod
    def iterations(self) -> int:
        """Steps of one run."""

    def start(self, rows: Rows, threat: ThreatModel) -> Tensor:
        """The first image of each row; by default the clean image."""
        return rows.x

    @abstractmethod
    def step(self, rows: Rows, threat: ThreatModel, query: Query) -> Tensor:
        """The next image of each row."""


ATTACKS: Catalog[Attack] = Catalog("auditor.attacks", Attack)
