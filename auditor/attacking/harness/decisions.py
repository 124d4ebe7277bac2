"""Where attacks that only see decisions begin: an adversarial image, however far."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.attacking.attack import Query, Rows
from auditor.attacking.geometry import rows as per_row
from auditor.attacking.harness.population import adversarial, blocks
from auditor.kit.randomness import RowRandom

CELLS, TRIES = (1, 4, 1024), 60
"""Noise is tried 60 times per pixel, in cells of 4 x 4, and in one colour, every second time with nothing between 0 and 1: many
networks give all uniform noise the same class."""
BLENDS = 50
"""Blends of the image and the noise that are tried, evenly spaced (foolbox 3)."""
START_QUERIES = TRIES * len(CELLS) + BLENDS


def first(found: Tensor) -> Tensor:
    """Index of the first true entry of each row of (B, S), (B,); 0 if there is none."""
    return found.to(torch.uint8).argmax(1)


def blended_noise(rows: Rows, query: Query) -> Tensor:
    """The closest adversarial blend of each image and uniform noise; the clean image where no noise was adversarial.

    Brendel et al. 2018 draw noise until it is adversarial; here the number of tries is the same for every row, and coarser
    noise is tried too.
    """
    random = rows.random("noise")
    chosen, found = rows.x, torch.zeros(len(rows), dtype=torch.bool, device=rows.x.device)
    for cell in CELLS:
        for count in blocks(TRIES):
            noise = _noise(rows, random, cell, count)
            hit = adversarial(rows, query.logits(noise))
            taken = noise[torch.arange(len(rows), device=noise.device), first(hit)]
            chosen = torch.where(per_row(hit.any(1) & ~found, rows.x), taken, chosen)
            found |= hit.any(1)
    away = (chosen - rows.x)[:, None]
    share = torch.arange(1, BLENDS + 1, device=rows.x.device).to(rows.x) / BLENDS
    for part in share.split(list(blocks(BLENDS))):
        query.logits(rows.x[:, None] + part.view(-1, 1, 1, 1) * away)
    return query.best


def _noise(rows: Rows, random: RowRandom, cell: int, count: int) -> Tensor:
    """Images of noise, alike within cells, every second one with only 0 and 1, (B, S, C, H, W)."""
    channels, height, width = rows.x.shape[1:]
    grid = rows.x.new_empty(len(rows), count, channels, -(-height // cell), -(-width // cell))
    coarse = random.uniform(grid)
    coarse[:, 1::2] = coarse[:, 1::2].round()
    return coarse.repeat_interleave(cell, 3)[..., :height, :].repeat_interleave(cell, 4)[..., :width]
