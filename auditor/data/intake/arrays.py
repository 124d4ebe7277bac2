"""Arrays to labelled images: .npz, .npy files in an archive, MNIST's IDX files; pixels stream batch by batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.data.intake.exclusion import numbered, numbered_note
from auditor.data.intake.faults import Unusable, left_out
from auditor.data.intake.groups import CORRUPTIONS, MNIST_CORRUPTIONS, SEVERITIES, groups_note
from auditor.data.intake.images import resize
from auditor.data.intake.label_map import mapped
from auditor.data.intake.reading import LEAVE_OUT, Choice, Reading, Undecided, unknown
from auditor.data.intake.stored_arrays import RECIPE, StoredArray, invalid
from auditor.data.intake.survey import Pixels, Samples, check_size
from auditor.kit.errors import IntakeError
from auditor.kit.limits import MIB, Limits
from auditor.kit.wording import listed, shape_text, shown, size_text
from auditor.models.dataset import Group
from auditor.models.labels import Labels, check_class_names, one_hot, read_labels
from auditor.models.pixel_range import PixelRange, integer_hint, reshape_hint

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

_CHANNELS = (1, 3)

_MAX_TEXT_BYTES = 64 * MIB
"""Bytes of the array of class names: 100,000 names of 160 characters, four bytes each."""

_MAX_LABEL_BYTES = 16
"""Bytes of one label: twice a 64-bit integer, so a wrong type is named by its type and not by its size."""

_LOOKED_AT = 200
"""Arrays of which the headers are read to find out which may be images."""

_WORDS = re.compile(r"[^a-z0-9]+")


class _Pair(NamedTuple):
    """Images and the labels that belong to them; ``corruption`` where the images are called by one."""

    images: str
    labels: str
    corruption: str = ""


class _Segment(NamedTuple):
    """One array of images in the order in which the pixels are written; ``keep``: which of its images, bool (N,)."""

    array: StoredArray
    channels_first: bool
    drop_alpha: bool
    keep: NDArray[np.bool_]


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
        self._out: list[str | int] = []
        self._given_names = class_names
        self._folders = _folders_of_corruptions(arrays)
        self.format = form

    def leave_out(self, found: Unusable) -> None:
        """Read the arrays without these images from now on."""
        self._out += found.faults

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

    def samples(self, reading: Reading) -> Samples:
        """Images, labels and class names. Raises IntakeError, also while the batches are read."""
        pairs, notes = self._pairs(reading), list[str]()
        first = self._arrays[pairs[0].images]()
        if len(pairs) == 1 and (pairs[0].images, pairs[0].labels) != PAIRS[0]:
            notes.append(
                f"The arrays {shown(pairs[0].images)} and {shown(pairs[0].labels)} were taken as images and labels."
            )
        count, height, width, channels, channels_first = self._layout(first, reading)
        if channels_first:
            notes.append(f"{shown(first.key)} has its channels before height and width (NCHW); they were moved last.")
        check_size(count, height, width, channels, 1, self._name, self._limits)
        element = self._check_dtype(first, reading)
        if (row := first.dtype.itemsize * height * width * channels) > self._limits.row_bytes:
            raise IntakeError(
                f"An image of {shown(first.key)} has {size_text(row)}, the limit is {size_text(self._limits.row_bytes)}.",
                "Save them as uint8, or smaller.",
            )
        drop_alpha = channels not in _CHANNELS
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
        images = [first, *(self._same(self._arrays[pair.images](), first) for pair in pairs[1:])]
        whole = sum(array.shape[0] for array in images)
        check_size(whole, height, width, channels, element, self._name, self._limits)
        if reading.size is not None:
            height, width = reading.size.height, reading.size.width
            check_size(whole, height, width, channels, element, self._name, self._limits)
        class_names, names_key = self._class_names()
        labels, given_names = self._labels(pairs, [array.shape[0] for array in images], class_names, reading)
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
        groups, group_of = self._groups(pairs, images, reading, keep)
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
            _Segment(array, channels_first, drop_alpha, keep[end - array.shape[0] : end])
            for array, end in zip(images, ends, strict=True)
        ]
        return Samples(
            shape=(kept, height, width, channels),
            dtype="uint8" if element == 1 else "float32",
            labels=labels.values[keep],
            class_names=labels.class_names,
            names=names,
            batches=self._batches(segments, channels, reading),
            labels_from="names" if given_names else "integers",
            rescalable=element == 1,
            notes=notes,
            groups=tuple(groups),
            group_of=group_of[keep] if groups else None,
        )

    # Which arrays.

    def _parts(self) -> dict[str, _Pair]:
        """The pairs of arrays that their names make, by the part of the data set; "" without one."""
        return _pairs_by_part({key: key for key in self._arrays})

    def _pairs(self, reading: Reading) -> list[_Pair]:
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

    def _named_pair(self, reading: Reading, parts: Mapping[str, _Pair]) -> _Pair:
        for field, key in (("images", reading.images), ("labels", reading.labels)):
            if key and key not in self._arrays:
                raise unknown(field, key, list(self._arrays), self._name)  # type: ignore[arg-type]
        if reading.images and reading.labels:
            return _Pair(reading.images, reading.labels)
        for pair in parts.values():
            if reading.images == pair.images or reading.labels == pair.labels:
                return _Pair(reading.images or pair.images, reading.labels or pair.labels)
        images, labels = self._candidates(reading.images, reading.labels)
        images, labels = [reading.images] if reading.images else images, [reading.labels] if reading.labels else labels
        if len(images) == len(labels) == 1:
            return _Pair(images[0], labels[0])
        raise self._several(images, labels)

    def _only_pair(self) -> _Pair:
        """The arrays by their shapes, where only one of them can be images, and one its labels."""
        images, labels = self._candidates()
        if len(images) == len(labels) == 1:
            return _Pair(images[0], labels[0])
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

    # Corruptions.

    def _corrupted(self, parts: Sequence[str]) -> list[_Pair]:
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
        return [_Pair(key, labels[0], corruption) for key, corruption in sorted(corruptions.items())]

    def _blocks(self, pairs: Sequence[_Pair]) -> int | None:
        """Images of one severity, where the labels repeat in five blocks; else None."""
        if self._folders:  # at one severity each
            return None
        labels = self._arrays[pairs[0].labels]()
        count = labels.shape[0] if labels.shape else 0
        if count % SEVERITIES or not count or len(labels.shape) > 2 or count > self._limits.samples:
            return None
        values = labels.all(self._limits.samples * _MAX_LABEL_BYTES + labels.offset).reshape(SEVERITIES, -1)
        return count // SEVERITIES if bool((values == values[0]).all()) else None

    def _groups(
        self, pairs: Sequence[_Pair], images: Sequence[StoredArray], reading: Reading, keep: NDArray[np.bool_]
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

    # Pixels.

    def _same(self, array: StoredArray, first: StoredArray) -> StoredArray:
        if (array.dtype, array.shape[1:]) != (first.dtype, first.shape[1:]):
            raise IntakeError(
                f"The arrays {shown(first.key)} and {shown(array.key)} cannot be joined: {first.dtype.name} "
                f"{shape_text(first.shape)} and {array.dtype.name} {shape_text(array.shape)}.",
                "Add them as data sets of their own.",
            )
        return array

    def _layout(self, array: StoredArray, reading: Reading) -> tuple[int, int, int, int, bool]:
        """(N, H, W, C, whether the channels come first) of an array of images."""
        shape, text = array.shape, shape_text(array.shape)
        if len(shape) == 3:
            return (*shape, 1, False)
        if len(shape) != 4:
            raise IntakeError(
                f"The array {shown(array.key)} has the shape {text}; expected images as NxHxWxC or NxHxW.",
                reshape_hint(shape),
            )
        taken = (*_CHANNELS, reading.channels + 1) if reading.channels is not None else _CHANNELS
        first, last = (
            shape[axis] in taken and reading.layout in ("auto", order) for axis, order in ((1, "NCHW"), (3, "NHWC"))
        )
        if first and last:
            raise IntakeError(
                f"The shape {text} of {shown(array.key)} is ambiguous: both NxCxHxW and NxHxWxC fit.",
                "Say which: `--layout NHWC` or `--layout NCHW` on the command line, 'Order of the axes' on the page.",
            )
        if not first and not last:
            raise IntakeError(
                f"The array {shown(array.key)} has the shape {text}; expected 1 or 3 channels"
                f"{'' if reading.layout == 'auto' else f', as {reading.layout}'}.",
                _fewer_channels(shape)
                if reading.layout == "auto"
                else "Leave the order of the axes out, or name the other one.",
            )
        return (shape[0], shape[2], shape[3], shape[1], True) if first else (*shape, False)

    def _check_dtype(self, array: StoredArray, reading: Reading) -> int:
        """Bytes of a stored pixel value: 1 for uint8, 4 for floating point. Raises IntakeError for other types."""
        if array.dtype.kind in "iu" and reading.largest_value is not None:
            return 4
        if array.dtype == np.uint8:
            return 1
        if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
            return 4
        low, high = _reach(array) if array.dtype.kind in "iu" else (0, 0)
        reach = f" (from {low:,} to {high:,})" if array.dtype.kind in "iu" else ""
        raise IntakeError(
            f"The array {shown(array.key)} has the type {array.dtype.name}{reach}; expected uint8, or floating point in [0, 1].",
            integer_hint(array.dtype, low, high),
        )

    def _batches(self, segments: Sequence[_Segment], channels: int, reading: Reading) -> Iterator[Pixels]:
        bad: list[int] = []
        refusal: IntakeError | None = None
        start, kept = 0, sum(int(segment.keep.sum()) for segment in segments)
        for segment in segments:
            array = segment.array
            checked = PixelRange(array.key)
            full = reading.largest_value if array.dtype.kind in "iu" else None
            at = 0
            for rows in array.rows():
                rows = rows[segment.keep[at : (at := at + len(rows))]]
                if not len(rows):
                    continue
                part = (
                    rows[..., None]
                    if rows.ndim == 3
                    else rows.transpose(0, 2, 3, 1)
                    if segment.channels_first
                    else rows
                )
                if segment.drop_alpha:
                    part = part[..., :-1]
                scaled = part if full is None else part / np.float64(full)
                pixels: Any = scaled if scaled.dtype == np.uint8 else checked.float32(scaled)
                if pixels.shape[-1] != channels:
                    pixels = np.repeat(pixels, 3, axis=-1) if channels == 3 else _grey(pixels)
                if reading.size is not None:
                    pixels = np.stack([resize(image, reading.size) for image in np.ascontiguousarray(pixels)])
                yield pixels
            if checked.bad and checked.in_range:
                numbers = (start + np.flatnonzero(segment.keep)[checked.bad]).tolist()
                bad += numbers
                refusal = refusal or checked.refusal(numbers)
            else:
                checked.finish(full)
            start += array.shape[0]
        if refusal is None:
            return
        if len(bad) == kept:
            raise refusal
        if reading.leave_out:
            raise Unusable(dict.fromkeys(bad, refusal), start, "image")
        raise IntakeError(refusal.message, f"{refusal.hint} Or {LEAVE_OUT}.")

    # Labels.

    def _labels(
        self, pairs: Sequence[_Pair], counts: Sequence[int], class_names: tuple[str, ...] | None, reading: Reading
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

    def _label_values(self, pair: _Pair, count: int) -> tuple[NDArray[Any], list[str]]:
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
        most = _MAX_TEXT_BYTES if array.dtype.kind in "US" else self._limits.samples * _MAX_LABEL_BYTES
        return array.all(most + array.offset).reshape(count), [note] if len(shape) == 2 else []

    def _class_names(self) -> tuple[tuple[str, ...] | None, str | None]:
        """The names and the key of the array that holds them; (None, None) without one."""
        key = next((key for key in CLASS_NAMES if key in self._arrays), None)
        if key is None:
            return self._given_names, None
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


def _pairs_by_part(keys: Mapping[str, str]) -> dict[str, _Pair]:
    """The pairs of arrays that the names (``keys``: name -> key) make, by the part of the data set; "" without one."""
    words: dict[tuple[str, str], str] = {}
    for name, key in keys.items():
        parts = [word for word in _WORDS.split(name.lower()) if word]
        part = next((word for word in parts if word in PARTS), "")
        rest = "_".join(word for word in parts if word != part)
        if (part, rest) not in words or name == rest:
            words[part, rest] = key
    found: dict[str, _Pair] = {}
    for part in dict.fromkeys(part for part, _ in words):
        pair = next((pair for pair in PAIRS if (part, pair[0]) in words and (part, pair[1]) in words), None)
        if pair is not None:
            found[part] = _Pair(words[part, pair[0]], words[part, pair[1]])
    return found


def _folders_of_corruptions(keys: Iterable[str]) -> dict[str, list[_Pair]]:
    """The arrays of MNIST-C's form, by the part of the data set; empty where a folder is no corruption of it, or lacks a pair."""
    folders: dict[PurePosixPath, dict[str, str]] = {}
    for key in keys:
        path = PurePosixPath(key)
        folders.setdefault(path.parent, {})[path.name] = key
    found: dict[str, list[_Pair]] = {}
    for folder, names in sorted(folders.items()):
        pairs = _pairs_by_part(names)
        if folder.name not in MNIST_CORRUPTIONS or not pairs:
            return {}
        for part, pair in pairs.items():
            found.setdefault(part, []).append(pair._replace(corruption=folder.name))
    return found


