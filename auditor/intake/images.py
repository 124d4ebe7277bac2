"""The walls around Pillow: four formats, limits before pixels, and one rule for each kind of image that is not 8-bit RGB."""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from auditor.errors import IntakeError
from auditor.intake.limits import Limits
from auditor.intake.magic import HEAD_BYTES, kind_of
from auditor.intake.wording import shown

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""Common, and without an interpreter behind: EPS would start Ghostscript, and TIFF, PSD and FITS have a CVE each year."""

TRAITS = {
    "alpha": "had an alpha channel, which was dropped",
    "deep": "had 16 bits per channel, scaled to 8",
    "cmyk": "were CMYK, converted to RGB",
    "palette": "had a palette, converted to RGB",
    "turned": "were turned as their EXIF data says",
    "animated": "had several frames; the first was taken",
}
"""What may be said of an image, and what was done about it."""

_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = range(5, 9)
_PNG_DEPTH = 24
"""Where a PNG file states its bits per channel: Pillow says RGB for 16 bits as well as for 8."""

_PIXELS = re.compile(r"\((\d+) pixels\)")
_LOCK = threading.Lock()
"""Pillow's limits are global to the process; they are ours for the time of one image, one thread at a time."""


class ImageSize(BaseModel):
    """A size that every image is brought to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(ge=1, le=4096, description="Height in pixels.")
    width: int = Field(ge=1, le=4096, description="Width in pixels.")
    mode: Literal["resize", "resize-crop"] = Field(
        "resize", description="resize stretches; resize-crop keeps proportions and cuts what stands out, evenly."
    )


class Header(NamedTuple):
    """What is known of an image before its pixels: size after turning, whether it is grey, its TRAITS."""

    height: int
    width: int
    grey: bool
    traits: tuple[str, ...]


def read_header(data: bytes, name: str, limits: Limits) -> Header:
    """Look at an image file without decoding it; ``name`` is for errors. Raises IntakeError."""
    with _opened(data, name, limits) as image:
        width, height = image.size
        if width == 0 or height == 0:
            raise IntakeError(f"The image {shown(name)} has {height}x{width} pixels; expected at least 1x1.")
        deep = image.mode in _DEEP_MODES or (image.format == "PNG" and data[_PNG_DEPTH] == 16)
        orientation = _orientation(image)
        traits = {
            "alpha": image.mode in _ALPHA_MODES or "transparency" in image.info,
            "deep": deep,
            "cmyk": image.mode == "CMYK",
            "palette": image.mode in ("P", "PA"),
            "turned": orientation != 1,
            "animated": getattr(image, "n_frames", 1) > 1,
        }
        if orientation in _SIDEWAYS:
            height, width = width, height
        grey = image.mode in _GREY_MODES or image.mode in _DEEP_MODES
        return Header(height, width, grey, tuple(trait for trait, holds in traits.items() if holds))


def decode(data: bytes, name: str, limits: Limits, *, grey: bool, size: ImageSize | None) -> NDArray[np.uint8]:
    """An image file to pixels: uint8 (H, W, 1) when ``grey``, else (H, W, 3); first frame, turned, without alpha.

    Raises IntakeError when the file is truncated or damaged.
    """
    with _opened(data, name, limits) as image:
        image.load()
        pixels: Image = _eight_bit(image) if image.mode in _DEEP_MODES else image
        pixels = _turned(pixels.convert("L" if grey else "RGB"), _orientation(image))
        if size is not None:
            pixels = _resized(pixels, size)
        array = np.asarray(pixels, np.uint8)
        return array[:, :, None] if grey else array


def resize(image: NDArray[Any], size: ImageSize) -> NDArray[Any]:
    """An image (H, W, C) to another size, bilinear with antialiasing, each channel for itself; the type stays."""
    from PIL import Image as pillow

    channels = [_resized(pillow.fromarray(image[:, :, c]), size) for c in range(image.shape[2])]
    return np.stack([np.asarray(channel, image.dtype) for channel in channels], axis=-1)


@contextmanager
def _opened(data: bytes, name: str, limits: Limits) -> Iterator[Image]:
    """An image behind Pillow's own walls, which are set for this one image and put back after it."""
    from PIL import Image as pillow
    from PIL import ImageFile

    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", pillow.DecompressionBombWarning)
        before = pillow.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        pillow.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = limits.image_pixels, False
        try:
            with pillow.open(io.BytesIO(data), formats=FORMATS) as image:
                yield image
        except IntakeError:
            raise
        except (pillow.DecompressionBombWarning, pillow.DecompressionBombError) as error:
            pixels = _PIXELS.search(str(error))
            megapixels = f"{int(pixels[1]) / 1e6:,.0f} MP" if pixels else "too many pixels"
            raise IntakeError(
                f"The image {shown(name)} is {megapixels}, the limit is {limits.image_pixels / 1e6:,.3g} MP.",
                "Make it smaller.",
            ) from None
        except pillow.UnidentifiedImageError:
            raise IntakeError(
                f"{shown(name)} is not a readable PNG, JPEG, WebP or BMP image; it is {kind_of(data[:HEAD_BYTES])}.",
                "Take it out of the archive, or convert it.",
            ) from None
        except Exception as error:  # decoders of untrusted bytes raise anything
            raise IntakeError(
                f"The image {shown(name)} is truncated or damaged ({type(error).__name__}).",
                "Replace it or take it out.",
            ) from None
        finally:
            pillow.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _orientation(image: Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) when it is absent or cannot be read, as browsers do."""
    if "exif" not in image.info:  # asking a PNG for EXIF data would decode all of it
        return 1
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(image: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _eight_bit(image: Image) -> Image:
    """16-bit grey to 8-bit grey, by scale: convert() would clip everything above 255."""
    from PIL import Image as pillow

    wide = np.clip(np.asarray(image).astype(np.int32), 0, 65535)
    return pillow.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))


def _resized(image: Image, size: ImageSize) -> Image:
    from PIL.Image import Resampling

    width, height = image.size
    box = (0.0, 0.0, float(width), float(height))
    if size.mode == "resize-crop":
        scale = min(width / size.width, height / size.height)
        left, top = max(0.0, (width - scale * size.width) / 2), max(0.0, (height - scale * size.height) / 2)
        box = (left, top, width - left, height - top)
    return image.resize((size.width, size.height), Resampling.BILINEAR, box=box)
