"""JPEG compression."""

from __future__ import annotations

from io import BytesIO
from typing import ClassVar, Literal

from PIL import Image

from auditor.auditing.corruption import Array, Corruption, Draws
from auditor.auditing.imaging import through_pillow


class JPEG(Corruption):
    """JPEG compression (Hendrycks and Dietterich 2019, arXiv 1903.12261), by Pillow.

    The level is the quality; colour has half the resolution, which is Pillow's default.
    """

    title: ClassVar[str] = "JPEG"
    kind: Literal["jpeg"] = "jpeg"
    small: ClassVar[tuple[int, ...]] = (80, 65, 58, 50, 40)
    large: ClassVar[tuple[int, ...]] = (25, 18, 15, 10, 7)

    def apply(self, x: Array, level: int, draws: Draws) -> Array:
        def compressed(image: Image.Image) -> Image.Image:
            stream = BytesIO()
            image.save(stream, "JPEG", quality=level)
            return Image.open(stream)

        return through_pillow(x, compressed)