def _reach(array: StoredArray) -> tuple[int, int]:
    """The smallest and the largest value of an array of integers."""
    ends = [(int(rows.min()), int(rows.max())) for rows in array.rows()]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _fewer_channels(shape: tuple[int, ...]) -> str:
    """What to do about images with an alpha channel, or with other channels that no model for grey or colour images takes."""
    for axis, taken in ((3, "images[..., :{0}]"), (1, "images[:, :{0}]")):
        if shape[axis] in (2, 4):
            kept, what = (1, "the grey channel") if shape[axis] == 2 else (3, "the colours")
            return (
                f"If the last channel is alpha, save {what} alone: {taken.format(kept)}; or drop it: `--channels {kept}` on the "
                "command line, 'Channels' on the page."
            )
    return "Save images with 1 or 3 channels, for example the first three: images[..., :3] of NxHxWxC, images[:, :3] of NxCxHxW."


def _grey(pixels: Pixels) -> Pixels:
    """Colours (B, H, W, 3) to grey, by ITU-R 601, as Pillow does it: (299 R + 587 G + 114 B) / 1000."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    grey = (pixels.astype(np.float32) @ weights)[..., None]
    return np.rint(grey).astype(np.uint8) if pixels.dtype == np.uint8 else np.clip(grey, 0, 1)
