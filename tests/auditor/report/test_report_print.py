"""The report on paper: nothing beyond the edge of a page, nothing left folded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from auditor.report.html import page
from auditor.show.blocks import Column, Section, Table

CHROMIUM = shutil.which("chromium")
PAPER = 703
"""Pixels between the margins of an A4 page: 210 mm less twice 12 mm, at 96 to the inch."""

TITLES = (
    "Attack", "Parameters", "Attacked", "Success [95 %]", "Accuracy left [95 %]", "Median distance", "Median minimal norm",
    "Forwards / image", "Backwards / image", "No gradient", "Seconds",
)  # fmt: skip
VALUES = (
    "Projected gradient descent", "steps 10, step_size 0.25, random_start yes, restarts 1, early_stop yes, budget fixed", "912",
    "61.4 % [58.2, 64.5]", "35.2 % [32.3, 38.2]", "0.03137", "0.01234", "1000.5", "1000.5", "0", "1234.5",
)  # fmt: skip

LINES = """Object.fromEntries(
    [...document.querySelectorAll('td')].filter(cell => /^[0-9.]+$/.test(cell.textContent)).map(cell => {
        const range = document.createRange();
        range.selectNodeContents(cell);
        return [cell.textContent, new Set([...range.getClientRects()].map(line => line.top)).size];
    })
)"""
"""Over how many lines each number is printed."""


def table(title: str) -> Table:
    columns = tuple(Column(key=str(place), title=name) for place, name in enumerate(TITLES))
    return Table(
        title=title, columns=columns, rows=tuple({str(i): value for i, value in enumerate(VALUES)} for _ in "abc")
    )


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_a_printed_report_holds_every_column_and_what_is_folded(tmp_path: Path) -> None:
    section = Section(key="attacks", title="Attacks", blocks=(table("L∞ ε = 8/255"),))
    report = tmp_path / "report.html"
    report.write_text(page("Audit report", "today", [section], {"attacks": [("conv1", [table("Folded away")])]}))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": PAPER, "height": 1000})
        shown.goto(report.as_uri())
        ends = "[...document.querySelectorAll('tr > :last-child')].map(cell => cell.getBoundingClientRect().right)"
        folded = "document.querySelector('details table').checkVisibility({contentVisibilityAuto: true})"
        assert max(shown.evaluate(ends)) > PAPER, "on the screen the table scrolls"
        assert not shown.evaluate(folded)
        shown.emulate_media(media="print")
        assert max(shown.evaluate(ends)) <= PAPER
        assert shown.evaluate(folded)
        assert shown.evaluate(LINES) == {"912": 1, "0.03137": 1, "0.01234": 1, "1000.5": 1, "0": 1, "1234.5": 1}
        shown.screenshot(path=tmp_path / "paper.png", full_page=True)
        browser.close()
