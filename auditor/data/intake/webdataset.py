"""WebDataset: tar archives in which files of one key are one sample: key.jpg beside key.cls or key.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeGuard

from auditor.data.intake import archive
from auditor.data.intake.columns import by_part, choices_of, one_of, shards_of
from auditor.data.intake.files import Entry, Files
from auditor.data.intake.pictures import Item, Layout, PictureReader
from auditor.data.intake.reading import Choice, Reading
from auditor.data.intake.values import labels_of
from auditor.kit.errors import IntakeError
from auditor.kit.limits import MIB, Limits
from auditor.kit.wording import counted, listed, shown

_KEY = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)")
"""A path up to the first dot of its name, as webdataset cuts it, and what follows."""

_IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp", "gif", "tif", "tiff")
_MAX_LABEL = MIB
"""Bytes of a file that says a label."""

_ODD = 5
_NOUN = "files or keys"


class _Sample(NamedTuple):
    key: str
    files: dict[str, tuple[Files, Entry]]


class WebDatasetReader(PictureReader):
    """The samples of one tar archive, or of the shards of a set, in the order in which they lie there."""

    format = "webdataset"

    def __init__(self, shards: Sequence[tuple[str, Files]], name: str, limits: Limits) -> None:
        super().__init__(name, limits)
        self._parts = by_part(shards)

    def choices(self) -> list[Choice]:
        """What of the archives can be chosen."""
        try:
            samples = self._samples(next(iter(self._parts.values())))
            images, labels = _kinds(samples)
            fields = self._label_fields(samples, labels)
        except IntakeError:
            images = fields = ()
        return choices_of(self._parts, images, fields)

    def _layout(self, reading: Reading) -> Layout:
        shards = shards_of(self._parts, reading, self._name)
        samples = self._samples(shards)
        images, labels = _kinds(samples)
        image = one_of("images", reading.images, images, self._name, _NOUN)
        fields = self._label_fields(samples, labels)
        if reading.labels.startswith("json."):  # the first sample may lack it
            fields = (*fields, reading.labels)
        label = one_of("labels", reading.labels, fields, self._name, _NOUN)
        out = set(self._out)
        faults: dict[str | int, IntakeError] = {}
        kept: list[tuple[_Sample, int | str]] = []
        for sample in samples:
            if sample.key in out:
                continue
            try:
                if (fault := archive.name_fault(sample.key, self._limits)) is not None:
                    raise fault
                kept.append((sample, self._label(sample, label)))
                if image not in sample.files:
                    kept.pop()
                    raise IntakeError(
                        f"The sample {shown(sample.key)} of {shown(self._name)} has no file .{image}.", "Leave it out."
                    )
            except IntakeError as error:
                faults[sample.key] = error
        if not kept:
            return Layout([], None, "integers", len(samples), "sample", faults=faults)
        read, made_of = labels_of([value for _, value in kept], label, None, reading, self._limits)
        items = [
            Item(sample.key, given, sample.key, sample.files[image])
            for (sample, _), given in zip(kept, read.values.tolist(), strict=True)
        ]
        notes = [f"The files .{image} and {label} of each sample were taken as image and label.", *read.notes]
        return Layout(items, read.class_names, made_of, len(samples), "sample", notes, faults=faults)

    def _samples(self, shards: Sequence[Files]) -> list[_Sample]:
        """The samples: files of one key that follow each other."""
        samples: list[_Sample] = []
        odd: list[str] = []
        for files in shards:
            key = None
            for entry in files.entries:
                found = _KEY.fullmatch(entry.path)
                if found is None:
                    odd.append(entry.path)
                    continue
                if found[1] != key:
                    key = found[1]
                    samples.append(_Sample(key, {}))
                kind = found[2].lower()
                if kind in samples[-1].files:
                    raise IntakeError(
                        f"The sample {shown(found[1])} of {shown(self._name)} has two files .{kind}.",
                        "Give every sample a key of its own.",
                    )
                samples[-1].files[kind] = (files, entry)
                if len(samples) > self._limits.samples:
                    raise IntakeError(f"{shown(self._name)} has more than {self._limits.samples:,} samples, the limit.")
        twice = [key for key, count in _counts(samples).items() if count > 1]
        if twice:
            raise IntakeError(
                f"The key {shown(twice[0])} of {shown(self._name)} stands for several samples"
                + (f", as do {counted(len(twice) - 1, 'other key')}" if len(twice) > 1 else "")
                + ": files of one key must follow each other, and a key ends at the first dot.",
                "Give every sample a key of its own, without a dot.",
            )
        if not samples:
            raise IntakeError(
                f"{shown(self._name)} holds no samples: expected files such as 0001.jpg and 0001.cls"
                + (f", found {listed([shown(item) for item in odd], _ODD)}." if odd else "."),
                "Write it with webdataset.TarWriter, or make a zip of class folders.",
            )
        return samples

    def _label_fields(self, samples: Sequence[_Sample], kinds: Sequence[str]) -> tuple[str, ...]:
        """What may be the label: cls, or the whole numbers and texts of json as json.KEY."""
        fields: list[str] = [kind for kind in kinds if kind != "json"]
        if "json" in kinds and not fields:
            files, entry = next(sample.files["json"] for sample in samples if "json" in sample.files)
            fields += [f"json.{name}" for name, value in self._json(files, entry).items() if _is_label(value)]
        if not fields:
            raise IntakeError(
                f"The samples of {shown(self._name)} have no label: expected a file .cls with the number of the class, or a "
                ".json with one.",
                "Write it with webdataset.TarWriter as {'__key__': key, 'jpg': image, 'cls': number}.",
            )
        return tuple(fields)

    def _label(self, sample: _Sample, label: str) -> int | str:
        kind, _, name = label.partition(".")
        if kind not in sample.files:
            raise IntakeError(
                f"The sample {shown(sample.key)} of {shown(self._name)} has no file .{kind}.", "Leave it out."
            )
        files, entry = sample.files[kind]
        if kind == "json":
            value = self._json(files, entry).get(name)
            if not _is_label(value):
                raise IntakeError(
                    f"{shown(entry.path)} of {shown(self._name)} gives {shown(name)} no whole number and no text.",
                    "Leave it out.",
                )
            return value
        text = files.read(entry, _MAX_LABEL).decode("utf-8", "replace").strip()
        if not text:
            raise IntakeError(
                f"{shown(entry.path)} of {shown(self._name)} is empty; expected the class.", "Leave it out."
            )
        return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text

    def _json(self, files: Files, entry: Entry) -> dict[str, object]:
        try:
            value = json.loads(files.read(entry, _MAX_LABEL))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise IntakeError(f"{shown(entry.path)} of {shown(self._name)} is not a JSON object.", "Leave it out.")
        return value

    def _contents(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | IntakeError]]:
        for item in items:
            files, entry = item.place
            try:
                yield item, files.read(entry, self._limits.image_bytes)
            except IntakeError as error:
                yield item, error


def is_webdataset(files: Files) -> bool:
    """Whether files come as an image and a label of one key, and not in class folders."""
    keys: dict[str, set[str]] = {}
    for entry in files.entries[:1000]:
        if found := _KEY.fullmatch(entry.path):
            keys.setdefault(found[1], set()).add(found[2].lower())
    return any(kinds & set(_IMAGES) and kinds & {"cls", "json", "cls.txt", "label"} for kinds in keys.values())


def _kinds(samples: Sequence[_Sample]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Endings of images, and of labels, in the order in which they first appear."""
    found = dict.fromkeys(kind for sample in samples for kind in sample.files)
    images = tuple(kind for kind in found if kind.rpartition(".")[2] in _IMAGES)
    if not images:
        raise IntakeError(
            f"The samples hold no images: their files end in {listed([f'.{kind}' for kind in found], 8)}.",
            f"Expected one of {', '.join(f'.{kind}' for kind in _IMAGES)}.",
        )
    return images, tuple(kind for kind in found if kind in ("cls", "json", "cls.txt", "label"))


def _counts(samples: Sequence[_Sample]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for sample in samples:
        counts[sample.key] = counts.get(sample.key, 0) + 1
    return counts


def _is_label(value: object) -> TypeGuard[int | str]:
    return isinstance(value, int | str) and not isinstance(value, bool) and value != ""
