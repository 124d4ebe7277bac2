"""Some of the pairs: a bounded number of them, spread over all, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.kit.randomness import derive_seed
from auditor.neural.analysis import Pair, Pairs, Subject


def evenly_spaced(total: int, count: int) -> NDArray[np.bool_]:
    """Which ``count`` of ``total`` places to take (all where there are fewer), evenly spaced: data are often sorted by class."""
    chosen = np.zeros(total, bool)
    chosen[np.arange(min(count, total)) * total // max(1, min(count, total))] = True
    return chosen


def drawn_samples(subject: Subject, most: int, purpose: str) -> NDArray[np.int64]:
    """Up to ``most`` of the subject's samples, ids ascending, drawn by its seed; ``purpose`` tells one draw from another."""
    order = np.random.default_rng(derive_seed(subject.seed, purpose)).permutation(len(subject.ids))
    return np.sort(subject.ids[order[:most]])


@dataclass(frozen=True)
class Picked:
    """The pairs at the places where ``chosen``, (N,), is true; batches without one are left out."""

    pairs: Pairs
    chosen: NDArray[np.bool_]

    def __iter__(self) -> Iterator[Pair]:
        start = 0
        for pair in self.pairs:
            keep = self.chosen[start : start + len(pair.sample)]
            start += len(keep)
            if keep.all():
                yield pair
            elif keep.any():
                yield rows_of(pair, keep)

    def __len__(self) -> int:
        return int(self.chosen.sum())


def rows_of(pair: Pair, keep: NDArray[np.bool_]) -> Pair:
    """Those of the images for which ``keep``, (B,), is true; maybe none."""
    rows = torch.from_numpy(np.flatnonzero(keep)).to(pair.x.device)
    return Pair(pair.sample[keep], pair.x[rows], pair.x_adv[rows], pair.labels[rows], pair.fooled[keep])
