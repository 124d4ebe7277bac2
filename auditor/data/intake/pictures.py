"""Image files with labels, wherever they lie, to one data set: every header first, then the pixels, batch by batch."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.data.intake.exclusion import numbered, numbered_note
from auditor.data.intake.faults import Unusable, left_out
from auditor.data.intake.groups import groups_note
from auditor.data.intake.images import FULL_SCALE, TRAITS, Box, Decoded, Header, decode, read_header
from auditor.data.intake.label_map import mapped
from auditor.data.intake.reading import RESIZE, Choice, Reading
from auditor.data.intake.survey import BATCH_BYTES, Pixels, Samples, check_size
from auditor.kit.errors import IntakeError
from auditor.kit.limits import MIB, Limits
from auditor.kit.wording import counted, shown
from auditor.models.dataset import Group
from auditor.models.pixel_range import LARGEST

_MAX_NAMES_BYTES = 64 * MIB
"""All sample names as JSON; they lie in the header of the stored file, which may have 100 MB."""


class Item(NamedTuple):
    """An image file: the sample's name, its label, what a fault of it is kept under, and where its reader finds it.

    ``box``: the region of interest; ``group``: the index of its corruption.
    """

    name: str
    label: int
    key: str | int
    place: Any
    box: Box | None = None
    group: int = 0


@dataclass
class Layout:
    """Image files in the order of the samples, and all that is known before one is opened. ``files``: of how many."""

    items: list[Item]
    class_names: tuple[str, ...] | None
    labels_from: Literal["integers", "names", "numbers"]
    files: int
    noun: str = "file"
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    faults: dict[str | int, IntakeError] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()


class PictureReader(ABC):
    """The image files of one upload; ``name`` is what errors call it.

    Files that cannot be used are refused together (Unusable); those handed to ``leave_out`` are left out and named instead.
    """

    format: str

    def __init__(self, name: str, limits: Limits) -> None:
        self._name, self._limits = name, limits
        self._out: list[str | int] = []

    def leave_out(self, found: Unusable) -> None:
        """Read the upload without these files from now on."""
        self._out += found.faults

    @abstractmethod
    def choices(self) -> list[Choice]:
        """What of the upload can be chosen."""

    @abstractmethod
    def _layout(self, reading: Reading) -> Layout:
        """The files and their labels, without those of ``_out``. Raises IntakeError, Undecided where it has to be chosen."""

    @abstractmethod
    def _contents(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | IntakeError]]:
        """The bytes of each file in this order, or why they cannot be read."""

    def samples(self, reading: Reading) -> Samples:
        """The images in the order of the layout.

        Every header is read before the first pixel: the number of channels, and whether the sizes agree, must be known
        before the first batch is written. Raises IntakeError, also while the batches are read.
        """
        layout = self._layout(reading)
        self._exclude(layout, reading)
        if self._out:
            layout.notes.append(left_out(self._out, layout.files, layout.noun))
        if reading.label_map:
            self._map(layout, reading)
        if not layout.items and layout.faults:
            raise Unusable(layout.faults, layout.files, layout.noun)
        check_size(len(layout.items), 1, 1, 1, 1, self._name, self._limits)
        height, width, grey, notes = self._headers(layout, reading)
        channels = 1 if grey else 3
        check_size(len(layout.items), height, width, channels, 1, self._name, self._limits)
        names: list[str] | None = [item.name for item in layout.items]
        if len(json.dumps(names)) > _MAX_NAMES_BYTES:
            names = None
            notes.append("The names of the images are too long together to be kept; samples are called by number.")
        if layout.groups:
            notes.append(groups_note(list(layout.groups)))
        return Samples(
            shape=(len(layout.items), height, width, channels),
            dtype="uint8",
            labels=np.array([item.label for item in layout.items], np.int64),
            class_names=layout.class_names,
            names=names,
            batches=self._batches(layout, height * width * channels, grey, reading),
            labels_from=layout.labels_from,
            notes=layout.notes + notes,
            warnings=layout.warnings,
            groups=layout.groups,
            group_of=np.array([item.group for item in layout.items], np.int64) if layout.groups else None,
        )

    def _exclude(self, layout: Layout, reading: Reading) -> None:
        """Take out the samples that were named by their numbers, where they have some."""
        by_number = all(isinstance(item.key, int) for item in layout.items)
        out = numbered(reading.exclude, layout.files if by_number else 0, self._name)
        if out.any():
            layout.items = [item for item in layout.items if not (isinstance(item.key, int) and out[item.key])]
            layout.notes += numbered_note(out)

    def _map(self, layout: Layout, reading: Reading) -> None:
        labels = np.array([item.label for item in layout.items], np.int64)
        change = mapped(labels, layout.class_names, reading.label_map, self._limits)
        kept = [item for item, keep in zip(layout.items, change.keep.tolist(), strict=True) if keep]
        layout.items = [item._replace(label=label) for item, label in zip(kept, change.labels.tolist(), strict=True)]
        layout.class_names = change.class_names
        layout.warnings.clear()  # of the order of the old classes
        layout.notes += change.notes

    def _headers(self, layout: Layout, reading: Reading) -> tuple[int, int, bool, list[str]]:
        """(height, width, whether all are grey, notes) of the images, from their headers."""
        size = reading.size
        found: list[tuple[str, Header]] = []
        faults = dict(layout.faults)
        for item, content in self._contents(layout.items):
            try:
                if isinstance(content, IntakeError):
                    raise content
                found.append((item.name, read_header(content, item.name, self._limits, item.box)))
            except IntakeError as error:
                faults[item.key] = error
        if faults:
            raise Unusable(faults | self._undecodable(layout, reading, set(faults)), layout.files, layout.noun)
        shapes = Counter((header.height, header.width) for _, header in found)
        if size is None and len(shapes) > 1:
            (first_name, first) = found[0]
            name, other = next((name, item) for name, item in found if item[:2] != first[:2])
            usual, count = shapes.most_common(1)[0]
            raise IntakeError(
                f"The images have different sizes: {shown(first_name)} is {first.height}x{first.width}, "
                f"{shown(name)} is {other.height}x{other.width} (height x width); {count:,} of {len(found):,} have "
                f"{usual[0]}x{usual[1]}.",
                f"{RESIZE}; or upload images of one size.",
            )
        traits: Counter[str] = Counter()
        example: dict[str, str] = {}
        for name, header in found:
            for trait in header.traits:
                traits[trait] += 1
                example.setdefault(trait, name)
        notes = [
            f"{counted(traits[trait], 'image')} {text} (first: {shown(example[trait])})."
            for trait, text in TRAITS.items()
            if traits[trait]
        ]
        greys = sum(header.grey for _, header in found)
        grey = greys == len(found) if reading.channels is None else reading.channels == 1
        if reading.channels == 3 and greys:
            notes.append(f"{counted(greys, 'grey image')} got three equal channels, as asked.")
        elif reading.channels == 1 and greys < len(found):
            notes.append(f"{counted(len(found) - greys, 'image')} in colour became grey, as asked.")
        elif 0 < greys < len(found):
            notes.append("Grey and colour images are mixed; the grey ones were given three equal channels.")
        if reading.largest_value is not None:
            notes.append(
                f"{counted(traits['deep'], 'image')} of 16 bits scaled so that {reading.largest_value:,} is white, as asked."
                if traits["deep"]
                else f"No image has 16 bits, so the largest value of {reading.largest_value:,} changed nothing."
            )
        height, width = (size.height, size.width) if size is not None else found[0][1][:2]
        return height, width, grey, notes

    def _undecodable(self, layout: Layout, reading: Reading, known: set[str | int]) -> dict[str | int, IntakeError]:
        """The images whose pixels cannot be read, among those whose header can: an upload is refused once, with all of it."""
        found: dict[str | int, IntakeError] = {}
        for item, content in self._contents([item for item in layout.items if item.key not in known]):
            try:
                self._decoded(item, content, grey=False, reading=reading)
            except IntakeError as error:
                found[item.key] = error
        return found

    def _batches(self, layout: Layout, image_bytes: int, grey: bool, reading: Reading) -> Iterator[Pixels]:
        """Batches of images, up to the first that cannot be read; the rest is then looked at for more of them."""
        per_batch = max(1, BATCH_BYTES // image_bytes)
        faults: dict[str | int, IntakeError] = {}
        highest, deep = 0, 0
        images: list[NDArray[np.uint8]] = []
        for item, content in self._contents(layout.items):
            try:
                decoded = self._decoded(item, content, grey=grey, reading=reading)
            except IntakeError as error:
                faults[item.key] = error
                images.clear()
                continue
            if decoded.highest is not None:
                highest, deep = max(highest, decoded.highest), deep + 1
            if faults:
                continue
            images.append(decoded.pixels)
            del decoded, content  # the next one may be as large
            if len(images) == per_batch:
                yield _stacked(images)
        if faults:
            raise Unusable(faults, layout.files, layout.noun)
        if images:
            yield _stacked(images)
        layout.warnings += _scale_warning(highest, deep, reading)

    def _decoded(self, item: Item, content: bytes | IntakeError, *, grey: bool, reading: Reading) -> Decoded:
        if isinstance(content, IntakeError):
            raise content
        return decode(
            content,
            item.name,
            self._limits,
            grey=grey,
            size=reading.size,
            full_scale=reading.largest_value,
            box=item.box,
        )


def _stacked(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The images (B, H, W, C), which leave the list."""
    stacked = images.pop()[None] if len(images) == 1 else np.stack(images)
    images.clear()
    return stacked


def _scale_warning(highest: int, deep: int, reading: Reading) -> list[str]:
    """16-bit images of which none uses the upper half of the scale. Raises IntakeError where a value exceeds the scale given."""
    if not deep:
        return []
    if reading.largest_value is not None:
        if highest > reading.largest_value:
            raise IntakeError(
                f"A 16-bit image has the value {highest:,}, more than the largest value given, {reading.largest_value:,}.",
                f"Give {highest:,} or more.",
            )
        return []
    bits = highest.bit_length()
    if bits > 15:
        return []
    scale = 2**bits - 1
    return [
        f"The largest value of the {counted(deep, '16-bit image')} is {highest:,}, so {bits} of 16 bits are used: scaled as 16 "
        f"bits, the brightest pixel is {round(highest * 255 / FULL_SCALE)} of 255. If white is {scale:,}, add the data set again "
        f"with {LARGEST.format(scale)}."
    ]
