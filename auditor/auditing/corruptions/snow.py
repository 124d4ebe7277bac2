"""Snow."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np

from auditor.auditing.corruption import Array, Corruption, Draws
from auditor.auditing.imaging import enlarged, grey, trail


class Level(NamedTuple):
    """Flakes: normal noise of this ``mean`` and ``std``, enlarged by ``zoom``, kept where it exceeds ``threshold``, blurred
    along a trail of ``radius`` and ``sigma``. ``clear``: share of the image that the white haze leaves."""

    mean: float
    std: float
    zoom: float
    threshold: float
    radius: int
    sigma: float
    clear: float


class Snow(Corruption):
    """Snow (Hendrycks and Dietterich 2019, arXiv 1903.12261): falling flakes over a whitened image.

    The flakes are added twice, the second time turned by 180 degrees. The script blurs them with ImageMagick; here its kernel
    is applied directly (see motion blur).
    """

    title: ClassVar[str] = "Snow"
    kind: Literal["snow"] = "snow"
    small: ClassVar[tuple[Level, ...]] = (
        Level(0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        Level(0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        Level(0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        Level(0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        Level(0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )
    large: ClassVar[tuple[Level, ...]] = (
        Level(0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        Level(0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        Level(0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        Level(0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        Level(0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )

    def apply(self, x: Array, level: Level, draws: Draws) -> Array:
        noise = enlarged(level.mean + level.std * draws.normal(1, *x.shape[2:]), level.zoom)
        flakes = np.clip(np.where(noise < level.threshold, 0, noise), 0, 1)
        angles = draws.uniform(1, low=-135, high=-45)[:, 0]
        fallen = np.stack(
            [trail(item, level.radius, level.sigma, angle) for item, angle in zip(flakes, angles, strict=True)]
        )
        white = np.maximum(x, 1.5 * grey(x) + 0.5)
        return level.clear * x + (1 - level.clear) * white + fallen + fallen[:, :, ::-1, ::-1]
