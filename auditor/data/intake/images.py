"""The walls around Pillow: seven formats, limits before pixels, and one rule for each kind of image that is not 8-bit RGB."""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.data.intake.image_size import ImageSize, check_growth, resize, resized
from auditor.data.intake.magic import HEAD_BYTES, kind_of
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import shown

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "GIF", "TIFF")
"""What data sets are made of, without an interpreter behind: EPS would start Ghostscript, and nobody keeps photographs as PSD or
FITS. TIFF is read by libtiff, in which faults are found each year: another reason for the sandbox."""

TRAITS = {
    "alpha": "had an alpha channel, which was dropped",
    "deep": "had 16 bits per channel, scaled to 8",
    "cmyk": "were CMYK, converted to RGB",
    "palette": "had a palette, converted to RGB",
    "palette of greys": "had a palette of greys, converted to grey",
    "turned": "were turned as their EXIF data says",
    "animated": "had several frames; the first was taken",
}
"""What may be said of an image, and what was done about it."""

FULL_SCALE = 65_535
"""Largest value of 16 bits."""

_STRIP_PIXELS = 1 << 20
"""Pixels converted at a time: the whole image is in memory once as its file holds it, and once as it is stored."""

_SUPPORTED_MODES = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
)
_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = range(5, 9)
_PNG_DEPTH = 24
"""Where a PNG file states its bits per channel: Pillow says RGB for 16 bits as well as for 8."""

_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PNG_SIZE = struct.Struct(">IIBBBBBI4x4s")
"""Behind it: width, height, depth, colour, compression, filter, interlace, checksum, and the kind of the next chunk."""

_PIXELS = re.compile(r"\((\d+) pixels\)")
_LOCK = threading.Lock()
"""Pillow's limits are global to the process; they are ours for the time of one image, one thread at a time."""


Box = tuple[int, int, int, int]
"""A region of an image: left, top, right, bottom in pixels, right and bottom excluded."""


class Header(NamedTuple):
    """What is known of an image before its pixels: size after turning, whether it is grey, its TRAITS."""

    height: int
    width: int
    grey: bool
    traits: tuple[str, ...]


def read_header(data: bytes, name: str, limits: Limits, box: Box | None = None) -> Header:
    """Look at an image file, or at the region ``box`` of it, without decoding it; ``name`` is for errors. Raises IntakeError."""
    if box is None and (header := _plain_png(data, limits)) is not None:
        return header
    with _opened(data, name, limits) as image:
        width, height = image.size
        if width == 0 or height == 0:
            raise IntakeError(f"The image {shown(name)} has {height}x{width} pixels; expected at least 1x1.")
        if image.mode not in _SUPPORTED_MODES | _DEEP_MODES:
            raise IntakeError(
                f"The image {shown(name)} has pixels of the kind {image.mode}; expected 8 or 16 bits per channel.",
                "Convert it to 8 bits.",
            )
        if box is not None:
            _check_box(box, width, height, name)
            width, height = box[2] - box[0], box[3] - box[1]
        deep = image.mode in _DEEP_MODES or (image.format == "PNG" and data[_PNG_DEPTH] == 16)
        orientation = _orientation(image)
        greys = _is_grey_palette(image)
        traits = {
            "alpha": image.mode in _ALPHA_MODES or "transparency" in image.info,
            "deep": deep,
            "cmyk": image.mode == "CMYK",
            "palette": image.mode in ("P", "PA") and not greys,
            "palette of greys": greys,
            "turned": orientation != 1,
            "animated": getattr(image, "n_frames", 1) > 1,
        }
        if orientation in _SIDEWAYS:
            height, width = width, height
        grey = image.mode in _GREY_MODES or image.mode in _DEEP_MODES or greys
        return Header(height, width, grey, tuple(trait for trait, holds in traits.items() if holds))


def _plain_png(data: bytes, limits: Limits) -> Header | None:
    """What Pillow would say of a PNG file of 8 bits, grey or RGB, whose pixels follow its header at once; None for all others.

    Most images of tables are such files, and Pillow takes longer to open one than to decode 32x32 pixels.
    """
    start = len(_PNG_START)
    if not data.startswith(_PNG_START) or len(data) < start + _PNG_SIZE.size:
        return None
    width, height, depth, colour, _, filters, interlaced, checksum, following = _PNG_SIZE.unpack_from(data, start)
    if following != b"IDAT" or depth != 8 or colour not in (0, 2) or filters or interlaced:
        return None
    if not 0 < width * height <= limits.image_pixels or zlib.crc32(data[start - 4 : start + 13]) != checksum:
        return None
    return Header(height, width, colour == 0, ())


