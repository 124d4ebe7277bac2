"""CIFAR-10 and CIFAR-100 as published for Python: pickled batches, read as data, nothing of them is called."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from auditor.data.intake.arrays import ArrayReader
from auditor.data.intake.faults import Unusable
from auditor.data.intake.files import Entry, Files, Read
from auditor.data.intake.pickles import read_plain_pickle
from auditor.data.intake.reading import Choice, Reading, Undecided, unknown
from auditor.data.intake.stored_arrays import StoredArray
from auditor.data.intake.survey import Samples
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import listed, shown
from auditor.models.labels import check_class_names

_SIDE, _CHANNELS = 32, 3
_ROW = _CHANNELS * _SIDE * _SIDE
_BATCH = re.compile(r"data_batch_\d+")
_NAMES = {"labels": "label_names", "fine_labels": "fine_label_names", "coarse_labels": "coarse_label_names"}
"""Under which key the names of each kind of label are."""


def is_cifar(files: Files) -> bool:
    """Whether the files are called as CIFAR's batches are."""
    names = {entry.parts[-1] for entry in files.entries}
    return any(map(_BATCH.fullmatch, names)) or "test_batch" in names or {"train", "test", "meta"} <= names


class CifarReader:
    """The batches of CIFAR-10 or CIFAR-100 in an archive, part by part."""

    format = "cifar batches"

    def __init__(self, files: Files, limits: Limits) -> None:
        self._files, self._limits = files, limits
        self._out: list[Unusable] = []
        named = {entry.parts[-1]: entry for entry in files.entries}
        training = sorted(
            (name for name in named if _BATCH.fullmatch(name)), key=lambda name: int(name.rpartition("_")[2])
        )
        parts = {"train": training or ["train"], "test": ["test_batch"] if "test_batch" in named else ["test"]}
        self._parts: dict[str, list[Entry]] = {
            part: [named[name] for name in names]
            for part, names in parts.items()
            if all(name in named for name in names)
        }
        self._meta = named.get("batches.meta") or named.get("meta")

    def leave_out(self, found: Unusable) -> None:
        """Read the batches without these images from now on."""
        self._out.append(found)

    def choices(self) -> list[Choice]:
        """Parts, and the kind of label of CIFAR-100."""
        kinds = self._kinds()
        found = [Choice(field="parts", values=tuple(self._parts), several=True)] if len(self._parts) > 1 else []
        return found + ([Choice(field="labels", values=kinds)] if len(kinds) > 1 else [])

    def samples(self, reading: Reading) -> Samples:
        """Images, labels and class names. Raises IntakeError, Undecided where part or labels have to be chosen."""
        kinds = self._kinds()
        if reading.labels and reading.labels not in kinds:
            raise unknown("labels", reading.labels, kinds, self._files.name)
        if not reading.labels and len(kinds) > 1:
            raise Undecided(
                f"{shown(self._files.name)} has several kinds of labels: {listed([shown(kind) for kind in kinds])}.",
                [Choice(field="labels", values=kinds)],
            )
        kind = reading.labels or kinds[0]
        arrays: dict[str, Any] = {}
        for part, entries in self._parts.items():
            labels = self._labels(entries, kind)
            arrays[f"{part}_images"] = _constant(self._images(part, entries, len(labels)))
            arrays[f"{part}_labels"] = _constant(_held(f"{part}_labels", self._files.name, labels))
        inner = ArrayReader(arrays, self._files.name, self._limits, "cifar batches", self._class_names(kind))
        for found in self._out:
            inner.leave_out(found)
        return inner.samples(reading.model_copy(update={"labels": "", "layout": "NCHW"}))

    def _kinds(self) -> tuple[str, ...]:
        """The kinds of labels that the batches have."""
        batch = self._batch(next(iter(self._parts.values()))[0])
        kinds = tuple(kind for kind in _NAMES if isinstance(batch.get(kind), list))
        if not kinds:
            raise IntakeError(
                f"The batches of {shown(self._files.name)} have no labels: expected 'labels', or 'fine_labels' and "
                "'coarse_labels'.",
                "Take the archive as it is published.",
            )
        return kinds

    def _batch(self, entry: Entry) -> Mapping[str, Any]:
        """A batch by the names of its values; a Python 2 pickle has them as bytes."""
        with self._files.stream(entry) as read:
            content = read_plain_pickle(cast(BinaryIO, _Stream(read)), entry.path, self._limits)
        if not isinstance(content, dict):
            raise self._odd(entry, "it is not a dictionary")
        return {_text(key): value for key, value in content.items()}

    def _pixels(self, entry: Entry) -> NDArray[np.uint8]:
        data = self._batch(entry).get("data")
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _ROW:
            raise self._odd(entry, f"expected 'data' as uint8 of Nx{_ROW}")
        return data

    def _labels(self, entries: Sequence[Entry], kind: str) -> NDArray[np.int64]:
        found: list[int] = []
        for entry in entries:
            values = self._batch(entry).get(kind)
            if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 2**31 for value in values):
                raise self._odd(entry, f"expected {kind!r} as a list of whole numbers")
            if len(values) != len(self._pixels(entry)):
                raise self._odd(entry, f"it has {len(self._pixels(entry)):,} images and {len(values):,} labels")
            found += values
        return np.array(found, np.int64)

    def _images(self, part: str, entries: Sequence[Entry], count: int) -> StoredArray:
        @contextmanager
        def opened() -> Iterator[Read]:
            pieces = iter(entries)
            rest = io.BytesIO()

            def read(size: int) -> bytes:
                nonlocal rest
                while not (data := rest.read(size)) and size:
                    entry = next(pieces, None)
                    if entry is None:
                        return b""
                    rest = io.BytesIO(self._pixels(entry).tobytes())
                return data

            yield read

        shape = (count, _CHANNELS, _SIDE, _SIDE)
        return StoredArray(f"{part}_images", self._files.name, np.dtype(np.uint8), shape, 0, opened)

    def _class_names(self, kind: str) -> tuple[str, ...] | None:
        names = self._batch(self._meta).get(_NAMES[kind]) if self._meta is not None else None
        return check_class_names([_text(name) for name in names], self._limits) if isinstance(names, list) else None

    def _odd(self, entry: Entry, what: str) -> IntakeError:
        return IntakeError(
            f"The batch {shown(entry.path)} of {shown(self._files.name)} is not as CIFAR's are: {what}.",
            "Take the archive as it is published, or save images and labels with numpy: "
            "np.savez_compressed('data.npz', images=images, labels=labels)",
        )


class _Stream(io.RawIOBase):
    """What ``Files.stream`` yields, as a file."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        parts = []
        while size > 0 and (data := self._read(size)):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)


def _held(key: str, name: str, values: NDArray[np.int64]) -> StoredArray:
    """An array that is in memory."""

    @contextmanager
    def opened() -> Iterator[Read]:
        yield io.BytesIO(values.tobytes()).read

    return StoredArray(key, name, values.dtype, values.shape, 0, opened)


def _constant(array: StoredArray) -> Any:
    return lambda: array


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
