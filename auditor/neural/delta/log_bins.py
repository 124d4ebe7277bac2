"""LogBins: a histogram of positive numbers over many powers of ten, filled batch by batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from auditor.neural.found import Found
from auditor.show.blocks import Row

BINS_PER_DECADE, LOWEST, HIGHEST = 10, -8, 8
"""10 bins for each power of ten from 1e-8 to 1e8; what lies beyond, zero included, counts in the outermost bin."""

EDGES = 10 ** (np.arange(LOWEST * BINS_PER_DECADE, HIGHEST * BINS_PER_DECADE + 1) / BINS_PER_DECADE)


class Bins(Found):
    """The bins from ``first`` to the last that holds anything. ``total``: all values, infinite ones (in no bin) too."""

    first: int
    counts: tuple[int, ...]
    total: int

    def rows(self, series: str) -> tuple[Row, ...]:
        """Rows of the chart ``histogram``: shares of all values; ends with an empty bin."""
        return tuple(
            {
                "low": float(EDGES[place]),
                "high": float(EDGES[min(place + 1, len(EDGES) - 1)]),
                "share": count / max(self.total, 1),
                "series": series,
            }
            for place, count in enumerate([*self.counts, 0], self.first)
        )


class LogBins:
    """``counts``: int64, one per bin; a bin holds its lower edge. ``total``: all values seen, infinite ones (in no bin) too."""

    def __init__(self) -> None:
        self.counts, self.total = np.zeros(len(EDGES) - 1, np.int64), 0

    def add(self, values: Tensor) -> None:
        """``values``: not negative, any shape."""
        inner = torch.from_numpy(EDGES[1:-1]).to(values.device)
        finite = values[values.isfinite()].double()
        place = torch.bucketize(finite, inner, right=True)
        self.counts += place.bincount(minlength=len(self.counts)).cpu().numpy()
        self.total += values.numel()

    def found(self) -> Bins:
        """The bins from the first that holds anything to the last, and how many values there were."""
        held = np.flatnonzero(self.counts)
        first, last = (int(held[0]), int(held[-1])) if len(held) else (0, -1)
        return Bins(first=first, counts=tuple(self.counts[first : last + 1].tolist()), total=self.total)
