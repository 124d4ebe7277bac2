"""Spatter."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np
import scipy

from auditor.auditing.corruption import Array, Corruption, Draws
from auditor.auditing.imaging import painted, smoothed

WATER = np.array([175, 238, 238]) / 255
MUD = np.array([63, 42, 20]) / 255

RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
"""Lights the drops from one corner."""

FARTHEST = 20
"""Distances from a drop's rim count up to here."""

OPAQUE = 0.8
"""Mud that covers less is left out."""


class Level(NamedTuple):
    """Drops: normal noise of this ``mean`` and ``std``, blurred by ``sigma``, kept where it exceeds ``threshold``. ``shine``:
    brightness of water; for mud the blur of its rim."""

    mean: float
    std: float
    sigma: float
    threshold: float
    shine: float
    mud: bool


class Spatter(Corruption):
    """Spatter (Hendrycks and Dietterich 2019, arXiv 1903.12261): drops of water, or at the severities 4 and 5 of mud.

    The script finds the rims of the drops with OpenCV's Canny filter; here a rim is a drop's outermost pixels, and distances
    from it are exact.
    """

    title: ClassVar[str] = "Spatter"
    kind: Literal["spatter"] = "spatter"
    small: ClassVar[tuple[Level, ...]] = (
        Level(0.62, 0.1, 0.7, 0.7, 0.5, False),
        Level(0.65, 0.1, 0.8, 0.7, 0.5, False),
        Level(0.65, 0.3, 1, 0.69, 0.5, False),
        Level(0.65, 0.1, 0.7, 0.69, 0.6, True),
        Level(0.65, 0.1, 0.5, 0.68, 0.6, True),
    )
    large: ClassVar[tuple[Level, ...]] = (
        Level(0.65, 0.3, 4, 0.69, 0.6, False),
        Level(0.65, 0.3, 3, 0.68, 0.6, False),
        Level(0.65, 0.3, 2, 0.68, 0.5, False),
        Level(0.65, 0.3, 1, 0.65, 1.5, True),
        Level(0.67, 0.4, 1, 0.65, 1.5, True),
    )

    def apply(self, x: Array, level: Level, draws: Draws) -> Array:
        noise = smoothed(level.mean + level.std * draws.normal(*x.shape[2:]), level.sigma)
        if level.mud:
            cover = smoothed((noise > level.threshold).astype(float), level.shine)
            cover = np.where(cover < OPAQUE, 0, cover)[:, None]
            return x * (1 - cover) + cover * painted(MUD, x.shape[1])
        liquid = np.clip(np.where(noise < level.threshold, 0, noise), 0, 1)
        light = np.stack([layer * drop_light(layer > 0) for layer in liquid])[:, None]
        brightest = light.max((2, 3), keepdims=True)
        return x + level.shine * painted(WATER, x.shape[1]) * light / np.where(brightest > 0, brightest, 1)


def drop_light(drops: np.ndarray) -> Array:
    """How light water is, (H, W), from 0 to 255: the relief of the distance to the nearest rim, its histogram made even."""
    rims = drops & ~scipy.ndimage.binary_erosion(drops, border_value=1)
    if not rims.any():
        return np.zeros(drops.shape)
    distance = np.minimum(scipy.ndimage.distance_transform_edt(~rims), FARTHEST)
    heights = equalized(np.rint(scipy.ndimage.uniform_filter(distance, 3, mode="mirror")).astype(np.uint8))
    lit = np.clip(scipy.ndimage.correlate(heights.astype(float), RELIEF, mode="mirror"), 0, 255)
    return scipy.ndimage.uniform_filter(lit, 3, mode="mirror")


def equalized(values: np.ndarray) -> np.ndarray:
    """Histogram equalization of uint8 values: the lowest becomes 0, the highest 255."""
    counts = np.bincount(values.ravel(), minlength=256).cumsum()
    lowest = counts[values.min()]
    if lowest == values.size:
        return values
    return np.rint(255 * (counts[values] - lowest) / (values.size - lowest))
