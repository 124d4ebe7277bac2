"""Elastic transform."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np
import scipy

from auditor.auditing.corruption import Array, Corruption, Draws
from auditor.auditing.imaging import smoothed

OVERSIZE = 244 / 224
"""The script for ImageNet takes its lengths from a side of 244, though its images have 224."""


class Level(NamedTuple):
    """In sides of the image: ``pull`` of the displacements, ``sigma`` of their blur, largest ``shift`` of the corners."""

    pull: float
    sigma: float
    shift: float

    def times(self, side: float) -> Level:
        return Level(*(side * value for value in self))


class Elastic(Corruption):
    """Elastic transform (Hendrycks and Dietterich 2019, arXiv 1903.12261): an affine map, then a displacement of every pixel.

    Both are random; the map is fixed by moving three points, each coordinate uniformly. Both steps interpolate linearly.
    """

    title: ClassVar[str] = "Elastic transform"
    kind: Literal["elastic"] = "elastic"
    small: ClassVar[tuple[Level, ...]] = (
        Level(0, 0, 0.08), Level(0.05, 0.2, 0.07), Level(0.08, 0.06, 0.06), Level(0.1, 0.04, 0.05), Level(0.1, 0.03, 0.03),
    )  # fmt: skip
    large: ClassVar[tuple[Level, ...]] = tuple(
        level.times(OVERSIZE)
        for level in (
            Level(2, 0.7, 0.1), Level(2, 0.08, 0.2), Level(0.05, 0.01, 0.02), Level(0.07, 0.01, 0.02), Level(0.12, 0.01, 0.02),
        )
    )  # fmt: skip

    def apply(self, x: Array, level: Level, draws: Draws) -> Array:
        height, width = x.shape[2:]
        pull, sigma, shift = level.times(min(height, width))
        moves = draws.uniform(3, 2, low=-shift, high=shift)
        wobble = pull * smoothed(draws.uniform(2, height, width, low=-1, high=1), sigma, mode="reflect", truncate=3.0)
        grid = np.indices((height, width)).astype(float)
        corners = _corners(height, width)
        bent = []
        for image, move, displacement in zip(x, moves, wobble, strict=True):
            affine = np.linalg.solve(_homogeneous(corners + move), corners)
            source = _homogeneous(grid.reshape(2, -1).T) @ affine
            mapped = _sampled(image, source.T.reshape(grid.shape), "mirror")
            bent.append(_sampled(mapped, grid + displacement, "reflect"))
        return np.stack(bent)


def _corners(height: int, width: int) -> Array:
    """Three points around the middle as rows (row, column)."""
    arm = max(1, min(height, width) // 3)
    return np.array([height // 2, width // 2]) + arm * np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])


def _homogeneous(points: Array) -> Array:
    return np.concatenate([points, np.ones((len(points), 1))], 1)


def _sampled(image: Array, places: Array, mode: str) -> Array:
    """An image (C, H, W) read at the places (2, H, W), linearly."""
    return np.stack([scipy.ndimage.map_coordinates(channel, places, order=1, mode=mode) for channel in image])
