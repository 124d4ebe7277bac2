"""The pointwise attack ("PWA" in some papers).

The authors restore one entry after another, in random order, until none can be restored, and then bisect entry by entry ten
times over until nothing is gained. Here a step asks about 32 images, so a walk over 3072 entries takes tens of steps
where much can be restored and about a hundred where nothing can: in a restoring step, 21 of them restore the next 21 entries
of the order one at a time, and 11 restore the next 2, 4, ..., 2048 at once. The longest stretch that works is taken, else
the first single entry that works; entries that failed wait for the next walk. In a halving step the 32 images divide the way of
one entry from clean to current; two such steps are ten bisections. A walk that gains less than 1/32 of the way at every
entry is the last.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.geometry import rows as per_row
from auditor.attacking.harness.decisions import START_QUERIES, blended_noise, first
from auditor.attacking.harness.population import adversarial, blocks
from auditor.attacking.threat import Norm

POINTS, STRETCHES = 32, 11
"""Images per step, and how many of them restore several entries."""
SINGLES = POINTS - STRETCHES
DENSITIES, SPARSER = 60, 940
"""Images with salt-and-pepper noise that are tried: with from 1/2 % to 100 % of the pixels changed, and then with from 60 % of
the fewest that fooled the model up to as many. Together as many as in foolbox 3; what the walk ends with hangs on them."""
RESTORING, HALVING = range(2)


class Pointwise(Attack):
    """Pointwise attack (Schott et al. 2019, arXiv 1805.09190): undoes salt-and-pepper noise entry by entry while the
    image still fools the model.

    It sees decisions only. It starts at the sparsest noise that fools the model, restores what can be restored, and then moves
    every entry that is left as close to its clean value as it can.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.L0, Norm.L1, Norm.L2})
    bounded: ClassVar[bool] = False
    minimizes: ClassVar[bool] = True
    uses_gradients: ClassVar[bool] = False
    title: ClassVar[str] = "Pointwise"
    kind: Literal["pointwise"] = "pointwise"
    steps: int = Field(1000, ge=1, le=100_000, description="Maximum steps of one run, with 32 images each.")

    @property
    def iterations(self) -> int:
        return self.steps

    @property
    def cost(self) -> float:
        return float(self.steps) * POINTS + DENSITIES + SPARSER + START_QUERIES + 1

    def start(self, rows: Rows, query: Query) -> Tensor:
        x, zero = rows.x, rows.x.new_zeros(len(rows))
        noisy = _salt_and_pepper(rows, query)
        rows.memory["current"] = noisy
        rows.memory["order"] = torch.zeros_like(x.flatten(1), dtype=torch.int64)
        rows.memory["left"] = rows.memory["place"] = zero.long()  # a walk of no entries: the first step begins one
        rows.memory["gained"] = torch.ones_like(zero, dtype=torch.bool)
        rows.memory["phase"] = torch.full_like(zero, RESTORING, dtype=torch.int64)
        rows.memory["low"], rows.memory["fine"] = zero, torch.zeros_like(zero, dtype=torch.bool)
        return noisy

    def step(self, rows: Rows, query: Query) -> Tensor:
        over = _begin_walks(rows)
        query.retire(query.best_distance.isinf() | over)
        memory = rows.memory
        halving = memory["phase"] == HALVING
        clean, current = rows.x.flatten(1), memory["current"].flatten(1)
        points = torch.where(halving.view(-1, 1, 1), _halved(memory, clean, current), _restored(memory, clean, current))
        hit = adversarial(rows, query.logits(points.view(len(rows), POINTS, *rows.x.shape[1:]))) & ~over[:, None]
        hit &= halving[:, None] | _restoring_any(memory)
        chosen = torch.where(halving, first(hit), _preferred(hit))
        found, row = hit.any(1), torch.arange(len(rows), device=points.device)
        memory["current"] = torch.where(found[:, None], points[row, chosen], current).view_as(rows.x)
        # The first of two halving steps at an entry finds a section of its way, the second divides that.
        finer = halving & ~memory["fine"] & found & (chosen > 0)
        memory["low"] = points[row, (chosen - 1).clamp(min=0)].gather(1, _entry(memory))[:, 0]
        memory["gained"] |= found & ~memory["fine"]
        memory["place"] = memory["place"] + torch.where(halving, (~finer).long(), _passed(found, chosen))
        memory["fine"] = finer
        return memory["current"]


