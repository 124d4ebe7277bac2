"""The universal adversarial perturbation."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.criterion import Criterion
from auditor.kit.randomness import derive_seed


class UAP(Attack):
    """Universal adversarial perturbation (Moosavi-Dezfooli et al. 2017, arXiv 1610.08401): one perturbation for all images.

    Algorithm 1: for each image, in random order, that x + v does not fool yet, DeepFool finds the smallest L2 step that
    makes x + v fool the model; v moves by that step and back into the ball. This repeats until all but ``delta`` are
    fooled.

    No image gets a v that it helped to fit: the harness splits the samples into two halves and fits one v on each for
    the other (see ``Attack.fit``). Fitted on a hundred images instead of the paper's thousands, v fills little of a
    large ball and can do worse than random signs; ``stretched`` therefore adds epsilon times its sign (in L2: its
    direction). With a target per sample, v is fitted to reach each sample's own target and is weak.

    Three passes and delta 0.2 are ART's as the NIP paper ran it (with L∞ 0.1); the paper sets no limit on passes. Ten DeepFool
    steps, overshoot 0.02 and the 10 most likely classes are those of the authors' code.
    """

    title: ClassVar[str] = "UAP"
    kind: Literal["uap"] = "uap"
    fitting_samples: int = Field(100, ge=1, le=100_000, description="Maximum samples of each half to fit on.")
    passes: int = Field(3, ge=1, le=1000, description="Maximum passes over these samples.")
    delta: float = Field(0.2, ge=0, lt=1, description="Fitting ends when at most this share of them is not fooled.")
    deepfool_steps: int = Field(10, ge=1, le=1000, description="Maximum DeepFool steps for one sample.")
    candidates: int = Field(10, ge=1, le=1000, description="How many of the most likely classes DeepFool looks at.")
    overshoot: float = Field(0.02, ge=0, le=1, description="How much further than its estimate DeepFool steps.")
    stretched: bool = Field(True, description="Stretch v to use all of epsilon; the paper adds v as it was fitted.")

    @property
    def iterations(self) -> int:
        return 1

    @property
    def cost(self) -> float:
        fitting = self.passes * (2 + self.deepfool_steps * (2.0 + 2 * self.candidates))
        return fitting + 1

    @property
    def fitted_on(self) -> int:
        return self.fitting_samples

    def fit(self, rows: Rows, ask: Callable[[Rows], Query]) -> Tensor:
        """v over epsilon, (C, H, W); zero where there is nothing to learn from."""
        v = rows.x.new_zeros(1, *rows.x.shape[1:])
        for turn in range(self.passes if len(rows) else 0):
            order = np.random.default_rng(derive_seed(rows.seed, "uap", turn)).permutation(len(rows))
            for place in order:
                row = rows[np.arange(len(rows)) == place]
                v = row.ball.shrink(v + self._deepfool(row, v, ask(row)))
            fooled = rows.criterion.is_adversarial(ask(rows).logits(rows.x + v))
            if fooled.double().mean() >= 1 - self.delta:
                break
        return (v / rows.epsilon[0])[0] if len(rows) else v[0]

    def step(self, rows: Rows, query: Query) -> Tensor:
        v = rows.memory["fitted"]
        return rows.x + rows.ball.epsilon * (rows.ball.steepest(v, rows.x) if self.stretched else v)

    def _deepfool(self, row: Rows, v: Tensor, query: Query) -> Tensor:
        """The step, (1, C, H, W), that fools ``x + v + step``; zero where it is fooled already, or not in time."""
        step = torch.zeros_like(v)
        for _ in range(self.deepfool_steps):
            if row.criterion.is_adversarial(query.logits(row.x + v + step)).all():
                return step
            lead = query.jacobian(lambda logits: self._leads(row.criterion, logits), row.x + v + step)
            step = step + (1 + self.overshoot) * _to_nearest_plane(lead.value, lead.outputs)
        fooled = row.criterion.is_adversarial(query.logits(row.x + v + step)).all()
        return step if fooled else torch.zeros_like(v)

    def _leads(self, criterion: Criterion, logits: Tensor) -> Tensor:
        """Logits of the most likely classes that would do, less that of the class to leave, (B, M)."""
        reach = criterion.reach(logits)[:, : self.candidates]
        return logits.gather(1, reach) - logits.gather(1, criterion.leave(logits)[:, None])


def _to_nearest_plane(normals: Tensor, values: Tensor) -> Tensor:
    """The smallest step in L2 to a plane ``value + normal . step = 0``: normals (B, M, C, H, W), values (B, M)."""
    length = normals.flatten(2).norm(dim=2).clamp_min(1e-12)
    distance = (values.abs() + 1e-4) / length  # a little more, so a flat start moves (the authors' code)
    nearest = distance.argmin(1)
    row = torch.arange(len(values), device=values.device)
    reach = (distance / length)[row, nearest].view(-1, 1, 1, 1)
    return reach * normals[row, nearest]
