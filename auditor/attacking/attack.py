"""Attack: proposes perturbed images, step by step; the harness (attack_run.py) projects, judges, counts and refills."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.attacking.criterion import Criterion
from auditor.attacking.threat import Ball, Norm
from auditor.kit import plugins
from auditor.kit.capability import Capability, Catalog
from auditor.kit.randomness import RowRandom


@dataclass(frozen=True)
class Rows:
    """The samples in flight, one row each; rows come and go, so everything here has one entry per row.

    ``position``: place of the sample in the list under attack; ``sample``: its id; ``restart``, ``step``: its own
    counters; ``level``: how many radii were tried before (all int64, (B,)). ``x``, ``x_adv``: float, (B, C, H, W).
    ``best``: the closest adversarial image that the model was asked about, with its logits and its distance (inf if
    there is none). ``epsilon``: the radius; ``low`` and ``high``: where the search for the smallest radius stands, (B,).
    ``memory``: the attack's own tensors, by name; it may add and replace entries. Where draws judge (see
    ``auditor.attacking.harness.judged_run``): ``peak``, the image of this run that came closest to what the attacker wants, with
    its margin; ``kept``, the image chosen of all runs, with the share of draws that it was chosen by; else None.
    """

    position: NDArray[np.int64]
    sample: NDArray[np.int64]
    restart: NDArray[np.int64]
    step: NDArray[np.int64]
    level: NDArray[np.int64]
    x: Tensor
    x_adv: Tensor
    best: Tensor
    best_logits: Tensor
    best_distance: Tensor
    epsilon: Tensor
    low: Tensor
    high: Tensor
    criterion: Criterion
    norm: Norm
    seed: int
    memory: dict[str, Tensor] = field(default_factory=dict)
    peak: Tensor | None = None
    peak_margin: Tensor | None = None
    kept: Tensor | None = None
    kept_share: Tensor | None = None

    def __len__(self) -> int:
        return len(self.position)

    @property
    def ball(self) -> Ball:
        """What each row may move to: the threat model's ball."""
        return Ball(self.norm, self.epsilon.view(-1, 1, 1, 1))

    @property
    def steps(self) -> Tensor:
        """``step`` as a tensor on the images' device, (B,)."""
        return torch.from_numpy(self.step).to(self.x.device)

    def random(self, scope: str) -> RowRandom:
        """Random numbers that depend on the seed, the scope and the row's sample, restart, level and step, not on the batch."""
        keys = zip(*(item.tolist() for item in (self.sample, self.restart, self.level, self.step)), strict=True)
        return RowRandom(self.seed, scope, list(keys))

    def __getitem__(self, mask: NDArray[np.bool_]) -> Rows:
        """The rows where ``mask`` is true."""
        index = torch.from_numpy(np.flatnonzero(mask)).to(self.x.device)
        parts: dict[str, Any] = {"criterion": self.criterion[index]}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                parts[item.name] = value[mask]
            elif isinstance(value, Tensor):
                parts[item.name] = value[index]
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


class Gradient(NamedTuple):
    """``value``: gradient of the loss, shape of the points. ``loss``: (B,). ``logits``: (B, K)."""

    value: Tensor
    loss: Tensor
    logits: Tensor


class Jacobian(NamedTuple):
    """``value``: (B, M, C, H, W), gradients of the M ``outputs``, (B, M). ``logits``: (B, K)."""

    value: Tensor
    outputs: Tensor
    logits: Tensor


Loss = Callable[[Criterion, Tensor], Tensor]
"""A loss to ascend: from the rows' criterion and logits (B, K) to (B,); with S images per row it gets B * S rows of both."""


class Query(Protocol):
    """What an attack may ask of the model. The harness judges and counts every image that the attack asks about.

    ``points`` are by default the rows' current ``x_adv``; others are first cut to the box [0, 1]. They have the shape of the
    rows' images, or one more dimension after the first for several images per row, (B, S, C, H, W); all answers then have
    that dimension, too.
    """

    def logits(self, points: Tensor | None = None) -> Tensor:
        """Logits, (B, K), without a gradient."""

    def gradient(self, points: Tensor | None = None, loss: Loss | None = None) -> Gradient:
        """Gradient of a loss that ascends towards what the attacker wants, by default the criterion's."""

    def jacobian(self, outputs: Callable[[Tensor], Tensor], points: Tensor | None = None) -> Jacobian:
        """Gradients of several outputs, which a function picks from the logits: (B, K) to (B, M). Points are (B, C, H, W)."""

    def retire(self, rows: Tensor) -> None:
        """End the run of these rows (bool, (B,)) after this step: nothing is left to try."""

    @property
    def best(self) -> Tensor:
        """The closest adversarial image of each row, also of this very step, (B, C, H, W); the clean one if there is none."""

    @property
    def best_distance(self) -> Tensor:
        """Its distance in the threat model's norm, (B,); inf if there is none."""


