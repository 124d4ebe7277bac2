"""Tally: whether each image was classified correctly, under one condition after another; rates and paired differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from auditor.kit.statistics.estimate import Rate
from auditor.kit.statistics.paired import PairedDifference, paired_difference


class Tally:
    """One bool per image and condition, in the order of the images."""

    def __init__(self) -> None:
        self._parts: dict[Hashable, list[NDArray[np.bool_]]] = defaultdict(list)

    def add(self, condition: Hashable, hits: Tensor) -> None:
        """The next images' outcomes under a condition, bool (B,)."""
        self._parts[condition].append(hits.cpu().numpy())

    def __contains__(self, condition: Hashable) -> bool:
        return condition in self._parts

    def __getitem__(self, condition: Hashable) -> NDArray[np.bool_]:
        """All images' outcomes, (N,)."""
        return np.concatenate(self._parts[condition])

    def rate(self, condition: Hashable, among: NDArray[np.bool_] | None = None) -> Rate:
        """The share of true outcomes, among some of the images."""
        hits = self[condition]
        return Rate.of(hits if among is None else hits[among])

    def difference(
        self, condition: Hashable, other: Hashable, among: NDArray[np.bool_] | None = None
    ) -> PairedDifference:
        """The rate under ``condition`` minus that under ``other``, image by image.

        ``among``: some of the images, at least one."""
        kept = slice(None) if among is None else among
        return paired_difference(self[other][kept], self[condition][kept])
