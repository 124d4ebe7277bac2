"""Pixelation."""

from __future__ import annotations

from typing import ClassVar, Literal

from PIL import Image

from auditor.auditing.corruption import Array, Corruption, Draws
from auditor.auditing.imaging import through_pillow


class Pixelate(Corruption):
    """Pixelation (Hendrycks and Dietterich 2019, arXiv 1903.12261): shrunk and enlarged again by box filters, by Pillow.

    The level is the share of the side to which the image is shrunk.
    """

    title: ClassVar[str] = "Pixelate"
    kind: Literal["pixelate"] = "pixelate"
    small: ClassVar[tuple[float, ...]] = (0.95, 0.9, 0.85, 0.75, 0.65)
    large: ClassVar[tuple[float, ...]] = (0.6, 0.5, 0.4, 0.3, 0.25)

    def apply(self, x: Array, level: float, draws: Draws) -> Array:
        def pixelated(image: Image.Image) -> Image.Image:
            size = (max(1, int(image.width * level)), max(1, int(image.height * level)))
            return image.resize(size, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

        return through_pillow(x, pixelated)
