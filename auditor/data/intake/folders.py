"""Image files in folders or in a list: which class, part and corruption each has by its path; nothing is unpacked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from auditor.data.intake import archive
from auditor.data.intake.array_pairs import PARTS
from auditor.data.intake.faults import Unusable
from auditor.data.intake.files import Files
from auditor.data.intake.folder_groups import chosen_groups, corruptions_at, group_choices
from auditor.data.intake.folder_paths import Candidate, Located, candidates, is_junk
from auditor.data.intake.images import Box
from auditor.data.intake.lists import LIST_SUFFIXES, Listed, read_list, words_of
from auditor.data.intake.pictures import Item, Layout, PictureReader
from auditor.data.intake.reading import Choice, Reading, Undecided, unknown
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import counted, listed, shown
from auditor.models.class_numbers import class_numbers
from auditor.models.dataset import Group
from auditor.models.labels import Classes, check_class_names, classes_of

_LAYOUT = "Expected one folder for each class, with images in it: cat/1.png, dog/2.png."
_PARTS = "If these are parts such as train and test, make a zip of each and add them one by one."
_INNER = "images"
"""A folder that some data sets have between a class and its images."""


class FolderReader(PictureReader):
    """Image files of an archive, in class folders or named by a list."""

    format = "image folders"

    def __init__(self, files: Files, limits: Limits) -> None:
        super().__init__(files.name, limits)
        self._files = files
        self._lists = [
            entry for entry in files.entries
            if PurePosixPath(entry.path).suffix.lower() in LIST_SUFFIXES and not is_junk(entry.parts)
        ]  # fmt: skip

    def choices(self) -> list[Choice]:
        """What of the archive can be chosen."""
        try:
            self._located(Reading())
        except Undecided as error:
            return list(error.open)
        except IntakeError:
            return []
        return self._optional

    def _contents(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | IntakeError]]:
        for item in items:
            try:
                yield item, self._files.read(item.place, self._limits.image_bytes)
            except IntakeError as error:
                yield item, error

    def _layout(self, reading: Reading) -> Layout:
        located, classes, layout = self._located(reading)
        label = classes.label
        groups = sorted({item.group for item in located if item.group is not None})
        index = {group: number for number, group in enumerate(groups)}
        order = {group: number for number, group in enumerate(groups)}
        located.sort(
            key=lambda item: (
                item.part, order.get(item.group, 0) if item.group else 0, label[item.folder], tuple(item.name.split("/"))
            )
        )  # fmt: skip
        layout.items = [
            Item(
                item.name,
                label[item.folder],
                item.entry.path,
                item.entry,
                item.box,
                index[item.group] if item.group else 0,
            )
            for item in located
        ]
        layout.groups = tuple(groups)
        return layout

    def _located(self, reading: Reading) -> tuple[list[Located], Classes, Layout]:
        """Every image with its class, all classes, and a layout of all but the items."""
        self._optional: list[Choice] = []
        paths, folders, ignored = candidates(self._files)
        out = set(self._out)
        faults: dict[str | int, IntakeError] = {}
        for path in paths:
            name = path.entry.path
            fault = archive.name_fault(name, self._limits)
            if fault is None and path.entry.link:
                fault = archive.link_fault(name, self._name)
            if name not in out and fault is not None:
                faults[name] = fault
        layout = Layout([], None, "names", len(paths), faults=faults)
        if ignored:
            layout.notes.append(f"{counted(len(ignored), 'file')} ignored: {listed(ignored)}.")
        paths = [path for path in paths if path.entry.path not in out and path.entry.path not in faults]
        if faults and not paths:
            raise Unusable(faults, layout.files, layout.noun)
        if not paths:
            raise IntakeError(f"{shown(self._name)} holds no images.", _LAYOUT)
        self._check_not_arrays(paths)
        located: list[Located] = []
        names: set[str] = set()
        for number, (part, some) in enumerate(self._parts(paths, reading)):
            found, classes = self._of_part(some, folders, part, reading, layout)
            located += [item._replace(part=number) for item in found]
            names |= classes
        if reading.severities or reading.corruptions:
            located = chosen_groups(located, reading, self._name)
        for classes in self._other_parts:
            names |= classes
        if reading.listing or not self._by_folder:
            layout.notes.append("The labels are those of the list.")
        made = classes_of(
            sorted(names), self._limits, first_label=reading.first_label, by_number=reading.folders == "numbers"
        )
        layout.labels_from = "numbers" if made.numbered else "names"
        layout.warnings += _order_warning(made)
        layout.class_names = self._readable(made.names, layout)
        return located, made, layout

    def _readable(self, names: tuple[str, ...], layout: Layout) -> tuple[str, ...]:
        """The names of classes called by WordNet ids, where the archive says them (``words.txt``)."""
        if not all(re.fullmatch(r"n\d{8}", name) for name in names):
            return names
        entry = next((entry for entry in self._lists if entry.parts[-1] == "words.txt"), None)
        words = words_of(self._files, entry) if entry is not None else {}
        if not all(name in words for name in names):
            return names
        said = [words[name] for name in names]
        unique = [text if said.count(text) == 1 else f"{text} ({name})" for name, text in zip(names, said, strict=True)]
        layout.notes.append("The classes are named as in 'words.txt', in the order of their WordNet ids.")
        return check_class_names(unique, self._limits)

    # Files and parts.

    def _check_not_arrays(self, paths: Sequence[Candidate]) -> None:
        inner = next((path for path in paths if path.parts[-1].lower().endswith((".npz", ".zip"))), None)
        if inner is not None and all(path.parts[-1].lower().endswith((".npz", ".npy", ".zip")) for path in paths):
            held = [path.entry.path for path in paths if path.parts[-1].lower().endswith(".npz")]
            if held:
                raise Undecided(
                    f"{shown(self._name)} holds several files of arrays ({listed([shown(item) for item in held], 5)}).",
                    [Choice(field="inside", values=tuple(held))],
                )
            raise IntakeError(
                f"{shown(self._name)} is a zip around {shown(inner.entry.path)}, which is a file to upload by itself.",
                f"Take {shown(inner.parts[-1])} out of the zip and add that.",
            )

    def _parts(self, paths: list[Candidate], reading: Reading) -> list[tuple[str, list[Candidate]]]:
        """The files of each part of the data set, in the order asked for; one part "" where there are none."""
        self._other_parts: list[set[str]] = []
        top = 0
        while True:
            tops = {path.parts[top] for path in paths if len(path.parts) > top + 1}
            if len(tops) != 1 or sum(len(path.parts) > top + 2 for path in paths) * 2 < len(paths):
                break
            top += 1
        parts = [name for name in sorted(tops) if name.lower() in PARTS]
        if len(parts) < 2 or not any(len(path.parts) > top + 2 for path in paths):
            if reading.parts and reading.parts != tuple(parts):
                raise unknown("parts", reading.parts[0], parts if len(parts) > 1 else (), self._name)
            return [("", paths)]
        parts.sort(key=lambda name: PARTS.index(name.lower()))
        by_part = {
            name: [path for path in paths if path.parts[top] == name and len(path.parts) > top + 1] for name in parts
        }
        if not reading.parts:
            sizes = [f"{shown(name)} ({counted(len(by_part[name]), 'file')})" for name in parts]
            raise Undecided(
                f"{shown(self._name)} holds several parts: {listed(sizes, 5)}.",
                [Choice(field="parts", values=tuple(parts), several=True)],
            )
        for name in reading.parts:
            if name not in by_part:
                raise unknown("parts", name, parts, self._name)
        for name in parts:  # a class may have no image in one of them
            if name not in reading.parts and (deep := [path for path in by_part[name] if len(path.parts) > top + 2]):
                classes = {path.parts[top + 1] for path in deep}
                self._other_parts += [classes] if classes != {_INNER} else []
        return [(name, by_part[name]) for name in reading.parts]

    # Classes.

    def _of_part(
        self, paths: list[Candidate], folders: set[tuple[str, ...]], part: str, reading: Reading, layout: Layout
    ) -> tuple[list[Located], set[str]]:
        """The images of one part with their classes, and all classes of the part."""
        self._by_folder = True
        depth, misplaced = self._depth(paths, reading)
        top = next(path for path in paths if path.entry.path not in misplaced).parts[:depth]
        names = {
            path.parts[depth] for path in paths if path.entry.path not in misplaced and len(path.parts) > depth + 1
        }
        rows = self._listed(paths, len(names), part, reading)
        if rows is not None:
            self._by_folder = False
            return self._by_list(paths, rows, reading, layout)
        usual = self._usual(paths)
        if usual < 2:
            odd = paths[0].entry.path
            raise IntakeError(
                f"The entry {shown(odd)} of {shown(self._name)} lies outside of the class folders.", _LAYOUT
            )
        layout.faults |= misplaced
        paths = [path for path in paths if path.entry.path not in misplaced]
        inner = usual - depth
        if inner == 2:
            names |= {parts[depth] for parts in folders if len(parts) == depth + 1 and parts[:depth] == top}
        boxes = self._boxes(paths, reading)
        found = []
        for path in paths:
            rest, group = path.parts[depth:], None
            if inner == 4:
                group, rest = Group(rest[0], int(rest[1])), rest[2:]
            elif inner == 3 and rest[0].isdecimal():
                group, rest = Group(path.parts[depth - 1], int(rest[0])), rest[1:]
            folder = rest[0]
            name = "/".join(path.parts[depth:])
            found.append(Located(path.entry, name, folder, group=group, box=boxes.get(path.entry.path)))
        if inner > 2:
            names = {item.folder for item in found}
            if found[0].group is not None:
                self._optional += group_choices([item.group for item in found if item.group is not None])
        if part:
            found = [item._replace(name=f"{part}/{item.name}") for item in found]
        return found, names

    def _usual(self, paths: Sequence[Candidate]) -> int:
        return Counter(len(path.parts) for path in paths).most_common(1)[0][0]

    def _depth(self, paths: list[Candidate], reading: Reading) -> tuple[int, dict[str | int, IntakeError]]:
        """How deep the class folders lie, and the files that lie elsewhere. Raises IntakeError for another layout."""
        usual = self._usual(paths)
        depth = 0
        while usual - depth > 2:
            tops = {path.parts[depth] for path in paths if len(path.parts) == usual}
            if len(tops) > 1:
                break
            depth += 1
        deep = [path for path in paths if len(path.parts) == usual]
        inner = usual - depth
        if inner == 3 and {path.parts[depth + 1] for path in deep} == {_INNER}:
            return depth, self._elsewhere(paths, usual)
        if inner > 2:
            corrupted = corruptions_at(deep, depth)
            if corrupted is not None:
                return corrupted, self._elsewhere(paths, usual)
            found = sorted({path.parts[depth] for path in deep})
            prefix = "/".join(deep[0].parts[:depth])
            raise (
                Undecided(
                    f"{shown(self._name)} has folders within folders ({listed([shown(top) for top in found])}).",
                    [Choice(field="inside", values=tuple(f"{prefix}/{top}" if prefix else top for top in found))],
                    _LAYOUT,
                )
                if len(found) > 1
                else IntakeError(
                    f"The entry {shown(deep[0].entry.path)} of {shown(self._name)} lies too deep.",
                    f"{_LAYOUT} {_PARTS}",
                )
            )
        return depth, self._elsewhere(paths, usual)

    def _elsewhere(self, paths: Sequence[Candidate], usual: int) -> dict[str | int, IntakeError]:
        """Why each file that does not lie where most do cannot be used."""
        return {
            path.entry.path: IntakeError(
                f"The entry {shown(path.entry.path)} of {shown(self._name)} "
                f"{'lies outside of the class folders' if len(path.parts) < max(2, usual) else 'lies too deep'}.",
                _LAYOUT,
            )
            for path in paths
            if len(path.parts) != usual
        }

    # Lists.

    def _listed(self, paths: Sequence[Candidate], classes: int, part: str, reading: Reading) -> list[Listed] | None:
        """The rows of the list that says the labels, where it is asked for or there are no class folders; else None."""
        known = {path.entry.path for path in paths} | self._files.excluded
        if reading.listing:
            entry = next((entry for entry in self._lists if entry.path == reading.listing), None)
            if entry is None:
                raise unknown("listing", reading.listing, [entry.path for entry in self._lists], self._name)
            return read_list(self._files, entry, known, reading)
        if classes > 1:
            return None
        found: dict[str, list[Listed]] = {}
        undecided: Undecided | None = None
        for entry in self._lists:
            try:
                rows = read_list(self._files, entry, known, reading)
            except Undecided as error:
                undecided = error
                continue
            except IntakeError:
                continue  # a text of another kind
            if any(row.path in known for row in rows):
                found[entry.path] = rows
        if len(found) > 1:
            raise Undecided(
                f"{shown(self._name)} holds several lists of its images: {listed([shown(name) for name in found], 5)}.",
                [Choice(field="listing", values=tuple(found))],
            )
        if not found and undecided is not None:
            raise undecided
        return next(iter(found.values()), None)

    def _by_list(
        self, paths: Sequence[Candidate], rows: Sequence[Listed], reading: Reading, layout: Layout
    ) -> tuple[list[Located], set[str]]:
        by_path = {path.entry.path: path.entry for path in paths}
        found: dict[str, Located] = {}
        names: set[str] = set()
        for row in rows:
            if row.path in self._files.excluded:
                continue
            names.add(row.label)
            if row.path not in by_path:
                if row.path not in self._out:
                    layout.faults[row.path] = IntakeError(
                        f"The list of {shown(self._name)} names {shown(row.path)}, which the archive does not hold.",
                        "Put it into the archive, or take it off the list.",
                    )
                continue
            if row.path in found and found[row.path].folder != row.label:
                raise IntakeError(
                    f"The list of {shown(self._name)} gives {shown(row.path)} the labels {shown(found[row.path].folder)} and "
                    f"{shown(row.label)}; expected one label for each image.",
                    "Keep one of the two rows.",
                )
            found[row.path] = Located(by_path[row.path], row.path, row.label, box=row.box if reading.roi else None)
        if unlisted := len(by_path) - len(found):
            layout.notes.append(f"{counted(unlisted, 'file')} not named in the list ignored.")
        layout.files += sum(row.path not in by_path and row.path not in self._files.excluded for row in rows)
        self._check_boxes([item.box for item in found.values()], reading)
        return list(found.values()), names

    def _boxes(self, paths: Sequence[Candidate], reading: Reading) -> dict[str, Box]:
        """The regions of interest in the lists beside the images, where they are asked for."""
        if not reading.roi:
            return {}
        known = {path.entry.path for path in paths}
        boxes: dict[str, Box] = {}
        for entry in self._lists:
            try:
                rows = read_list(self._files, entry, known, reading)
            except IntakeError:
                continue  # a text of another kind
            boxes |= {row.path: row.box for row in rows if row.box is not None}
        self._check_boxes([boxes.get(path) for path in known], reading)
        return boxes

    def _check_boxes(self, boxes: Sequence[Box | None], reading: Reading) -> None:
        if reading.roi and (missing := sum(box is None for box in boxes)):
            raise IntakeError(
                f"No list of {shown(self._name)} gives the region of interest of {counted(missing, 'image')} (columns Roi.X1, "
                "Roi.Y1, Roi.X2, Roi.Y2).",
                "Read the whole images: leave `--roi` out, or 'Crop to the region of interest' on the page.",
            )


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
