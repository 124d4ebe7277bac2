"""Some of the pairs: a bounded number of them, spread over all, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.analysis import Pair, Pairs


def spread(total: int, count: int) -> NDArray[np.bool_]:
    """Which ``count`` of ``total`` places to take (all where there are fewer), evenly spaced: data are often sorted by class."""
    chosen = np.zeros(total, bool)
    chosen[np.arange(min(count, total)) * total // max(1, min(count, total))] = True
    return chosen


def picked(pairs: Pairs, chosen: NDArray[np.bool_]) -> Iterator[Pair]:
    """The pairs at the places where ``chosen``, (N,), is true; batches without one are left out."""
    start = 0
    for pair in pairs:
        keep = chosen[start : start + len(pair.sample)]
        start += len(keep)
        if keep.all():
            yield pair
        elif keep.any():
            yield rows_of(pair, keep)


def rows_of(pair: Pair, keep: NDArray[np.bool_]) -> Pair:
    """Those of the images for which ``keep``, (B,), is true; maybe none."""
    rows = torch.from_numpy(np.flatnonzero(keep)).to(pair.x.device)
    return Pair(pair.sample[keep], pair.x[rows], pair.x_adv[rows], pair.labels[rows], pair.fooled[keep])
