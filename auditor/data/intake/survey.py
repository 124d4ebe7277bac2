"""What a reader of images yields, and the doubts that come up while the images pass by on their way to the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import counted, listed, shown, size_text
from auditor.models.dataset import Group
from auditor.models.pixel_range import LARGEST

Pixels = NDArray[np.uint8] | NDArray[np.float32]

BATCH_BYTES = 8 * 1024 * 1024
"""Pixels in memory at a time."""

_PIECE_PIXELS = 1 << 20
"""Pixels of an image that are looked at in one go."""

_DARK = 16
"""Brightest pixel, of 255, up to which a whole data set is rather scaled wrongly than dark."""

_UNBALANCED = 20
"""Largest class over smallest class from which accuracy is mostly that of the largest."""


@dataclass
class Samples:
    """Labelled images on their way: all is known but the pixels, which ``batches`` reads as they are asked for.

    ``shape`` is (N, H, W, C), ``labels`` int64 (N,); batches yield (B, H, W, C), uint8 or float32 in [0, 1], and raise
    IntakeError. ``notes`` and ``warnings`` are complete when the batches are exhausted.
    """

    shape: tuple[int, int, int, int]
    dtype: Literal["uint8", "float32"]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] | None
    names: list[str] | None
    batches: Iterator[Pixels]
    labels_from: Literal["integers", "names", "numbers"]
    rescalable: bool = False
    """Whether another value than 255 can be made white."""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    groups: tuple[Group, ...] = ()
    """Corruptions that the images carry."""
    group_of: NDArray[np.int64] | None = None
    """Index of each image's group, int64 (N,), where there are groups."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names) if self.class_names is not None else int(self.labels.max(initial=-1)) + 1

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Images of each class, int64 (K,)."""
        return np.bincount(self.labels, minlength=self.num_classes)


def check_size(samples: int, height: int, width: int, channels: int, element: int, name: str, limits: Limits) -> None:
    """Refuse data sets without pixels, and those too large to store. ``element`` is in bytes. Raises IntakeError."""
    if samples == 0:
        raise IntakeError(f"{shown(name)} holds no images.", "A data set needs at least one.")
    if samples > limits.samples:
        raise IntakeError(f"{shown(name)} has {samples:,} images, the limit is {limits.samples:,}.")
    if not height or not width:
        raise IntakeError(f"The images of {shown(name)} have {height}x{width} pixels.", "Expected at least 1x1.")
    if height * width > limits.image_pixels:
        raise IntakeError(
            f"The images of {shown(name)} have {height}x{width} pixels, the limit is {limits.image_pixels:,} pixels."
        )
    size = samples * height * width * channels * element
    if size > limits.expanded_bytes:
        raise IntakeError(
            f"{shown(name)} expands to {size_text(size)} of pixels, more than the limit of "
            f"{size_text(limits.expanded_bytes)}.",
            "Use fewer or smaller images.",
        )


class Survey:
    """Watches images pass, and says what a reader should doubt about them."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        # Eight bytes of a hash for each image: by chance two of ten million differing images agree once in 400,000.
        self._hashes = np.zeros(samples.shape[0], np.uint64)
        self._constant = 0
        self._first_constant = 0
        self._brightest = 0.0

    def watch(self) -> Iterator[Pixels]:
        """The batches themselves, looked at on the way, image by image and in pieces."""
        position = 0
        for batch in self._samples.batches:
            images: NDArray[Any] = batch.reshape(len(batch), -1, batch.shape[-1])
            self._brightest = max(self._brightest, float(batch.max()))
            # Few images begin and end with one colour; only those can be constant.
            for pixels, constant in zip(images, (images[:, 0] == images[:, -1]).all(axis=1).tolist(), strict=True):
                digest = hashlib.blake2b(digest_size=8)
                for start in range(0, len(pixels), _PIECE_PIXELS):
                    piece = np.ascontiguousarray(pixels[start : start + _PIECE_PIXELS])
                    constant = constant and bool((piece == pixels[0]).all())
                    digest.update(piece.data)
                if constant and self._constant == 0:
                    self._first_constant = position
                self._constant += constant
                self._hashes[position] = int.from_bytes(digest.digest(), "little")
                position += 1
            yield batch
            del batch, images, pixels, piece  # the next ones may be as large

    def warnings(self) -> list[str]:
        """Doubts about the images and the labels, one sentence each; call it after the last batch."""
        return [*self._samples.warnings, *self._dark_warning(), *self._image_warnings(), *self._class_warnings()]

    def _dark_warning(self) -> Iterator[str]:
        """All images nearly black: scaled twice, or saved as integers when they were in [0, 1]."""
        whole = 255 if self._samples.dtype == "uint8" else 1
        if self._samples.warnings or not 0 < self._brightest <= _DARK * whole / 255:
            return
        remedy = (
            f"If white is {self._brightest:g}, add the data set again with {LARGEST.format(int(self._brightest))}."
            if self._samples.rescalable
            else f"Save them anew, with white as {whole}."
        )
        brightest = f"{self._brightest:.3g} of {whole}"
        yield f"The brightest pixel of all images is {brightest}: they are nearly black, as if they were scaled twice. {remedy}"

    def _image_warnings(self) -> Iterator[str]:
        if self._constant:
            verb = "is" if self._constant == 1 else "are"
            yield (
                f"{counted(self._constant, 'image')} {verb} constant (one colour only), "
                f"the first is {self._name(self._first_constant)}."
            )
        _, first, group = np.unique(self._hashes, return_index=True, return_inverse=True)
        original = first[group]
        repeats = np.flatnonzero(original != np.arange(len(original)))
        if not len(repeats):
            return
        verb = "repeats" if len(repeats) == 1 else "repeat"
        yield (
            f"{counted(len(repeats), 'image')} {verb} an earlier one exactly, for example "
            f"{self._name(int(original[repeats[0]]))} and {self._name(int(repeats[0]))}."
        )
        labels = self._samples.labels
        if conflicts := int((labels[repeats] != labels[original[repeats]]).sum()):
            yield f"Of these, {conflicts:,} with another label than the image repeated."

    def _class_warnings(self) -> Iterator[str]:
        counts = self._samples.class_counts
        filled = counts[counts > 0]
        if len(filled) == 1:
            yield "All images are of one class: nothing can be told from accuracy."
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            verb = "has" if len(empty) == 1 else "have"
            yield f"{counted(len(empty), 'class')} {verb} no images: {listed([self._class(i) for i in empty[:6]], 5)}."
        if filled.max() > _UNBALANCED * filled.min():
            yield (
                f"The classes are very unbalanced: {self._class(int(counts.argmax()))} has "
                f"{counted(int(filled.max()), 'image')}, the smallest class {int(filled.min()):,}."
            )

    def _name(self, sample: int) -> str:
        return shown(self._samples.names[sample]) if self._samples.names is not None else f"#{sample}"

    def _class(self, index: int) -> str:
        names: Sequence[str] | None = self._samples.class_names
        return shown(names[index]) if names is not None else f"class {index}"
