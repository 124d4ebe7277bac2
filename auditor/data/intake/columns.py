"""Which parts and columns of a table of images are read: those that were chosen, or the only ones there are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeVar

from auditor.data.intake.array_pairs import PARTS
from auditor.data.intake.reading import Choice, Reading, Undecided, unknown
from auditor.kit.wording import listed, shown

T = TypeVar("T")

_WORDS = re.compile(r"[^a-z0-9]+")


def by_part(shards: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    """Shards, each with its path, by the part of the data set that the path names, in the order of the paths; "" for none."""
    found: dict[str, list[T]] = {}
    for path, shard in sorted(shards, key=lambda item: item[0]):
        part = next((word for word in _WORDS.split(path.lower()) if word in PARTS), "")
        found.setdefault(part, []).append(shard)
    return found


def shards_of(parts: Mapping[str, list[T]], reading: Reading, name: str) -> list[T]:
    """The shards of the parts that were asked for, or of the only one. Raises IntakeError, Undecided."""
    named = [part for part in parts if part]
    for part in reading.parts:
        if part not in named:
            raise unknown("parts", part, named, name)
    if not reading.parts and len(parts) > 1:
        raise Undecided(
            f"{shown(name)} holds several parts: {listed([shown(part) for part in parts], 5)}.",
            [Choice(field="parts", values=tuple(named), several=True)],
        )
    return [shard for part in reading.parts or parts for shard in parts[part]]


def one_of(
    field: Literal["images", "labels"], wanted: str, columns: Sequence[str], name: str, noun: str = "columns"
) -> str:
    """The column that was asked for, or the only one. Raises IntakeError, Undecided."""
    if wanted and wanted not in columns:
        raise unknown(field, wanted, columns, name)
    if not wanted and len(columns) > 1:
        raise Undecided(
            f"{shown(name)} has several {noun} that may be the {field}: {listed([shown(item) for item in columns], 8)}.",
            [Choice(field=field, values=tuple(columns))],
        )
    return wanted or columns[0]


def choices_of(parts: Iterable[str], images: Sequence[str], labels: Sequence[str]) -> list[Choice]:
    """What is left open: parts and columns of which there are several."""
    values = tuple(parts)
    found = [Choice(field="parts", values=values, several=True)] if len(values) > 1 else []
    if len(images) > 1:
        found.append(Choice(field="images", values=tuple(images)))
    if len(labels) > 1:
        found.append(Choice(field="labels", values=tuple(labels)))
    return found
