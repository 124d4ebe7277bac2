"""What every analysis shows of a stored finding: each number in its place, under its title, to the digit that a reader sees.

After a wanted change: pytest --snapshot-update, and read the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from auditor.neural.analysis import ANALYSES, Finding, detail_of, section_of
from auditor.show.blocks import AnyBlock, Figure, Images, Measures, Table, Text, show_interval, show_measure
from tests.auditor.neural.analyses.stored import FOLDER, stored

KINDS = list(ANALYSES.members)
FIGURE_ROWS, TABLE_ROWS = 6, 12
"""Rows of each that are kept, spread from the first to the last: more would be no easier to read."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_section_and_what_opens_behind_its_marks(kind: str, snapshot: SnapshotAssertion) -> None:
    finding = stored(kind)
    section = section_of(finding)
    lines = [f"# {section.title}", *shown(section.blocks), *details(finding, section.blocks, ())]
    assert "\n".join(lines) == snapshot


def test_every_stored_finding_belongs_to_an_analysis() -> None:
    assert sorted(file.stem for file in FOLDER.glob("*.json")) == sorted(KINDS)


def details(finding: Finding, blocks: Iterable[AnyBlock], path: tuple[str, ...]) -> Iterator[str]:
    """Behind the first and the last mark of every figure, and the same behind those, one below the other."""
    for figure in (block for block in blocks if isinstance(block, Figure) and block.select):
        names = list(dict.fromkeys(str(row[figure.select]) for row in figure.rows))
        for name in dict.fromkeys((*names[:1], *names[-1:])):
            inner = detail_of(finding, (*path, name))
            yield f"## behind {' > '.join((*path, name))} of: {figure.title}"
            yield from shown(inner)
            if not path:
                yield from details(finding, inner, (*path, name))


def shown(blocks: Iterable[AnyBlock]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Text():
                yield f"{block.tone}: {block.text}"
            case Measures():
                for item in block.items:
                    better = {True: "higher is better", False: "lower is better", None: ""}[item.higher_is_better]
                    parts = (show_measure(item), show_interval(item), better, item.explanation)
                    yield f"measure: {item.title} = {' | '.join(filter(None, parts))}"
            case Table():
                yield f"table: {block.title}"
                yield "  " + " | ".join(column.title for column in block.columns)
                yield from ("  " + " | ".join(row) for row in some(block.cells(), TABLE_ROWS))
                yield f"  {len(block.rows)} rows. {block.caption}"
            case Figure():
                yield f"figure: {block.title} ({block.chart}) {fields(block.options)}"
                yield from (f"  {fields(row)}" for row in some(block.rows, FIGURE_ROWS))
                yield f"  {len(block.rows)} rows. {block.reading}"
            case Images():
                yield f"images: {block.title} {block.reading}"
                for pictures in some(block.rows, FIGURE_ROWS):
                    yield f"  {pictures.title}: {'; '.join(image.caption for image in pictures.images)}"


def some(rows: Any, most: int) -> list[Any]:
    places = range(len(rows)) if len(rows) <= most else [i * (len(rows) - 1) // (most - 1) for i in range(most)]
    return [rows[place] for place in places]


def fields(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={short(value)}" for key, value in values.items() if value is not None)


def short(value: object) -> str:
    if isinstance(value, list | tuple):
        head = ", ".join(map(short, value[:6]))
        return f"[{head}{', …' if len(value) > 6 else ''}]"
    if isinstance(value, dict):
        return f"{{{fields(value)}}}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
