"""Page, report, CSV and JSON say the same of every analysis: each table cell and each measure, to the digit."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

import pytest
from streamlit.testing.v1 import AppTest

from auditor.neural.analysis import ANALYSES, Finding, section_of
from auditor.report.html import page
from auditor.show.blocks import Figure, Measures, Section, Table, show_interval, show_measure
from auditor.show.export import as_csv
from tests.auditor.neural.analyses.stored import stored

KINDS = list(ANALYSES.members)


class Report(HTMLParser):
    """The tables and the measures of a report, as rows of texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.measures: list[list[str]] = []
        self.cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.cell = self.tables[-1][-1]
        elif ("class", "measure") in attributes:
            self.measures.append([])
        elif tag in ("span", "b", "small") and self.measures:
            self.measures[-1].append("")
            self.cell = self.measures[-1]

    def handle_endtag(self, tag: str) -> None:
        self.cell = None

    def handle_data(self, data: str) -> None:
        if self.cell is not None:
            self.cell[-1] += data


def script(kind: str) -> None:
    from app import render
    from auditor.neural.analysis import section_of
    from auditor.show.blocks import Figure
    from tests.auditor.neural.analyses.stored import stored

    section = section_of(stored(kind))
    # Charts take seconds to draw, and their numbers are compared in their CSV.
    render.section(section.model_copy(update={"blocks": [b for b in section.blocks if not isinstance(b, Figure)]}))


def unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


@pytest.mark.parametrize("kind", KINDS)
def test_page_report_csv_and_json_agree(kind: str) -> None:
    section = section_of(stored(kind))
    tables = [block for block in section.blocks if isinstance(block, Table)]
    wanted = [[[column.title for column in table.columns], *table.cells()] for table in tables]
    measures = [
        [item.title, show_measure(item), show_interval(item)]
        for block in section.blocks
        if isinstance(block, Measures)
        for item in block.items
    ]

    shown = AppTest.from_function(script, args=(kind,), default_timeout=60).run()
    assert not shown.exception
    on_page = [[list(item.value.columns), *item.value.to_numpy().tolist()] for item in shown.table]
    assert [[[unescaped(cell) for cell in row] for row in table] for table in on_page] == wanted
    assert [[unescaped(item.label), item.value] for item in shown.metric] == [item[:2] for item in measures]
    captions = {unescaped(item.value).replace("\N{NO-BREAK SPACE}", " ") for item in shown.caption}
    assert all(interval == "" or interval in captions for _, _, interval in measures)

    report = Report(page("report", "today", [section]))
    assert report.tables == wanted
    assert [item[:3] for item in report.measures] == measures

    again = section_of(Finding.model_validate_json(stored(kind).model_dump_json()))
    assert Section.model_validate_json(again.model_dump_json()) == section

    for figure in (block for block in section.blocks if isinstance(block, Figure)):
        rows = list(csv.DictReader(io.StringIO(as_csv(figure))))
        assert len(rows) == len(figure.rows)
        for row, given in zip(rows, figure.rows, strict=True):
            for field, value in given.items():
                number = isinstance(value, int | float) and not isinstance(value, bool)
                assert row[field] == "" if value is None else not number or float(row[field]) == value
