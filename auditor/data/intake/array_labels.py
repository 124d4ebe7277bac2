"""Labels of arrays: numbers, names or one mark in each row, and the names of the classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.data.intake.array_pairs import CLASS_NAMES, MAX_LABEL_BYTES, Pair
from auditor.data.intake.reading import Reading
from auditor.data.intake.stored_arrays import StoredArray, invalid
from auditor.kit.errors import IntakeError
from auditor.kit.limits import MIB, Limits
from auditor.kit.wording import shape_text, shown
from auditor.models.labels import Labels, check_class_names, one_hot, read_labels

_MAX_TEXT_BYTES = 64 * MIB
"""Bytes of the array of class names: 100,000 names of 160 characters, four bytes each."""


class ArrayLabels:
    """Arrays by their keys, of which labels and names of classes are read. ``name`` is what errors call the file."""

    def __init__(self, arrays: Mapping[str, Callable[[], StoredArray]], name: str, limits: Limits) -> None:
        self._arrays, self._name, self._limits = arrays, name, limits

    def labels(
        self, pairs: Sequence[Pair], counts: Sequence[int], class_names: tuple[str, ...] | None, reading: Reading
    ) -> tuple[Labels, bool]:
        """The labels of all pairs, and whether they were given as names."""
        notes: list[str] = []
        cached: dict[str, NDArray[Any]] = {}
        values: list[NDArray[Any]] = []
        for pair, count in zip(pairs, counts, strict=True):
            if pair.labels not in cached or len(cached[pair.labels]) != count:
                cached[pair.labels], note = self._label_values(pair, count)
                notes += note
            values.append(cached[pair.labels])
        if len({array.dtype.kind in "US" for array in values}) > 1:
            raise IntakeError(
                f"The labels of {shown(pairs[0].labels)} and {shown(pairs[1].labels)} cannot be joined: names and numbers.",
                "Add them as data sets of their own.",
            )
        joined = values[0] if len(values) == 1 else np.concatenate(values)
        read = read_labels(joined, pairs[0].labels, class_names, self._limits, reading.first_label)
        return read._replace(notes=(*notes, *read.notes)), joined.dtype.kind in "US"

    def _label_values(self, pair: Pair, count: int) -> tuple[NDArray[Any], list[str]]:
        key, array = pair.labels, self._arrays[pair.labels]()
        shape = array.shape
        if (
            len(shape) not in (1, 2)
            or 0 in shape[1:]
            or (len(shape) == 2 and shape[1] > 1 and array.dtype.kind not in "biuf")
        ):
            raise IntakeError(
                f"The array {shown(key)} has the shape {shape_text(shape)} and the type {array.dtype.name}; "
                "expected one label for each image.",
                "Save one class number, or one class name, for each image: an array of as many entries as there are images.",
            )
        if shape[0] != count:
            raise IntakeError(
                f"The array {shown(key)} has {shape[0]:,} labels for {count:,} images; expected one for each.",
                "Save images and labels of the same samples.",
            )
        if len(shape) == 2 and shape[1] > 1:
            marked = (
                f"{shown(key)} has the shape {shape_text(shape)} and marks one class in each row; that is the label."
            )
            return one_hot(array.rows(), count, key, pair.images), [marked]
        note = f"{shown(key)} has the shape {shape_text(shape)}; it was taken as {count:,} labels."
        most = _MAX_TEXT_BYTES if array.dtype.kind in "US" else self._limits.samples * MAX_LABEL_BYTES
        return array.all(most + array.offset).reshape(count), [note] if len(shape) == 2 else []

    def class_names(self) -> tuple[tuple[str, ...] | None, str | None]:
        """The names and the key of the array that holds them; (None, None) without one."""
        key = next((key for key in CLASS_NAMES if key in self._arrays), None)
        if key is None:
            return None, None
        array = self._arrays[key]()
        if array.dtype.kind not in "US" or len(array.shape) != 1:
            raise IntakeError(
                f"The array {shown(key)} has the type {array.dtype.name} and the shape {shape_text(array.shape)}; "
                "expected a list of names.",
                "Save it as class_names=np.array(names, dtype=str).",
            )
        try:
            names = [
                item.decode("utf-8") if isinstance(item, bytes) else str(item)
                for item in array.all(_MAX_TEXT_BYTES).tolist()
            ]
        except ValueError:
            raise invalid(key, self._name, "a name is not valid text") from None
        return check_class_names(names, self._limits), key