class Decoded(NamedTuple):
    """``pixels``: uint8 (H, W, 1) or (H, W, 3). ``highest``: the largest value of a 16-bit image before it was scaled."""

    pixels: NDArray[np.uint8]
    highest: int | None = None


def decode(
    data: bytes,
    name: str,
    limits: Limits,
    *,
    grey: bool,
    size: ImageSize | None,
    full_scale: int | None = None,
    box: Box | None = None,
) -> Decoded:
    """An image file to pixels, grey or in three channels; first frame, turned, without alpha; of ``box`` alone if it is given.

    ``full_scale``: the value of 16-bit images that is white, 65,535 where it is not given. Raises IntakeError when the file is
    truncated or damaged.
    """
    with _opened(data, name, limits) as image:
        orientation, deep_colour = _orientation(image), _is_deep_colour(image, data)
        if deep_colour and full_scale is not None:
            raise IntakeError(
                f"The image {shown(name)} has 16 bits for each of three channels, of which only the upper 8 can be read here: "
                "no other scale can be applied.",
                "Convert it to 8 bits per channel.",
            )
        image.load()
        if box is not None:
            _check_box(box, *image.size, name)
            image = image.crop(box)
        if size is not None:
            check_growth(image, size, name, limits)
        if size is not None and image.mode not in _DEEP_MODES:
            mode = "L" if grey else "RGB"
            pixels = image if image.mode == mode else image.convert(mode)
            array = np.asarray(resized(_turned(pixels, orientation), size), np.uint8)
            array, highest = array[:, :, None] if grey else array, None
        else:
            array, highest = _by_strips(image, grey, full_scale or FULL_SCALE)
            array = np.ascontiguousarray(_turned_array(array, orientation))
            if size is not None:
                array = resize(array, size)
        return Decoded(array, 257 * int(array.max()) if deep_colour else highest)


def _by_strips(image: Image, grey: bool, full_scale: int) -> tuple[NDArray[np.uint8], int | None]:
    """The pixels (H, W, C), converted some rows at a time, and the largest value of a 16-bit image."""
    width, height = image.size
    if image.mode == ("L" if grey else "RGB") and width * height <= _STRIP_PIXELS:
        return np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, -1), None
    array = np.empty((height, width, 1 if grey else 3), np.uint8)
    highest = 0 if image.mode in _DEEP_MODES else None
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        if highest is not None:
            wide = np.clip(np.asarray(strip).astype(np.int64), 0, FULL_SCALE)
            highest = max(highest, int(wide.max()))
            # By scale: convert() would clip everything above 255.
            narrow = np.minimum((wide * 255 + full_scale // 2) // full_scale, 255)
            array[top : top + rows] = narrow.astype(np.uint8)[:, :, None]
        else:
            part = np.asarray(strip.convert("L" if grey else "RGB"), np.uint8)
            array[top : top + rows] = part[:, :, None] if grey else part
    return array, highest


def _is_deep_colour(image: Image, data: bytes) -> bool:
    """A PNG of 16 bits per channel in colour: Pillow keeps the upper 8 of them."""
    return image.format == "PNG" and data[_PNG_DEPTH] == 16 and image.mode not in _DEEP_MODES


@contextmanager
def _opened(data: bytes, name: str, limits: Limits) -> Iterator[Image]:
    """An image behind Pillow's own walls, which are set for this one image and put back after it."""
    from PIL import Image as pillow
    from PIL import ImageFile, UnidentifiedImageError

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
        except UnidentifiedImageError:
            raise IntakeError(
                f"{shown(name)} is not a readable PNG, JPEG, WebP, BMP, PPM, GIF or TIFF image; it is "
                f"{kind_of(data[:HEAD_BYTES])}.",
                "Take it out of the archive, or save it anew as PNG or JPEG.",
            ) from None
        except Exception:  # decoders of untrusted bytes raise anything
            raise IntakeError(
                f"The image {shown(name)} is truncated or damaged.",
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


def _turned_array(array: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The same as ``_turned``, of pixels (H, W, C)."""
    if orientation in _SIDEWAYS:
        array = array.transpose(1, 0, 2)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.flip(array, flips[orientation]) if orientation in flips else array


def _check_box(box: Box, width: int, height: int, name: str) -> None:
    if not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise IntakeError(
            f"The region of interest of {shown(name)}, columns {box[0]} to {box[2] - 1} and rows {box[1]} to {box[3] - 1}, does "
            f"not lie in the image of {height}x{width} pixels (height x width).",
            "Mend the list, or read the whole images.",
        )


def _is_grey_palette(image: Image) -> bool:
    """Whether every colour of the palette is a grey."""
    if image.mode != "P" or "transparency" in image.info:
        return False
    palette = image.getpalette("RGB") or [0, 0, 1]
    return palette[0::3] == palette[1::3] == palette[2::3]
