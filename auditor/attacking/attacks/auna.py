"""Additive uniform noise of growing size."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.threat import Norm

BLOCK = 20
"""Levels in one question to the model."""


class AUNA(Attack):
    """Additive uniform noise attack (foolbox 2.3, Rauber et al. 2017, arXiv 1707.04131): uniform noise of growing size
    until it fools the model.

    Level k of n has size s = k/n. Foolbox draws from U(-s, s) and then multiplies by s once more, so the noise is no
    larger than s²; that is the default here, because published numbers use it. One image per level, cut to the box; the
    scan ends with the first level that works. It minimizes: under a fixed budget it succeeds when that image lies
    within epsilon. 20 levels are tried at a time, and the closest one that works is kept, nearly always the first.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF, Norm.L2, Norm.L1})
    bounded: ClassVar[bool] = False
    minimizes: ClassVar[bool] = True
    uses_gradients: ClassVar[bool] = False
    control: ClassVar[bool] = True
    title: ClassVar[str] = "Additive uniform noise"
    kind: Literal["auna"] = "auna"
    levels: int = Field(1000, ge=1, le=100_000, description="Sizes of the noise, evenly spaced up to the whole range.")
    squared: bool = Field(True, description="Scale the noise by its size twice, as foolbox 2.3 does; otherwise once.")

    @property
    def iterations(self) -> int:
        return -(-self.levels // BLOCK)

    @property
    def cost(self) -> float:
        return float(self.iterations * BLOCK + 1)

    def step(self, rows: Rows, query: Query) -> Tensor:
        place = rows.steps[:, None] * BLOCK + torch.arange(1, BLOCK + 1, device=rows.x.device)
        size = (place / self.levels).clamp_max(1).to(rows.x.dtype).view(-1, BLOCK, 1, 1, 1)
        images = rows.x[:, None].expand(-1, BLOCK, -1, -1, -1)
        noise = size * (2 * rows.random("noise").uniform(images) - 1)
        noisy = (images + (size * noise if self.squared else noise)).clamp(0, 1)
        query.logits(noisy)
        query.retire(query.best_distance.isfinite())
        return noisy[:, -1]
