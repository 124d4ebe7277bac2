"""A zip archive with one folder of images for each class, to labelled images; member by member, nothing is unpacked."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from auditor.errors import IntakeError
from auditor.intake import archive
from auditor.intake.images import TRAITS, Header, ImageSize, decode, read_header
from auditor.intake.labels import check_class_names
from auditor.intake.limits import MIB, Limits
from auditor.intake.survey import BATCH_BYTES, Pixels, Samples, check_size
from auditor.intake.wording import counted, listed, shown

_LAYOUT = "Expected one folder for each class, with images in it: cat/1.png, dog/2.png."
_IGNORED_FOLDERS = frozenset({"__MACOSX"})
_IGNORED_FILES = frozenset({"thumbs.db", "desktop.ini"})
_DOCUMENTS = ("readme", "license", "licence", "copying", "citation")
_DOCUMENT_SUFFIXES = ("", ".txt", ".md", ".rst", ".html", ".pdf", ".cff")
"""Texts that data sets bring along beside their class folders."""

_MAX_NAMES_BYTES = 64 * MIB
"""All sample names as JSON; they lie in the header of the stored file, which may have 100 MB."""


class _Layout(NamedTuple):
    """Members with their labels, in the order of the samples."""

    classes: list[str]
    members: list[zipfile.ZipInfo]
    names: list[str]
    labels: list[int]
    notes: list[str]


class FolderReader:
    """The images of one opened archive; ``name`` is what errors call it."""

    def __init__(self, file: zipfile.ZipFile, name: str, limits: Limits) -> None:
        self._file, self._name, self._limits = file, name, limits

    def samples(self, size: ImageSize | None) -> Samples:
        """Images in the order of class and name, labels by sorted folder name.

        Every header is read before the first pixel: the number of channels, and whether the sizes agree, must be known
        before the first batch is written. Raises IntakeError, also while the batches are read.
        """
        layout = self._layout()
        check_size(len(layout.members), 1, 1, 1, 1, self._name, self._limits)
        height, width, grey, notes = self._headers(layout, size)
        channels = 1 if grey else 3
        check_size(len(layout.members), height, width, channels, 1, self._name, self._limits)
        names: list[str] | None = layout.names
        if len(json.dumps(names)) > _MAX_NAMES_BYTES:
            names = None
            notes.append("The names of the images are too long together to be kept; samples are called by number.")
        return Samples(
            shape=(len(layout.members), height, width, channels),
            dtype="uint8",
            labels=np.array(layout.labels, np.int64),
            class_names=check_class_names(layout.classes, self._limits),
            names=names,
            batches=self._batches(layout, height * width * channels, grey, size),
            notes=layout.notes + notes,
            warnings=_order_warning(layout.classes),
        )

    def _layout(self) -> _Layout:
        files: list[tuple[tuple[str, ...], zipfile.ZipInfo]] = []
        folders: set[tuple[str, ...]] = set()
        ignored: list[str] = []
        for member in self._file.infolist():
            parts = tuple(member.orig_filename.rstrip("/").split("/"))
            if _is_junk(parts):
                ignored.append(shown(member.orig_filename))
            elif member.orig_filename.endswith("/"):
                folders.add(parts)
            else:
                files.append((parts, member))
        documents = [entry for entry in files if _is_document(entry[0])]
        files = [entry for entry in files if not _is_document(entry[0])]
        ignored += [shown(member.orig_filename) for _, member in documents]
        notes = [f"{counted(len(ignored), 'file')} ignored: {listed(ignored)}."] if ignored else []
        top, depth = self._top(files)
        classes = sorted(
            {parts[depth] for parts, _ in files}
            | {parts[depth] for parts in folders if len(parts) == depth + 1 and parts[:depth] == top}
        )
        label = {name: index for index, name in enumerate(classes)}
        files.sort(key=lambda entry: entry[0])
        return _Layout(
            classes,
            [member for _, member in files],
            ["/".join(parts[depth:]) for parts, _ in files],
            [label[parts[depth]] for parts, _ in files],
            notes,
        )

    def _top(self, files: list[tuple[tuple[str, ...], zipfile.ZipInfo]]) -> tuple[tuple[str, ...], int]:
        """The common top folder of the class folders, if there is one: (its path, how deep the class folders lie)."""
        if not files:
            raise IntakeError(f"{shown(self._name)} holds no images.", _LAYOUT)
        depths = {len(parts) for parts, _ in files}
        tops = {parts[0] for parts, _ in files}
        if depths == {2}:
            return (), 0
        if depths == {3} and len(tops) == 1:
            return (next(iter(tops)),), 1
        if depths == {3}:
            raise IntakeError(
                f"{shown(self._name)} has folders within folders ({listed([shown(top) for top in sorted(tops)])}).",
                f"{_LAYOUT} If these are parts such as train and test, upload them one by one.",
            )
        usual = Counter(len(parts) for parts, _ in files).most_common(1)[0][0]
        odd = next((parts for parts, _ in files if len(parts) != usual), files[0][0])
        where = "lies outside of the class folders" if len(odd) < max(2, usual) else "lies too deep"
        raise IntakeError(f"The entry {shown('/'.join(odd))} of {shown(self._name)} {where}.", _LAYOUT)

    def _headers(self, layout: _Layout, size: ImageSize | None) -> tuple[int, int, bool, list[str]]:
        """(height, width, whether all are grey, notes) of the images, from their headers."""
        first: Header | None = None
        all_grey, any_grey = True, False
        traits: Counter[str] = Counter()
        example: dict[str, str] = {}
        for member, name in zip(layout.members, layout.names, strict=True):
            header = read_header(self._read(member), name, self._limits)
            first = first or header
            if size is None and (header.height, header.width) != (first.height, first.width):
                raise IntakeError(
                    f"The images have different sizes: {shown(layout.names[0])} is {first.height}x{first.width}, "
                    f"{shown(name)} is {header.height}x{header.width} (height x width).",
                    "Give a size (option `size`) to which all images are brought, or upload images of one size.",
                )
            all_grey, any_grey = all_grey and header.grey, any_grey or header.grey
            for trait in header.traits:
                traits[trait] += 1
                example.setdefault(trait, name)
        assert first is not None
        notes = [
            f"{counted(traits[trait], 'image')} {text} (first: {shown(example[trait])})."
            for trait, text in TRAITS.items()
            if traits[trait]
        ]
        if any_grey and not all_grey:
            notes.append("Grey and colour images are mixed; the grey ones were given three equal channels.")
        height, width = (size.height, size.width) if size is not None else (first.height, first.width)
        return height, width, all_grey, notes

    def _batches(self, layout: _Layout, image_bytes: int, grey: bool, size: ImageSize | None) -> Iterator[Pixels]:
        per_batch = max(1, BATCH_BYTES // image_bytes)
        for start in range(0, len(layout.members), per_batch):
            part = slice(start, start + per_batch)
            yield np.stack(
                [
                    decode(self._read(member), name, self._limits, grey=grey, size=size)
                    for member, name in zip(layout.members[part], layout.names[part], strict=True)
                ]
            )

    def _read(self, member: zipfile.ZipInfo) -> bytes:
        return archive.read_member(self._file, member, self._name, self._limits.image_bytes)


def _is_junk(parts: tuple[str, ...]) -> bool:
    """What file managers leave in archives: hidden files, __MACOSX, Thumbs.db."""
    return (
        any(part.startswith(".") or part in _IGNORED_FOLDERS for part in parts) or parts[-1].lower() in _IGNORED_FILES
    )


def _is_document(parts: tuple[str, ...]) -> bool:
    """A README or a licence beside the class folders, or beside their common top folder."""
    path = PurePosixPath(parts[-1].lower())
    return len(parts) <= 2 and path.stem in _DOCUMENTS and path.suffix in _DOCUMENT_SUFFIXES


def _order_warning(classes: list[str]) -> list[str]:
    """Folders called by numbers are sorted as text, as torchvision does; whoever counts on 2 before 10 must know."""
    if not all(name.isdecimal() and name.isascii() for name in classes) or classes == sorted(classes, key=int):
        return []
    moved = next(index for index, name in enumerate(classes) if index != int(name))
    return [
        f"The class folders are numbers and were sorted as text, as torchvision does: class {moved} is the folder "
        f"{shown(classes[moved])}. Pad the numbers with zeros if the model counts otherwise."
    ]
