"""Glass blur."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np

from auditor.auditing.corruption import Array, Corruption, Draws
from auditor.auditing.imaging import smoothed


class Level(NamedTuple):
    """``sigma`` of the blur before and after; ``reach`` and number of ``rounds`` of the shuffle."""

    sigma: float
    reach: int
    rounds: int


class GlassBlur(Corruption):
    """Glass blur (Hendrycks and Dietterich 2019, arXiv 1903.12261): pixels take the place of near ones, between two blurs.

    From the lower right to the upper left, every pixel is replaced by one at most ``reach`` away (-reach to reach - 1 along each
    axis). The paper calls it a shuffle, but the script's exchange of two views of one array only copies; so does this, since
    the published images come from the script.
    """

    title: ClassVar[str] = "Glass blur"
    kind: Literal["glass_blur"] = "glass_blur"
    small: ClassVar[tuple[Level, ...]] = (
        Level(0.05, 1, 1), Level(0.25, 1, 1), Level(0.4, 1, 1), Level(0.25, 1, 2), Level(0.4, 1, 2),
    )  # fmt: skip
    large: ClassVar[tuple[Level, ...]] = (
        Level(0.7, 1, 2), Level(0.9, 2, 1), Level(1.0, 2, 3), Level(1.1, 3, 2), Level(1.5, 4, 2),
    )  # fmt: skip

    def apply(self, x: Array, level: Level, draws: Draws) -> Array:
        height, width = x.shape[2:]
        rows, columns = (np.arange(side - level.reach, level.reach, -1) for side in (height, width))
        places = (rows[:, None] * width + columns).ravel()
        moves = np.floor(draws.uniform(level.rounds, len(places), 2, low=-level.reach, high=level.reach)).astype(int)
        sources = places + moves[..., 0] * width + moves[..., 1]
        flat = smoothed(x, level.sigma).reshape(*x.shape[:2], height * width)
        shuffled = [
            image[:, _copied(height * width, places.tolist(), chosen)]
            for image, chosen in zip(flat, sources.tolist(), strict=True)
        ]
        return smoothed(np.reshape(shuffled, x.shape), level.sigma)


def _copied(count: int, places: list[int], rounds: list[list[int]]) -> list[int]:
    """For each pixel, which one ends up there when every place in turn takes what stands at its source."""
    order = list(range(count))
    for sources in rounds:
        for place, source in zip(places, sources, strict=True):
            order[place] = order[source]
    return order
