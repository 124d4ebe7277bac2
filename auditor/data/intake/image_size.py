"""The size that images are brought to: stretched, or resized and cropped, to the last level as torchvision and Pillow do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import shown

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageSize(BaseModel):
    """A size that every image is brought to.

    With ``shorter_side``, what published evaluations do: torchvision's Resize(shorter_side) and CenterCrop((height, width)) of
    8-bit images, to the last level.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(ge=1, le=4096, description="Height in pixels.")
    width: int = Field(ge=1, le=4096, description="Width in pixels.")
    mode: Literal["resize", "resize-crop"] = Field(
        "resize", description="resize stretches; resize-crop keeps proportions and cuts what stands out, evenly."
    )
    shorter_side: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="resize-crop: length of the shorter side before the crop; none: as long as the crop needs, without a "
        "rounding of the longer side.",
    )
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos"] = Field(
        "bilinear", description="How pixels between pixels are computed."
    )
    antialias: bool = Field(
        True,
        description="Whether pixels are averaged when an image becomes smaller, as Pillow does; without, bilinear and bicubic "
        "take the nearest 2 or 4 pixels of a line, as tensors are often resized.",
    )

    @model_validator(mode="after")
    def _fits(self) -> ImageSize:
        if self.shorter_side is not None and self.mode != "resize-crop":
            raise ValueError("a shorter side goes with resize-crop")
        if not self.antialias and self.interpolation == "lanczos":
            raise ValueError("lanczos always averages; choose bilinear, bicubic or nearest without antialias")
        if not self.antialias and self.mode == "resize-crop" and self.shorter_side is None:
            raise ValueError("a crop without antialias needs the shorter side")
        return self

    def text(self) -> str:
        """The size in words: ``shorter side 256, bicubic, centre 224x224``."""
        how = "" if self.interpolation == "bilinear" else f", {self.interpolation}"
        how += "" if self.antialias else ", not antialiased"
        size = f"{self.height}x{self.width}"
        if self.shorter_side is not None:
            return f"shorter side {self.shorter_side}{how}, centre {size}"
        return f"{size}{how}" if self.mode == "resize" else f"{size}{how}, cropped at the centre"


def resize(image: NDArray[Any], size: ImageSize) -> NDArray[Any]:
    """An image (H, W, C) to another size, each channel for itself; the type stays, and floating point stays in [0, 1]."""
    from PIL import Image as pillow

    if size.shorter_side is not None and not _fits(image.shape[1], image.shape[0], size, Limits()):
        raise IntakeError(
            f"Images of {image.shape[0]}x{image.shape[1]} cannot be brought to a {size.text()}.", "Stretch them."
        )
    channels = [resized(pillow.fromarray(image[:, :, c]), size) for c in range(image.shape[2])]
    stacked = np.stack([np.asarray(channel, image.dtype) for channel in channels], axis=-1)
    return stacked if image.dtype == np.uint8 else stacked.clip(0, 1)  # bicubic and lanczos reach beyond


def _between(width: int, height: int, shorter: int) -> tuple[int, int]:
    """(width, height) when the shorter side has that length, as torchvision's Resize rounds it."""
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def _fits(width: int, height: int, size: ImageSize, limits: Limits) -> bool:
    """Whether the image that lies between, before the crop, is not larger than an image may be."""
    if size.shorter_side is None:
        return True
    wide, high = _between(width, height, size.shorter_side)
    return wide * high <= limits.image_pixels


def check_growth(image: Image, size: ImageSize, name: str, limits: Limits) -> None:
    """Raises IntakeError for an image that is larger than any may be between resize and crop."""
    width, height = image.size
    if not _fits(width, height, size, limits):
        raise IntakeError(
            f"The image {shown(name)} has {height}x{width} pixels (height x width): with a shorter side of {size.shorter_side} "
            f"it has more than {limits.image_pixels:,} pixels, which is the limit.",
            "Take it out, or crop it.",
        )


def resized(image: Image, size: ImageSize) -> Image:
    """As torchvision's Resize and CenterCrop of Pillow images do it, where the shorter side is given."""
    width, height = image.size
    if size.shorter_side is not None:
        return _centre(_scaled(image, _between(width, height, size.shorter_side), size), size)
    box = (0.0, 0.0, float(width), float(height))
    if size.mode == "resize-crop":
        scale = min(width / size.width, height / size.height)
        left, top = max(0.0, (width - scale * size.width) / 2), max(0.0, (height - scale * size.height) / 2)
        box = (left, top, width - left, height - top)
    return _scaled(image, (size.width, size.height), size, box)


def _scaled(
    image: Image, to: tuple[int, int], size: ImageSize, box: tuple[float, float, float, float] | None = None
) -> Image:
    from PIL.Image import Resampling

    if size.antialias or size.interpolation == "nearest":
        return image.resize(to, Resampling[size.interpolation.upper()], box=box)
    return _not_antialiased(image, to, size.interpolation)


def _not_antialiased(image: Image, to: tuple[int, int], interpolation: str) -> Image:
    """As tensors are resized by default: each new pixel of 2 or 4 old ones of a line, however much smaller it gets."""
    import torch
    from PIL import Image as pillow

    array = np.asarray(image)
    planes = torch.from_numpy(np.array(array, np.float32)).reshape(*array.shape[:2], -1).permute(2, 0, 1)[None]
    scaled = torch.nn.functional.interpolate(planes, (to[1], to[0]), mode=interpolation, align_corners=False)[0]
    pixels = scaled.permute(1, 2, 0).reshape(to[1], to[0], *array.shape[2:]).numpy()
    return pillow.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8) if array.dtype == np.uint8 else pixels)


def _centre(image: Image, size: ImageSize) -> Image:
    """The centre, with black around an image that is smaller."""
    width, height = image.size
    if width < size.width or height < size.height:
        from PIL import Image as pillow

        padded = pillow.new(image.mode, (max(width, size.width), max(height, size.height)))
        padded.paste(image, (max(0, size.width - width) // 2, max(0, size.height - height) // 2))
        image, (width, height) = padded, padded.size
    left, top = round((width - size.width) / 2), round((height - size.height) / 2)
    return image.crop((left, top, left + size.width, top + size.height))
