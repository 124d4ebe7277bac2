"""The report on paper: nothing beyond the edge of a page, nothing left folded."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from auditor.report.blocks import Column, Section, Table
from auditor.report.html import page

CHROMIUM = shutil.which("chromium")
PDFTOTEXT = shutil.which("pdftotext")

TITLES = (
    "Attack", "Parameters", "Attacked", "Success [95 %]", "Accuracy left [95 %]", "Median distance", "Median minimal norm",
    "Forwards / image", "Backwards / image", "No gradient", "Seconds",
)  # fmt: skip
VALUES = (
    "Projected gradient descent", "steps 10, step_size 0.25, random_start yes, restarts 1, early_stop yes, budget fixed", "912",
    "61.4 % [58.2, 64.5]", "35.2 % [32.3, 38.2]", "0.03137", "0.01234", "1000.5", "1000.5", "0", "1234.5",
)  # fmt: skip


def table(title: str) -> Table:
    columns = tuple(Column(key=str(place), title=name) for place, name in enumerate(TITLES))
    return Table(
        title=title, columns=columns, rows=tuple({str(i): value for i, value in enumerate(VALUES)} for _ in "abc")
    )


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None or PDFTOTEXT is None, reason="needs chromium and pdftotext (poppler-utils)")
def test_a_printed_report_holds_every_column_and_what_is_folded(tmp_path: Path) -> None:
    section = Section(key="attacks", title="Attacks", blocks=(table("L∞ ε = 8/255"),))
    report, paper = tmp_path / "report.html", tmp_path / "report.pdf"
    report.write_text(
        page("Audit report", "today", [section], {"attacks": [("conv1", [table("Neurons folded away")])]})
    )
    subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
         f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={paper}", report.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    found = subprocess.run(
        [str(PDFTOTEXT), "-bbox", str(paper), "-"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    width = float(re.search(r'<page width="([\d.]+)"', found).group(1))
    words = re.findall(r'<word xMin="([\d.]+)" yMin="[\d.]+" xMax="([\d.]+)" yMax="[\d.]+">(.*?)</word>', found)
    assert max(float(right) for _, right, _ in words) <= width - 20, "beyond the margin it would be cut"
    text = " ".join(word for _, _, word in words)
    assert text.count("1234.5") == 6, "the last column, of the open table and of the folded one"
    assert "Neurons folded away" in text
