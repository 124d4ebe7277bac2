"""Defocus blur."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np
import scipy

from auditor.auditing.corruption import Array, Corruption, Draws


class Level(NamedTuple):
    """``radius`` of the disk in pixels; ``alias``: standard deviation of the blur of its edge."""

    radius: float
    alias: float


class DefocusBlur(Corruption):
    """Defocus blur (Hendrycks and Dietterich 2019, arXiv 1903.12261): the mean over a disk with a softened edge."""

    title: ClassVar[str] = "Defocus blur"
    kind: Literal["defocus_blur"] = "defocus_blur"
    small: ClassVar[tuple[Level, ...]] = (
        Level(0.3, 0.4),
        Level(0.4, 0.5),
        Level(0.5, 0.6),
        Level(1, 0.2),
        Level(1.5, 0.1),
    )
    large: ClassVar[tuple[Level, ...]] = (Level(3, 0.1), Level(4, 0.5), Level(6, 0.5), Level(8, 0.5), Level(10, 0.5))

    def apply(self, x: Array, level: Level, draws: Draws) -> Array:
        return scipy.ndimage.correlate(x, disk(level)[None, None], mode="mirror")


def disk(level: Level) -> Array:
    """The kernel: a disk, its edge blurred by 3 x 3 taps (5 x 5 for a radius over 8).

    As in the script, a disk of radius 8 or 10 fills its square, and what its blur pushes out is mirrored back: its sum is 1.01.
    """
    reach, taps = (8, 1) if level.radius <= 8 else (int(level.radius), 2)
    axis = np.arange(-reach, reach + 1)
    inside = (axis[:, None] ** 2 + axis**2 <= level.radius**2).astype(float)
    return scipy.ndimage.gaussian_filter(inside / inside.sum(), level.alias, radius=taps, mode="mirror")
