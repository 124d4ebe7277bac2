"""Motion blur."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np

from auditor.auditing.corruption import Array, Corruption, Draws
from auditor.auditing.imaging import trail


class Level(NamedTuple):
    """A trail of 2 ``radius`` + 1 pixels that fades as a Gaussian of this ``sigma``."""

    radius: int
    sigma: float


class MotionBlur(Corruption):
    """Motion blur (Hendrycks and Dietterich 2019, arXiv 1903.12261): a fading trail at -45 to 45 degrees, one angle per image.

    The script calls ImageMagick; here its kernel, half a Gaussian along a ray, is applied directly.
    """

    title: ClassVar[str] = "Motion blur"
    kind: Literal["motion_blur"] = "motion_blur"
    small: ClassVar[tuple[Level, ...]] = (Level(6, 1), Level(6, 1.5), Level(6, 2), Level(8, 2), Level(9, 2.5))
    large: ClassVar[tuple[Level, ...]] = (Level(10, 3), Level(15, 5), Level(15, 8), Level(15, 12), Level(20, 15))

    def apply(self, x: Array, level: Level, draws: Draws) -> Array:
        angles = draws.uniform(1, low=-45, high=45)[:, 0]
        return np.stack([trail(image, *level, angle) for image, angle in zip(x, angles, strict=True)])
