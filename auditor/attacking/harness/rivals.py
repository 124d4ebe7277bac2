"""Rivals: one target class per run, for attacks that try the most likely wrong classes one after another."""

from __future__ import annotations

import torch

from auditor.attacking.attack import Query, Rows


def take_rival(rows: Rows, query: Query) -> None:
    """At the start of a run: remember the class of each row's rank (its restart) among those that would do.

    ``rows.memory`` gets ``rival`` (int64, (B,)) and ``spare`` (bool, (B,)): there are fewer rivals than runs. The ranks come
    from the clean image: one forward pass for each run.
    """
    reach = rows.criterion.reach(query.logits(rows.x))
    rank = torch.from_numpy(rows.restart).to(rows.x.device)
    rows.memory["spare"] = rank >= reach.shape[1]
    rows.memory["rival"] = reach.gather(1, rank.clamp_max(reach.shape[1] - 1)[:, None]).squeeze(1)
