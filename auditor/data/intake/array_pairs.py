"""Which arrays of a file are images, and which the labels that belong to them: by name, by shape, by choice, by corruption."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.data.intake.groups import CORRUPTIONS, MNIST_CORRUPTIONS, SEVERITIES
from auditor.data.intake.reading import Choice, Reading, Undecided, unknown
from auditor.data.intake.stored_arrays import RECIPE, StoredArray
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import listed, shape_text, shown
from auditor.models.dataset import Group

PAIRS = (
    ("images", "labels"),
    ("image", "label"),
    ("x", "y"),
    ("data", "targets"),
    ("data", "labels"),
    ("images", "targets"),
    ("x", "labels"),
    ("imgs", "labels"),
)
"""Names under which the two arrays are looked for, in this order; the first is ours, the others are common."""

PARTS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "t10k", "extra")
"""What the parts of a data set are called."""

CLASS_NAMES = ("class_names", "classes", "label_names")
"""Names under which the names of the classes are looked for."""

MAX_LABEL_BYTES = 16
"""Bytes of one label: twice a 64-bit integer, so a wrong type is named by its type and not by its size."""

_LOOKED_AT = 200
"""Arrays of which the headers are read to find out which may be images."""

_WORDS = re.compile(r"[^a-z0-9]+")


class Pair(NamedTuple):
    """Images and the labels that belong to them; ``corruption`` where the images are called by one."""

    images: str
    labels: str
    corruption: str = ""


class ArrayPairs:
    """Arrays by their keys, of which pairs of images and labels are read. ``name`` is what errors call the file."""

    def __init__(self, arrays: Mapping[str, Callable[[], StoredArray]], name: str, limits: Limits) -> None:
        self._arrays, self._name, self._limits = arrays, name, limits
        self._folders = _folders_of_corruptions(arrays)

    def choices(self) -> list[Choice]:
        """What of the file can be chosen."""
        corrupted = self._corrupted(tuple(self._folders)[:1])
        if corrupted:
            values = tuple(pair.corruption for pair in corrupted)
            severities = tuple(map(str, range(1, SEVERITIES + 1)))
            found = [Choice(field="corruptions", values=values, several=True, needed=False)]
            if len(self._folders) > 1:
                found.insert(0, Choice(field="parts", values=tuple(self._folders), several=True))
            if self._blocks(corrupted) is not None:
                found.append(Choice(field="severities", values=severities, several=True, needed=False))
            return found
        parts = self._parts()
        if len(parts) > 1 and "" not in parts:
            return [Choice(field="parts", values=tuple(parts), several=True)]
        if parts:
            return []
        images, labels = self._candidates()
        return [
            Choice(field=field, values=tuple(keys))
            for field, keys in (("images", images), ("labels", labels))
            if len(keys) > 1
        ]

    def _parts(self) -> dict[str, Pair]:
        """The pairs of arrays that their names make, by the part of the data set; "" without one."""
        return _pairs_by_part({key: key for key in self._arrays})

    def chosen(self, reading: Reading) -> list[Pair]:
        """The arrays to read, in this order. Raises IntakeError, Undecided where it has to be chosen."""
        corrupted = self._corrupted(reading.parts)
        if corrupted and not reading.images:
            known = [pair.corruption for pair in corrupted]
            for wanted in reading.corruptions:
                if wanted not in known:
                    raise unknown("corruptions", wanted, known, self._name)
            return [pair for pair in corrupted if not reading.corruptions or pair.corruption in reading.corruptions]
        if reading.corruptions or reading.severities:
            field: Literal["corruptions", "severities"] = "corruptions" if reading.corruptions else "severities"
            raise unknown(field, str((*reading.corruptions, *reading.severities)[0]), (), self._name)
        parts = self._parts()
        if reading.images or reading.labels:
            return [self._named_pair(reading, parts)]
        if reading.parts:
            offer = [part for part in parts if part]
            for part in reading.parts:
                if part not in offer:
                    raise unknown("parts", part, offer, self._name)
            return [parts[part] for part in reading.parts]
        if "" in parts:
            return [parts[""]]
        if len(parts) == 1:
            return list(parts.values())
        if parts:
            sizes = [f"{shown(part)} ({self._arrays[pair.images]().shape[0]:,} images)" for part, pair in parts.items()]
            raise Undecided(
                f"{shown(self._name)} holds several parts: {listed(sizes, 5)}.",
                [Choice(field="parts", values=tuple(parts), several=True)],
            )
        return [self._only_pair()]

    def _named_pair(self, reading: Reading, parts: Mapping[str, Pair]) -> Pair:
        for field, key in (("images", reading.images), ("labels", reading.labels)):
            if key and key not in self._arrays:
                raise unknown(field, key, list(self._arrays), self._name)  # type: ignore[arg-type]
        if reading.images and reading.labels:
            return Pair(reading.images, reading.labels)
        for pair in parts.values():
            if reading.images == pair.images or reading.labels == pair.labels:
                return Pair(reading.images or pair.images, reading.labels or pair.labels)
        images, labels = self._candidates(reading.images, reading.labels)
        images, labels = [reading.images] if reading.images else images, [reading.labels] if reading.labels else labels
        if len(images) == len(labels) == 1:
            return Pair(images[0], labels[0])
        raise self._several(images, labels)

    def _only_pair(self) -> Pair:
        """The arrays by their shapes, where only one of them can be images, and one its labels."""
        images, labels = self._candidates()
        if len(images) == len(labels) == 1:
            return Pair(images[0], labels[0])
        raise self._several(images, labels)

    def _several(self, images: Sequence[str], labels: Sequence[str]) -> IntakeError:
        if images and labels:
            held = [f"{shown(key)} ({shape_text(self._arrays[key]().shape)})" for key in (*images, *labels)]
            return Undecided(
                f"{shown(self._name)} holds several arrays that may be images or labels: {listed(held, 8)}.",
                [
                    Choice(field=field, values=tuple(keys))
                    for field, keys in (("images", images), ("labels", labels))
                    if len(keys) > 1
                ],
            )
        lower = {key.lower() for key in self._arrays}
        wanted = [key for key in PAIRS[0] if key not in lower] or list(PAIRS[0])
        return IntakeError(
            f"{shown(self._name)} has no array '{wanted[0]}': expected 'images' and 'labels', "
            f"it holds {listed([shown(key) for key in self._arrays], 8)}.",
            RECIPE,
        )

    def _candidates(self, images: str = "", labels: str = "") -> tuple[list[str], list[str]]:
        """Arrays that may be images, by their shapes, and those that may be labels of one of them."""
        headers: list[StoredArray] = []
        for key in list(self._arrays)[:_LOOKED_AT]:
            try:
                headers.append(self._arrays[key]())
            except IntakeError:
                continue  # nobody asked for this one
        pictures = [
            array for array in headers
            if (array.key == images or not images) and array.key != labels and array.dtype.kind in "iuf"
            and len(array.shape) in (3, 4) and array.shape[0] and min(array.shape[1:3]) > 1
        ]  # fmt: skip
        lengths = {array.shape[0] for array in pictures}
        marks = [
            array for array in headers
            if (array.key == labels or not labels) and array.key not in CLASS_NAMES
            and array.dtype.kind in "biufUS" and len(array.shape) in (1, 2) and array.shape[0] in lengths
        ]  # fmt: skip
        lengths = {array.shape[0] for array in marks}
        return [array.key for array in pictures if array.shape[0] in lengths], [array.key for array in marks]

    def _corrupted(self, parts: Sequence[str]) -> list[Pair]:
        """The arrays of a set of corruptions: one for each and one of labels for all (CIFAR-10-C), or a folder of arrays for each
        (MNIST-C), of which these parts are read. Raises IntakeError, Undecided where a part has to be chosen."""
        if self._folders:
            for part in parts:
                if part not in self._folders:
                    raise unknown("parts", part, tuple(filter(None, self._folders)), self._name)
            if not parts and len(self._folders) > 1:
                raise Undecided(
                    f"{shown(self._name)} holds several parts: {listed([shown(part) for part in self._folders], 5)}.",
                    [Choice(field="parts", values=tuple(self._folders), several=True)],
                )
            return [pair for part in parts or self._folders for pair in self._folders[part]]
        labels = [key for key in self._arrays if PurePosixPath(key).name == "labels"]
        corruptions = {key: PurePosixPath(key).name for key in self._arrays if PurePosixPath(key).name in CORRUPTIONS}
        if len(labels) != 1 or not corruptions:
            return []
        return [Pair(key, labels[0], corruption) for key, corruption in sorted(corruptions.items())]

    def _blocks(self, pairs: Sequence[Pair]) -> int | None:
        """Images of one severity, where the labels repeat in five blocks; else None."""
        if self._folders:  # at one severity each
            return None
        labels = self._arrays[pairs[0].labels]()
        count = labels.shape[0] if labels.shape else 0
        if count % SEVERITIES or not count or len(labels.shape) > 2 or count > self._limits.samples:
            return None
        values = labels.all(self._limits.samples * MAX_LABEL_BYTES + labels.offset).reshape(SEVERITIES, -1)
        return count // SEVERITIES if bool((values == values[0]).all()) else None

    def groups(
        self, pairs: Sequence[Pair], images: Sequence[StoredArray], reading: Reading, keep: NDArray[np.bool_]
    ) -> tuple[list[Group], NDArray[np.int64]]:
        """The corruption and the severity of each image; ``keep`` loses the severities that were not asked for."""
        group_of = np.zeros(len(keep), np.int64)
        if not pairs[0].corruption:
            return [], group_of
        block = self._blocks(pairs)
        if block is None and reading.severities:
            raise IntakeError(
                f"The labels of {shown(self._name)} do not repeat in five blocks, so the severities are not known.",
                "Leave `--severity` out.",
            )
        wanted = [severity for severity in range(1, SEVERITIES + 1) if severity in (reading.severities or range(1, 6))]
        if not wanted:
            raise unknown("severities", str(reading.severities[0]), [str(item) for item in range(1, 6)], self._name)
        groups: list[Group] = []
        at = 0
        for pair, array in zip(pairs, images, strict=True):
            count = array.shape[0]
            if block is None:
                if (group := Group(pair.corruption, 0)) not in groups:  # once for all parts
                    groups.append(group)
                group_of[at : at + count] = groups.index(group)
            else:
                severity = np.arange(count) // block + 1
                keep[at : at + count] &= np.isin(severity, wanted)
                for number in wanted:
                    groups.append(Group(pair.corruption, number))
                    group_of[at : at + count][severity == number] = len(groups) - 1
            at += count
        return groups, group_of


def _pairs_by_part(keys: Mapping[str, str]) -> dict[str, Pair]:
    """The pairs of arrays that the names (``keys``: name -> key) make, by the part of the data set; "" without one."""
    words: dict[tuple[str, str], str] = {}
    for name, key in keys.items():
        parts = [word for word in _WORDS.split(name.lower()) if word]
        part = next((word for word in parts if word in PARTS), "")
        rest = "_".join(word for word in parts if word != part)
        if (part, rest) not in words or name == rest:
            words[part, rest] = key
    found: dict[str, Pair] = {}
    for part in dict.fromkeys(part for part, _ in words):
        pair = next((pair for pair in PAIRS if (part, pair[0]) in words and (part, pair[1]) in words), None)
        if pair is not None:
            found[part] = Pair(words[part, pair[0]], words[part, pair[1]])
    return found


def _folders_of_corruptions(keys: Iterable[str]) -> dict[str, list[Pair]]:
    """The arrays of MNIST-C's form, by the part of the data set; empty where a folder is no corruption of it, or lacks a pair."""
    folders: dict[PurePosixPath, dict[str, str]] = {}
    for key in keys:
        path = PurePosixPath(key)
        folders.setdefault(path.parent, {})[path.name] = key
    found: dict[str, list[Pair]] = {}
    for folder, names in sorted(folders.items()):
        pairs = _pairs_by_part(names)
        if folder.name not in MNIST_CORRUPTIONS or not pairs:
            return {}
        for part, pair in pairs.items():
            found.setdefault(part, []).append(pair._replace(corruption=folder.name))
    return found