Budget = Literal["fixed", "minimal"]
"""What an attack may spend: epsilon, or as little as it can, however far that is."""
BUDGETS: tuple[Budget, ...] = get_args(Budget)


class Attack(Capability):
    """A method to find adversarial images. One subclass per file in ``auditor.attacking.attacks``.

    ``start`` gives the first image of each row, ``step`` the next one. The harness judges every image that the model is
    asked about. What ``step`` returns is projected (into the threat model's ball, or only into the box [0, 1] where
    ``bounded`` is false) and judged when the model sees it next. A run has ``iterations`` steps; an image gets ``runs``
    of them.

    Under the budget "fixed" a row leaves as soon as one of its images is adversarial within epsilon. Under "minimal"
    the closest adversarial image is wanted: the attack itself searches for it if ``minimizes`` is true; otherwise the
    harness runs the attack at one radius after another.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2})
    bounded: ClassVar[bool] = True
    minimizes: ClassVar[bool] = False
    uses_gradients: ClassVar[bool] = True
    """Whether it needs the model's gradient (a "white-box" attack); others only look at logits or decisions."""
    control: ClassVar[bool] = False
    """Whether it is a control, which does not search: it shows what chance alone does, and every attack must beat
    it."""

    budget: Budget = Field(
        "fixed",
        description="fixed: any image within epsilon will do. minimal: look for the closest adversarial image of each sample.",
    )

    @property
    def runs(self) -> int:
        """Independent runs per image; one success is enough."""
        return 1

    @property
    def averages(self) -> int:
        """How many answers of a model with random outputs the attack itself averages for one gradient."""
        return 1

    def plain(self) -> Attack:
        """The same attack without its own averaging, for a model whose answers are averaged already."""
        return self

    @property
    def single(self) -> bool:
        """Whether it is one run within a fixed budget, so each sample has one last image."""
        return self.runs == 1 and self.budget == "fixed"

    @property
    def goes_on(self) -> bool:
        """Whether it may go on with all its steps after a success, and gets stronger that way: single, by gradients, in
        a ball."""
        return self.single and self.uses_gradients and self.bounded and not self.minimizes

    @property
    @abstractmethod
    def iterations(self) -> int:
        """Steps of one run."""

    @property
    def cost(self) -> float:
        """Passes that one run of one image takes if nothing ends it early, in forward passes; a backward pass counts as two."""
        return 3.0 * self.iterations + 1

    @property
    def fitted_on(self) -> int:
        """How many samples it learns from, at most, before any row runs; 0 if every sample is attacked by itself."""
        return 0

    def fit(self, rows: Rows, ask: Callable[[Rows], Query]) -> Tensor:
        """What it learns from these samples (maybe none): a tensor, which rows find in ``memory["fitted"]``, one copy each.

        ``ask`` opens questions about some of the rows. The harness splits the samples into two halves by their ids and
        the seed, fits on each, and gives rows what was learnt from the other half; the passes are divided among all
        samples.
        """
        raise NotImplementedError(f"{self.display_title()} learns nothing")

    def start(self, rows: Rows, query: Query) -> Tensor:
        """The first image of each row; by default the clean image."""
        return rows.x

    @abstractmethod
    def step(self, rows: Rows, query: Query) -> Tensor:
        """The next image of each row."""


class Ensemble(Attack):
    """Several attacks, run one after another, each on the samples that none has fooled yet."""

    budget: Literal["fixed"] = Field("fixed", description="fixed: any image within epsilon will do.")

    @property
    def single(self) -> bool:
        return False

    @property
    @abstractmethod
    def stages(self) -> tuple[Attack, ...]:
        """The attacks, in order."""

    @property
    def iterations(self) -> int:
        return sum(stage.runs * stage.iterations for stage in self.stages)

    @property
    def cost(self) -> float:
        return sum(stage.runs * stage.cost for stage in self.stages)

    def step(self, rows: Rows, query: Query) -> Tensor:
        raise TypeError("the harness runs the stages of an ensemble, not the ensemble")


ATTACKS: Catalog[Attack] = Catalog("auditor.attacking.attacks", Attack, entry_points=plugins.ATTACKS)
