"""The fast gradient sign method, and its scan for the smallest step that works."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows

LEVELS, BLOCK = 1000, 20
"""Under the minimal budget (foolbox 2.3): 1000 step lengths up to the width of the box, asked 20 at a time. If one of the first
20 works, 20 more up to the first that does."""


class FGSM(Attack):
    """Fast gradient sign method (Goodfellow et al. 2015, arXiv 1412.6572): one step of length epsilon along the gradient.

    In L2 the step follows the gradient itself (the "fast gradient method"). Under the minimal budget it scans growing
    lengths along the one gradient, as foolbox 2.3 does (level k of 1000 is k/1000 of the width of the box in the norm: 1 in
    L∞, the root of the number of entries in L2). A bisection would not work: a longer step can fail where a shorter one
    succeeded.
    """

    minimizes: ClassVar[bool] = True
    title: ClassVar[str] = "FGSM"
    kind: Literal["fgsm"] = "fgsm"

    @property
    def iterations(self) -> int:
        return 1 if self.budget == "fixed" else LEVELS // BLOCK + 1

    @property
    def cost(self) -> float:
        return 4.0 if self.budget == "fixed" else 3.0 + LEVELS + BLOCK + 1

    def start(self, rows: Rows, query: Query) -> Tensor:
        if self.budget == "minimal":
            rows.memory["direction"] = rows.ball.steepest(query.gradient(rows.x).value, rows.x)
            rows.memory["refined"] = torch.zeros_like(rows.epsilon)
        return rows.x

    def step(self, rows: Rows, query: Query) -> Tensor:
        if self.budget == "fixed":
            return rows.x_adv + rows.ball.epsilon * rows.ball.steepest(query.gradient().value, rows.x_adv)
        return self._scan(rows, query)

    def _scan(self, rows: Rows, query: Query) -> Tensor:
        """A block of lengths; ``refined`` is the length to divide further, 0 if there is none yet."""
        refined = rows.memory["refined"]
        count = torch.arange(1, BLOCK + 1, device=rows.x.device)
        width = rows.ball.distance(torch.ones_like(rows.x), torch.zeros_like(rows.x))
        coarse = (rows.steps[:, None] * BLOCK + count) / LEVELS * width[:, None]
        length = torch.where(refined[:, None] > 0, refined[:, None] * count / BLOCK, coarse)
        images = rows.x[:, None] + length.view(-1, BLOCK, 1, 1, 1) * rows.memory["direction"][:, None]
        logits = query.logits(images)
        index = torch.arange(len(rows), device=rows.x.device).repeat_interleave(BLOCK)
        works = rows.criterion[index].is_adversarial(logits.flatten(0, 1)).view(-1, BLOCK)
        first = length.gather(1, works.long().argmax(1, keepdim=True)).squeeze(1)
        again = works.any(1) & (rows.steps == 0)
        rows.memory["refined"] = torch.where(again, first, refined)
        query.retire((works.any(1) & ~again) | (refined > 0))
        return rows.x