def _salt_and_pepper(rows: Rows, query: Query) -> Tensor:
    """The closest adversarial image with some pixels black or white; if there is none, a blend with noise."""
    random, x = rows.random("salt and pepper"), rows.x
    fewest = x.new_ones(len(rows), 1)

    def ask(density: Tensor) -> None:
        nonlocal fewest
        draws = random.uniform(x[:, None, :1].expand(-1, density.shape[1], -1, -1, -1))
        share = density[..., None, None, None]
        points = torch.where(draws < share / 2, 0.0, torch.where(draws < share, 1.0, x[:, None]))
        hit = adversarial(rows, query.logits(points))
        fewest = torch.minimum(fewest, torch.where(hit, density, 1.0).amin(1, keepdim=True))

    for part in (0.005 ** torch.linspace(1, 0, DENSITIES, device=x.device, dtype=x.dtype)).split(
        list(blocks(DENSITIES))
    ):
        ask(part.expand(len(rows), -1))
    for count in blocks(SPARSER):
        ask(fewest * torch.linspace(0.6, 1, count, device=x.device, dtype=x.dtype))
    sparse, found = query.best, ~query.best_distance.isinf()
    return torch.where(per_row(found, x), sparse, blended_noise(rows, query))


def _begin_walks(rows: Rows) -> Tensor:
    """A new order for rows that are through with theirs; those that gained nothing go on to halve, or are over (B,)."""
    memory = rows.memory
    through = memory["place"] >= memory["left"]
    memory["phase"] = memory["phase"] + (through & ~memory["gained"])
    over = memory["phase"] > HALVING
    changed = (memory["current"] != rows.x).flatten(1)
    if through.any():
        mask = through.cpu().numpy()
        keys = rows[mask].random("order").uniform(changed[through].to(rows.x.dtype))
        order = memory["order"].clone()
        order[through] = (keys + ~changed[through]).argsort(1)
        memory["order"] = order
    memory["left"] = torch.where(through, changed.sum(1), memory["left"])
    memory["place"] = torch.where(through, 0, memory["place"])
    memory["gained"] = memory["gained"] & ~through
    over |= memory["left"] == 0
    return over


def _entry(memory: dict[str, Tensor]) -> Tensor:
    """Index of the next entry of each row's walk, (B, 1)."""
    return memory["order"].gather(1, memory["place"].clamp(max=memory["order"].shape[1] - 1)[:, None])


def _restored(memory: dict[str, Tensor], clean: Tensor, current: Tensor) -> Tensor:
    """(B, 32, D): the next entries restored one at a time, then 2, 4, 8, ... of them at once."""
    entries = clean.shape[1]
    counted = torch.arange(entries, device=clean.device).expand_as(memory["order"])
    rank = torch.empty_like(memory["order"]).scatter_(1, memory["order"], counted)
    ahead = torch.where(rank < memory["left"][:, None], rank - memory["place"][:, None], -1)[:, None]  # 0: the next one
    singles = ahead == torch.arange(SINGLES, device=clean.device)[:, None]
    length = 2 ** torch.arange(1, STRETCHES + 1, device=clean.device)
    stretches = (ahead >= 0) & (ahead < length[:, None])
    return torch.where(torch.cat([singles, stretches], 1), clean[:, None], current[:, None])


def _restoring_any(memory: dict[str, Tensor]) -> Tensor:
    """Which of the 32 images restore anything: not the single entries past the end of the walk, (B, 32)."""
    number = torch.arange(POINTS, device=memory["place"].device)
    return (number >= SINGLES) | (number < (memory["left"] - memory["place"])[:, None])


def _halved(memory: dict[str, Tensor], clean: Tensor, current: Tensor) -> Tensor:
    """(B, 32, D): the next entry at 32 places on the way from clean to current, nearest to clean first."""
    entry = _entry(memory)
    low = torch.where(memory["fine"], memory["low"], clean.gather(1, entry)[:, 0])[:, None]
    share = torch.arange(POINTS, device=clean.device) / POINTS
    value = low + share * (current.gather(1, entry) - low)
    points = current[:, None].repeat(1, POINTS, 1)
    return points.scatter(2, entry[:, None].expand(-1, POINTS, -1), value[:, :, None])


def _preferred(hit: Tensor) -> Tensor:
    """Among 21 single entries and 11 stretches: the longest stretch that works, else the first single entry."""
    longest = POINTS - 1 - first(hit[:, SINGLES:].flip(1))
    return torch.where(hit[:, SINGLES:].any(1), longest, first(hit[:, :SINGLES]))


def _passed(found: Tensor, chosen: Tensor) -> Tensor:
    """How many entries of the order a restoring step is through with, (B,)."""
    stretch = 2 ** (chosen - SINGLES + 1).clamp(min=0)
    return torch.where(found, torch.where(chosen >= SINGLES, stretch, chosen + 1), SINGLES)
