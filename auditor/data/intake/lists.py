"""Lists of images: a CSV or text file in the archive that names each image and its label, with a header or without."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from auditor.data.intake.files import Entry, Files
from auditor.data.intake.images import Box
from auditor.data.intake.reading import Choice, Reading, Undecided, unknown
from auditor.kit.errors import IntakeError
from auditor.kit.limits import MIB
from auditor.kit.wording import listed, shown

LIST_SUFFIXES = frozenset({".csv", ".tsv", ".txt"})

_MAX_BYTES = 128 * MIB
"""Bytes of one list: a million rows of a hundred characters."""

_MAX_CELL = 4096
_MAX_COLUMNS = 64
_SEPARATORS = (",", ";", "\t", "|", " ")
_SAMPLED = 50
"""Rows from which the separator and the columns are told."""

_LABEL_NAMES = frozenset(
    {"label", "labels", "class", "classid", "class_id", "target", "y", "category", "class_name", "wnid"}
)
_ROI = ("roi.x1", "roi.y1", "roi.x2", "roi.y2")


class Listed(NamedTuple):
    """A row: the path of an image in the archive, its label as it is written, and its region of interest."""

    path: str
    label: str
    box: Box | None


class _Table(NamedTuple):
    """``header``: names of the columns, or their numbers from 1 where there is no header."""

    header: list[str]
    rows: list[list[str]]
    named: bool


def read_list(files: Files, entry: Entry, known: Collection[str], reading: Reading) -> list[Listed]:
    """The rows of a list; a path is meant from the list's folder or from the top of the archive, or is the name alone.

    Raises IntakeError where the file is no such list, Undecided where several columns may be the label.
    """
    resolve = _Resolver(entry, known)
    table = _table(_text(files, entry), resolve, entry.path)
    path_column = _column(table, reading.images, "images", entry.path)
    if path_column is None:
        hits = [sum(resolve(row[at]) in known for row in table.rows[:_SAMPLED]) for at in range(len(table.header))]
        path_column = max(range(len(hits)), key=hits.__getitem__)
        if not hits[path_column]:
            raise IntakeError(
                f"The list {shown(entry.path)} names no image of the archive.",
                "Give the paths of the images as they are in the archive, one in each row.",
            )
    label_column = _label_column(table, path_column, reading, entry)
    lower = [name.lower() for name in table.header]
    roi = [lower.index(name) for name in _ROI] if set(_ROI) <= set(lower) else None
    return [
        Listed(resolve(row[path_column]), row[label_column], _box(row, roi) if roi is not None else None)
        for row in table.rows
    ]


def words_of(files: Files, entry: Entry) -> dict[str, str]:
    """What WordNet ids mean, of a text with an id and its words in each line."""
    lines = _text(files, entry).splitlines()
    return {key: words.strip() for key, _, words in (line.partition("\t") for line in lines) if words.strip()}


class _Resolver:
    """The path of a file as a row of a list names it."""

    def __init__(self, entry: Entry, known: Collection[str]) -> None:
        self._folder = "/".join(entry.parts[:-1])
        self._known = known
        names: dict[str, str | None] = {}
        for path in known:
            name = PurePosixPath(path).name
            names[name] = path if name not in names else None  # twice: it says nothing
        self._by_name = names

    def __call__(self, cell: str) -> str:
        path = re.sub(r"^(\./)+", "", cell.replace("\\", "/"))
        for candidate in (f"{self._folder}/{path}" if self._folder else path, f"{self._folder}/images/{path}", path):
            if candidate in self._known:
                return candidate
        return self._by_name.get(PurePosixPath(path).name) or path


def _text(files: Files, entry: Entry) -> str:
    try:
        return files.read(entry, _MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise IntakeError(f"The list {shown(entry.path)} is not valid UTF-8 text.", "Save it as UTF-8.") from None


def _table(text: str, resolve: _Resolver, name: str) -> _Table:
    head = text.splitlines()[:_SAMPLED]
    widths = {sign: [len(row) for row in csv.reader(head, delimiter=sign) if row] for sign in _SEPARATORS}
    sign = next((sign for sign, found in widths.items() if found and min(found) == max(found) >= 2), None)
    if sign is None:
        raise IntakeError(
            f"The file {shown(name)} is not a list of images: expected two columns or more, such as path,label.",
            "Write a row for each image: its path, a comma, and its label.",
        )
    width = widths[sign][0]
    rows = []
    try:
        for row in csv.reader(io.StringIO(text), delimiter=sign):
            if not row:
                continue
            if len(row) != width or len(row) > _MAX_COLUMNS or any(len(cell) > _MAX_CELL for cell in row):
                raise IntakeError(
                    f"The list {shown(name)} has {len(row)} columns in a row, {width} in the first; expected as many in each.",
                    "Write a row for each image: its path, a comma, and its label.",
                )
            rows.append([cell.strip() for cell in row])
    except csv.Error:
        raise IntakeError(f"The list {shown(name)} cannot be read as CSV.", "Save it as CSV, with commas.") from None
    named = len(rows) > 1 and not any(resolve(cell) in resolve._known for cell in rows[0])
    return _Table(rows[0], rows[1:], True) if named else _Table([str(at + 1) for at in range(width)], rows, False)


def _column(table: _Table, wanted: str, field: str, name: str) -> int | None:
    if not wanted:
        return None
    if wanted in table.header:
        return table.header.index(wanted)
    if wanted.isdecimal() and 1 <= int(wanted) <= len(table.header):
        return int(wanted) - 1
    raise unknown("images" if field == "images" else "labels", wanted, table.header, name)


def _label_column(table: _Table, path_column: int, reading: Reading, entry: Entry) -> int:
    chosen = _column(table, reading.labels, "labels", entry.path)
    if chosen is not None:
        return chosen
    others = [at for at in range(len(table.header)) if at != path_column]
    named = [at for at in others if table.named and table.header[at].lower() in _LABEL_NAMES]
    if len(others) == 1 or len(named) == 1:
        return (named or others)[0]
    if entry.parts[-1] == "val_annotations.txt":  # Tiny-ImageNet's: file, WordNet id, box
        return others[0]
    raise Undecided(
        f"The list {shown(entry.path)} has several columns that may be the label: "
        f"{listed([shown(table.header[at]) for at in named or others], 8)}.",
        [Choice(field="labels", values=tuple(table.header[at] for at in named or others))],
    )


def _box(row: Sequence[str], columns: Sequence[int]) -> Box | None:
    """The region (left, top, right, bottom) in pixels, right and bottom excluded; GTSRB's corners are both inside."""
    cells = [row[at] for at in columns]
    if not all(re.fullmatch(r"\d{1,6}", cell) for cell in cells):
        return None
    left, top, right, bottom = map(int, cells)
    return (left, top, right + 1, bottom + 1) if left <= right and top <= bottom else None
