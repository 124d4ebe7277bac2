"""A zip archive with one folder of images for each class, to labelled images; member by member, nothing is unpacked."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.class_numbers import class_numbers
from auditor.errors import IntakeError
from auditor.intake import archive
from auditor.intake.faults import Unusable, left_out
from auditor.intake.images import FULL_SCALE, TRAITS, Decoded, Header, decode, read_header
from auditor.intake.labels import Classes, classes_of
from auditor.intake.limits import MIB, Limits
from auditor.intake.reading import LARGEST, RESIZE, Reading
from auditor.intake.survey import BATCH_BYTES, Pixels, Samples, check_size
from auditor.intake.wording import counted, listed, shown

_LAYOUT = "Expected one folder for each class, with images in it: cat/1.png, dog/2.png."
_IGNORED_FOLDERS = frozenset({"__MACOSX"})
_IGNORED_FILES = frozenset({"thumbs.db", "desktop.ini", "icon\r"})
_DOCUMENTS = ("readme", "license", "licence", "copying", "citation")
_DOCUMENT_SUFFIXES = ("", ".txt", ".md", ".rst", ".html", ".pdf", ".cff")
"""Texts that data sets bring along beside their class folders."""

_BESIDE_SUFFIXES = frozenset(
    {
        ".csv",
        ".tsv",
        ".txt",
        ".md",
        ".json",
        ".jsonl",
        ".xml",
        ".yaml",
        ".yml",
        ".toml",
        ".ini",
        ".log",
        ".pdf",
        ".html",
        ".py",
    }
)
"""Lists, annotations and scripts: what no image is called, wherever it lies."""

_MAX_NAMES_BYTES = 64 * MIB
"""All sample names as JSON; they lie in the header of the stored file, which may have 100 MB."""

Entry = tuple[tuple[str, ...], zipfile.ZipInfo]
"""A file of the archive: the parts of its path, and the member."""


class _Layout(NamedTuple):
    """Members with their labels, in the order of the samples."""

    classes: Classes
    members: list[zipfile.ZipInfo]
    names: list[str]
    labels: list[int]
    notes: list[str]
    faults: dict[str | int, IntakeError]


class FolderReader:
    """The images of one opened archive; ``name`` is what errors call it.

    Files that cannot be used are refused together (Unusable); those handed to ``leave_out`` are left out and named instead.
    """

    def __init__(self, file: zipfile.ZipFile, name: str, limits: Limits) -> None:
        self._file, self._name, self._limits = file, name, limits
        self._out: list[str | int] = []
        self._files = 0

    def leave_out(self, found: Unusable) -> None:
        """Read the archive without these files from now on."""
        self._out += found.faults

    def samples(self, reading: Reading) -> Samples:
        """Images in the order of class and name; a folder called by a number is the class of that number, other folders are
        classes in sorted order.

        Every header is read before the first pixel: the number of channels, and whether the sizes agree, must be known
        before the first batch is written. Raises IntakeError, also while the batches are read.
        """
        layout = self._layout(reading)
        check_size(len(layout.members), 1, 1, 1, 1, self._name, self._limits)
        height, width, grey, notes = self._headers(layout, reading)
        channels = 1 if grey else 3
        check_size(len(layout.members), height, width, channels, 1, self._name, self._limits)
        names: list[str] | None = layout.names
        if len(json.dumps(names)) > _MAX_NAMES_BYTES:
            names = None
            notes.append("The names of the images are too long together to be kept; samples are called by number.")
        warnings = _order_warning(layout.classes)
        return Samples(
            shape=(len(layout.members), height, width, channels),
            dtype="uint8",
            labels=np.array(layout.labels, np.int64),
            class_names=layout.classes.names,
            names=names,
            batches=self._batches(layout, height * width * channels, grey, reading, warnings),
            labels_from="numbers" if layout.classes.numbered else "names",
            notes=layout.notes + notes,
            warnings=warnings,
        )

    def _layout(self, reading: Reading) -> _Layout:
        files, folders, ignored = self._entries()
        out = set(self._out)
        faults: dict[str | int, IntakeError] = {}
        for _, member in files:
            if member.orig_filename not in out and (fault := archive.name_fault(member, self._limits)) is not None:
                faults[member.orig_filename] = fault
        self._files = len(files)
        files = [entry for entry in files if entry[1].orig_filename not in out and entry[1].orig_filename not in faults]
        depth, misplaced = self._depth(files)
        faults |= misplaced
        files = [entry for entry in files if entry[1].orig_filename not in misplaced]
        notes = [f"{counted(len(ignored), 'file')} ignored: {listed(ignored)}."] if ignored else []
        notes += [left_out(self._out, self._files, "file")] if self._out else []
        top = files[0][0][:depth]
        names = {parts[depth] for parts, _ in files}
        names |= {parts[depth] for parts in folders if len(parts) == depth + 1 and parts[:depth] == top}
        classes = classes_of(
            sorted(names), self._limits, first_label=reading.first_label, by_number=reading.folders == "numbers"
        )
        label = classes.label
        files.sort(key=lambda entry: (label[entry[0][depth]], entry[0]))
        return _Layout(
            classes,
            [member for _, member in files],
            ["/".join(parts[depth:]) for parts, _ in files],
            [label[parts[depth]] for parts, _ in files],
            notes,
            faults,
        )

    def _entries(self) -> tuple[list[Entry], set[tuple[str, ...]], list[str]]:
        """The files that may be images, the folders that are empty or hold some, and what is ignored, as it is shown."""
        files: list[Entry] = []
        folders: set[tuple[str, ...]] = set()
        beside: set[tuple[str, ...]] = set()
        ignored: list[str] = []
        for member in self._file.infolist():
            parts = tuple(member.orig_filename.rstrip("/").split("/"))
            if _is_junk(parts):
                ignored.append(shown(member.orig_filename))
            elif member.orig_filename.endswith("/"):
                folders.add(parts)
            elif _is_document(parts) or PurePosixPath(parts[-1]).suffix.lower() in _BESIDE_SUFFIXES:
                ignored.append(shown(member.orig_filename))
                beside.add(parts[:-1])
            else:
                files.append((parts, member))
        with_files = {parts[:length] for parts, _ in files for length in range(1, min(len(parts), 4))}
        # A folder of annotations alone is no class; an empty one is a class without images.
        return files, {folder for folder in folders if folder in with_files or folder not in beside}, ignored

    def _depth(self, files: list[Entry]) -> tuple[int, dict[str | int, IntakeError]]:
        """How deep the class folders lie, 0 or 1, and the files that lie elsewhere. Raises IntakeError for another layout."""
        if not files:
            raise IntakeError(f"{shown(self._name)} holds no images.", _LAYOUT)
        inner = next((parts for parts, _ in files if parts[-1].lower().endswith((".npz", ".npy", ".zip"))), None)
        if inner is not None and all(parts[-1].lower().endswith((".npz", ".npy", ".zip")) for parts, _ in files):
            raise IntakeError(
                f"{shown(self._name)} is a zip around {shown('/'.join(inner))}, which is a file to upload by itself.",
                f"Take {shown(inner[-1])} out of the zip and add that."
                if not inner[-1].lower().endswith(".npy")
                else "Save images and labels as one .npz: np.savez_compressed('data.npz', images=images, labels=labels).",
            )
        usual = Counter(len(parts) for parts, _ in files).most_common(1)[0][0]
        tops = {parts[0] for parts, _ in files if len(parts) == 3}
        if usual == 3 and len(tops) > 1:
            raise IntakeError(
                f"{shown(self._name)} has folders within folders ({listed([shown(top) for top in sorted(tops)])}).",
                f"{_LAYOUT} If these are parts such as train and test, make a zip of each and add them one by one.",
            )
        where = {
            "/".join(parts): "lies outside of the class folders" if len(parts) < max(2, usual) else "lies too deep"
            for parts, _ in files
            if len(parts) != usual or usual not in (2, 3)
        }
        if where and usual not in (2, 3):
            odd, place = next(iter(where.items()))
            raise IntakeError(f"The entry {shown(odd)} of {shown(self._name)} {place}.", _LAYOUT)
        misplaced: dict[str | int, IntakeError] = {
            member.orig_filename: IntakeError(
                f"The entry {shown('/'.join(parts))} of {shown(self._name)} {where['/'.join(parts)]}.", _LAYOUT
            )
            for parts, member in files
            if "/".join(parts) in where
        }
        return usual - 2, misplaced

    def _headers(self, layout: _Layout, reading: Reading) -> tuple[int, int, bool, list[str]]:
        """(height, width, whether all are grey, notes) of the images, from their headers."""
        size = reading.size
        found: list[tuple[str, Header]] = []
        faults = dict(layout.faults)
        for member, name in zip(layout.members, layout.names, strict=True):
            try:
                found.append((name, read_header(self._read(member), name, self._limits)))
            except IntakeError as error:
                faults[member.orig_filename] = error
        if faults:
            raise Unusable(faults | self._undecodable(layout, reading, set(faults)), self._files, "file")
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

    def _undecodable(self, layout: _Layout, reading: Reading, known: set[str | int]) -> dict[str | int, IntakeError]:
        """The images whose pixels cannot be read, among those whose header can: an upload is refused once, with all of it."""
        found: dict[str | int, IntakeError] = {}
        for member, name in zip(layout.members, layout.names, strict=True):
            if member.orig_filename not in known:
                try:
                    self._decoded(member, name, grey=False, reading=reading)
                except IntakeError as error:
                    found[member.orig_filename] = error
        return found

    def _batches(
        self, layout: _Layout, image_bytes: int, grey: bool, reading: Reading, warnings: list[str]
    ) -> Iterator[Pixels]:
        """Batches of images, up to the first that cannot be read; the rest is then looked at for more of them."""
        per_batch = max(1, BATCH_BYTES // image_bytes)
        faults: dict[str | int, IntakeError] = {}
        highest, deep = 0, 0
        for start in range(0, len(layout.members), per_batch):
            part = slice(start, start + per_batch)
            images: list[NDArray[np.uint8]] = []
            for member, name in zip(layout.members[part], layout.names[part], strict=True):
                try:
                    decoded = self._decoded(member, name, grey=grey, reading=reading)
                except IntakeError as error:
                    faults[member.orig_filename] = error
                    continue
                images.append(decoded.pixels)
                if decoded.highest is not None:
                    highest, deep = max(highest, decoded.highest), deep + 1
                del decoded  # the next one may be as large
            if not faults:
                yield images.pop()[None] if len(images) == 1 else np.stack(images)
        if faults:
            raise Unusable(faults, self._files, "file")
        warnings += _scale_warning(highest, deep, reading)

    def _decoded(self, member: zipfile.ZipInfo, name: str, *, grey: bool, reading: Reading) -> Decoded:
        data = self._read(member)
        return decode(data, name, self._limits, grey=grey, size=reading.size, full_scale=reading.largest_value)

    def _read(self, member: zipfile.ZipInfo) -> bytes:
        return archive.read_member(self._file, member, self._name, self._limits.image_bytes)


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


def _is_junk(parts: tuple[str, ...]) -> bool:
    """What file managers leave in archives: hidden files, __MACOSX, Thumbs.db, Icon and a carriage return."""
    return (
        any((part.startswith(".") and part != ".") or part in _IGNORED_FOLDERS for part in parts)
        or parts[-1].lower() in _IGNORED_FILES
    )


def _is_document(parts: tuple[str, ...]) -> bool:
    """A README or a licence beside the class folders, or beside their common top folder."""
    path = PurePosixPath(parts[-1].lower())
    return len(parts) <= 2 and path.stem in _DOCUMENTS and path.suffix in _DOCUMENT_SUFFIXES


def _order_warning(classes: Classes) -> list[str]:
    """Folders called by numbers that are sorted as text: whoever counts on 2 before 10 must know."""
    numbers = None if classes.numbered else class_numbers(classes.names)
    if numbers is None or numbers == sorted(numbers):
        return []
    moved = next(index for index, number in enumerate(numbers) if index != number)
    return [
        f"The class folders are numbers and were sorted as text, as torchvision does: class {moved} is the folder "
        f"{shown(classes.names[moved])}."
    ]
