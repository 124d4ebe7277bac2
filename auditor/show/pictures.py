"""Pictures for pages and reports: tensors in [0, 1] to small encoded images, and the amplified difference of two."""

from __future__ import annotations

import base64
import io
from typing import Literal

import numpy as np
from torch import Tensor

from auditor.show.blocks import Image

SMALLEST, LARGEST = 112, 224
"""Sides in pixels: smaller images are enlarged by a whole factor, pixel by pixel; larger ones are shrunk."""


def picture(x: Tensor, caption: str, alt: str) -> Image:
    """An image (C, H, W) with values in [0, 1], C = 1 or 3 (of more channels the first is shown in grey)."""
    from PIL import Image as Pillow

    channels = x if x.shape[0] in (1, 3) else x[:1]
    pixels = (channels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    image = Pillow.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    side = max(image.size)
    if side < SMALLEST:
        factor = -(-SMALLEST // side)
        image = image.resize((image.width * factor, image.height * factor), Pillow.Resampling.NEAREST)
    elif side > LARGEST:
        image.thumbnail((LARGEST, LARGEST))
    # Photographs of full size would make a report of many megabytes as PNG.
    form: Literal["PNG", "JPEG"] = "PNG" if side < SMALLEST else "JPEG"
    buffer = io.BytesIO()
    image.save(buffer, form, **({"optimize": True} if form == "PNG" else {"quality": 88}))
    mime: Literal["image/png", "image/jpeg"] = "image/png" if form == "PNG" else "image/jpeg"
    return Image(data=base64.b64encode(buffer.getvalue()).decode(), mime=mime, caption=caption, alt=alt)


def amplified(delta: Tensor) -> tuple[Tensor, int]:
    """The difference of two images, (C, H, W), around mid-grey, and the whole factor by which it was enlarged."""
    largest = float(delta.abs().amax())
    factor = max(1, int(np.floor(0.5 / largest))) if largest > 0 else 1
    return 0.5 + delta * factor, factor
