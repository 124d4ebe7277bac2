"""Arrays to labelled images: .npz, .npy files in an archive, MNIST's IDX files; pixels stream batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from auditor.data.intake.array_labels import ArrayLabels
from auditor.data.intake.array_pairs import PAIRS, ArrayPairs
from auditor.data.intake.array_pixels import CHANNELS, Segment, batches_of, layout_of, pixel_bytes, same_kind
from auditor.data.intake.exclusion import numbered, numbered_note
from auditor.data.intake.faults import Unusable, left_out
from auditor.data.intake.groups import groups_note
from auditor.data.intake.label_map import mapped
from auditor.data.intake.reading import Choice, Reading
from auditor.data.intake.stored_arrays import StoredArray
from auditor.data.intake.survey import Samples, check_size
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import listed, shown, size_text


class ArrayReader:
    """Arrays by their keys; a header is read when its array is asked for. ``name`` is what errors call the file.

    Images that cannot be used are refused together (Unusable); those handed to ``leave_out`` are left out and named instead.
    """

    format: str

    def __init__(
        self,
        arrays: Mapping[str, Callable[[], StoredArray]],
        name: str,
        limits: Limits,
        form: Literal["npz", "npy", "idx", "cifar batches"],
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        self._arrays, self._name, self._limits = arrays, name, limits
        self._pairs, self._labels = ArrayPairs(arrays, name, limits), ArrayLabels(arrays, name, limits)
        self._out: list[str | int] = []
        self._given_names = class_names
        self.format = form

    def leave_out(self, found: Unusable) -> None:
        """Read the arrays without these images from now on."""
        self._out += found.faults

    def choices(self) -> list[Choice]:
        """What of the file can be chosen."""
        return self._pairs.choices()

    def samples(self, reading: Reading) -> Samples:
        """Images, labels and class names. Raises IntakeError, also while the batches are read."""
        pairs, notes = self._pairs.chosen(reading), list[str]()
        first = self._arrays[pairs[0].images]()
        if len(pairs) == 1 and (pairs[0].images, pairs[0].labels) != PAIRS[0]:
            notes.append(
                f"The arrays {shown(pairs[0].images)} and {shown(pairs[0].labels)} were taken as images and labels."
            )
        count, height, width, channels, channels_first = layout_of(first, reading)
        if channels_first:
            notes.append(f"{shown(first.key)} has its channels before height and width (NCHW); they were moved last.")
        check_size(count, height, width, channels, 1, self._name, self._limits)
        element = pixel_bytes(first, reading)
        if (row := first.dtype.itemsize * height * width * channels) > self._limits.row_bytes:
            raise IntakeError(
                f"An image of {shown(first.key)} has {size_text(row)}, the limit is {size_text(self._limits.row_bytes)}.",
                "Save them as uint8, or smaller.",
            )
        drop_alpha = channels not in CHANNELS
        if drop_alpha:
            notes.append(f"The last of the {channels} channels of {shown(first.key)} was dropped, as asked.")
            channels -= 1
        if reading.channels is not None and channels != reading.channels:
            channels = reading.channels
            notes.append(
                "The grey images got three equal channels, as asked."
                if channels == 3
                else "The images in colour became grey, as asked."
            )
        images = [first, *(same_kind(self._arrays[pair.images](), first) for pair in pairs[1:])]
        whole = sum(array.shape[0] for array in images)
        check_size(whole, height, width, channels, element, self._name, self._limits)
        if reading.size is not None:
            height, width = reading.size.height, reading.size.width
            check_size(whole, height, width, channels, element, self._name, self._limits)
        class_names, names_key = self._labels.class_names()
        class_names = self._given_names if names_key is None else class_names
        labels, given_names = self._labels.labels(pairs, [array.shape[0] for array in images], class_names, reading)
        notes += labels.notes
        if first.dtype.kind == "f" and first.dtype.itemsize != 4:
            notes.append(f"The pixels are {first.dtype.name}; they are stored as float32.")
        if reading.largest_value is not None and first.dtype.kind in "iu":
            notes.append(f"The pixels were divided by {reading.largest_value:,}, as asked.")
        used = {names_key, *(key for pair in pairs for key in pair[:2])}
        if ignored := [shown(key) for key in self._arrays if key not in used]:
            notes.append(f"Other arrays of the file were ignored: {listed(ignored, 5)}.")
        keep = np.ones(whole, bool)
        keep[[number for number in self._out if isinstance(number, int)]] = False
        if self._out:
            notes.append(left_out(sorted(self._out), whole, "image"))
        excluded = numbered(reading.exclude, whole, self._name)
        keep &= ~excluded
        notes += numbered_note(excluded)
        groups, group_of = self._pairs.groups(pairs, images, reading, keep)
        if reading.label_map:
            change = mapped(labels.values, labels.class_names, reading.label_map, self._limits)
            keep &= change.keep
            values = np.zeros(whole, np.int64)
            values[change.keep] = change.labels
            labels = labels._replace(values=values, class_names=change.class_names)
            notes += change.notes
        kept = int(keep.sum())
        if kept < whole:
            check_size(kept, height, width, channels, element, self._name, self._limits)
        if groups:
            notes.append(groups_note(groups))
        names = [f"#{number}" for number in np.flatnonzero(keep)] if kept < whole else None
        ends = np.cumsum([array.shape[0] for array in images])
        segments = [
            Segment(array, channels_first, drop_alpha, keep[end - array.shape[0] : end])
            for array, end in zip(images, ends, strict=True)
        ]
        return Samples(
            shape=(kept, height, width, channels),
            dtype="uint8" if element == 1 else "float32",
            labels=labels.values[keep],
            class_names=labels.class_names,
            names=names,
            batches=batches_of(segments, channels, reading),
            labels_from="names" if given_names else "integers",
            rescalable=element == 1,
            notes=notes,
            groups=tuple(groups),
            group_of=group_of[keep] if groups else None,
        )
