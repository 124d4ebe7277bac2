"""Thinned: fewer pairs, evenly spaced among all, for measurements too dear for every image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from auditor.neural.analysis import Pair, Pairs


class Thinned:
    """At most ``count`` of some pairs, evenly spaced; ``positions``: their places among all."""

    def __init__(self, pairs: Pairs, count: int) -> None:
        self._pairs = pairs
        self.positions = np.unique(np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(np.int64))

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[Pair]:
        start = 0
        for pair in self._pairs:
            chosen = self.positions[(self.positions >= start) & (self.positions < start + len(pair.sample))] - start
            start += len(pair.sample)
            if len(chosen):
                rows = torch.from_numpy(chosen).to(pair.x.device)
                yield Pair(pair.sample[chosen], pair.x[rows], pair.x_adv[rows], pair.labels[rows], pair.fooled[chosen])
