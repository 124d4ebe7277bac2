"""Images and labels handed over in Python: the checks of an upload, every fault in one error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import shape_text
from auditor.models.labels import Labels, check_class_names, one_hot, read_labels
from auditor.models.pixel_range import PixelRange, integer_hint, reshape_hint

Result = TypeVar("Result")

_CHANNELS = (1, 3)
_MOST_CHANNELS = 4
"""Channels of images whose layout is not told by 1 or 3: more are rather a height or a width."""

_PIECE = 1024
"""Images looked at in one go."""


class Checked(NamedTuple):
    """``images``: (N, H, W, C), uint8 or float32 in [0, 1]; ``labels``: int64 (N,); ``notes``: how they were read."""

    images: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] | None
    notes: tuple[str, ...]


def checked_arrays(
    images: ArrayLike, labels: ArrayLike, class_names: Sequence[str] | None, names: Sequence[str] | None
) -> Checked:
    """What a data set needs, of the arrays that were given. Raises IntakeError, which names every fault of each of them."""
    faults: list[IntakeError] = []
    pixels, values = _array(images), _array(labels)
    limits = Limits()
    known = _try(faults, lambda: check_class_names(list(class_names), limits) if class_names is not None else None)
    laid_out = _try(faults, lambda: _layout(pixels))
    read = _try(faults, lambda: _labels(values, known, limits))
    if len(pixels.shape) and len(values.shape) and len(pixels) != len(values):
        faults.append(
            IntakeError(
                f"There are {len(pixels):,} images and {len(values):,} labels.",
                "Give N images and N labels, one for each.",
            )
        )
    if names is not None and pixels.ndim and len(names) != len(pixels):
        faults.append(IntakeError(f"There are {len(pixels):,} images and {len(names):,} names of images."))
    in_range = _try(faults, lambda: _in_range(laid_out[0])) if laid_out is not None else None
    if faults:
        raise _all(faults)
    assert laid_out is not None
    assert in_range is not None
    assert read is not None
    return Checked(in_range, read.values, read.class_names, (*laid_out[1], *read.notes))


def _array(values: ArrayLike) -> NDArray[Any]:
    if (torch := sys.modules.get("torch")) is not None and isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    found = np.asanyarray(values)
    if found.dtype == object and found.size and all(isinstance(item, str) for item in found.flat):
        return found.astype(str)
    return found


def _try(faults: list[IntakeError], act: Callable[[], Result]) -> Result | None:
    try:
        return act()
    except IntakeError as error:
        faults.append(error)
        return None


def _all(faults: list[IntakeError]) -> IntakeError:
    if len(faults) == 1:
        return faults[0]
    listed = " ".join(f"({number}) {fault}" for number, fault in enumerate(faults, 1))
    return IntakeError(f"The data set has {len(faults)} faults: {listed}")


def _layout(images: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """The images as (N, H, W, C), and what was done for it. Where both orders of the axes fit, the documented one counts."""
    shape, text = images.shape, shape_text(images.shape)
    if len(shape) == 3:
        return images[..., None], ("The images have the shape NxHxW; they were taken as grey.",)
    if len(shape) != 4:
        raise IntakeError(
            f"The images have the shape {text}; expected NxHxWxC, or NxHxW.",
            reshape_hint(shape),
        )
    if shape[3] in _CHANNELS:
        return images, ()
    if shape[1] in _CHANNELS:
        note = "The images have their channels before height and width (NCHW); they were moved last."
        return images.transpose(0, 2, 3, 1), (note,)
    if shape[3] > _MOST_CHANNELS:
        raise IntakeError(
            f"The images have the shape {text}; expected NxHxWxC with 1 to {_MOST_CHANNELS} channels.",
            "Put the channels last: images.transpose(0, 2, 3, 1) for NxCxHxW."
            if shape[1] <= _MOST_CHANNELS
            else "Keep the channels that the model takes: images[..., :3] for the first three of the last axis.",
        )
    return images, ()


def _labels(labels: NDArray[Any], class_names: tuple[str, ...] | None, limits: Limits) -> Labels:
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "biuf":
        values = one_hot((labels,), len(labels), "labels")
        read = read_labels(values, "labels", class_names, limits)
        return read._replace(notes=("The labels mark one class in each row; that is the label.", *read.notes))
    if labels.ndim not in (1, 2) or (labels.ndim == 2 and labels.shape[1] != 1):
        raise IntakeError(
            f"The labels have the shape {shape_text(labels.shape)}; expected one for each image.",
            "Give an array of N labels.",
        )
    read = read_labels(labels.reshape(-1), "labels", class_names, limits)
    return read if labels.ndim == 1 else read._replace(notes=("The labels have the shape Nx1.", *read.notes))


def _in_range(images: NDArray[Any]) -> NDArray[np.uint8] | NDArray[np.float32]:
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f" or images.dtype.itemsize > 8:
        raise IntakeError(
            f"The images have the type {images.dtype.name}{_reach(images)}; expected uint8, or floating point in [0, 1].",
            integer_hint(images.dtype, *_ends(images)),
        )
    as_they_are = images.dtype == np.float32
    watched = PixelRange("images")
    parts = []
    for start in range(0, len(images), _PIECE):
        part = images[start : start + _PIECE]
        inside = watched.float32(part) if part.size else part.astype(np.float32)
        as_they_are = as_they_are and bool(np.array_equal(inside, part))
        parts.append(None if as_they_are else inside)
    watched.finish()
    if as_they_are:
        return images
    whole = [
        images[number * _PIECE : (number + 1) * _PIECE].clip(0, 1).astype(np.float32) if part is None else part
        for number, part in enumerate(parts)
    ]
    return np.concatenate(whole) if whole else images.astype(np.float32)


def _ends(images: NDArray[Any]) -> tuple[int, int]:
    """The smallest and the largest of an array of integers."""
    return (int(images.min()), int(images.max())) if images.size and images.dtype.kind in "iu" else (0, 0)


def _reach(images: NDArray[Any]) -> str:
    return f" (from {images.min()} to {images.max()})" if images.size and images.dtype.kind in "iu" else ""
