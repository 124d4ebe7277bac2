"""``auditor compare`` and ``auditor report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands.files import write_text
from app.commands.show import console, print_table

SHOWN = ("differences", "corruptions")
"""Sections of a comparison that are tables of numbers."""


def compare(first: str, second: str) -> None:
    """Compare two audits on the same samples, side by side, with paired differences."""
    from auditor.report.comparison import compare as compared
    from auditor.show.blocks import Table, Text
    from worker.client import Client

    client = Client()
    sections = compared(client.audits.result(first), client.audits.result(second))
    for block in (block for section in sections if section.key in SHOWN for block in section.blocks):
        if isinstance(block, Text):
            console.print(block.text)
        if isinstance(block, Table):
            print_table([column.title for column in block.columns], block.cells())


def report(
    audit: str, output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None
) -> None:
    """Write the report of an audit as one HTML file."""
    from worker.client import Client

    client = Client()
    page = client.audits.report(audit)
    path = output or Path(f"audit-{client.jobs.get(audit).id[:8]}.html")
    write_text(path, page)
    console.print(f"Wrote {path} ({len(page.encode()) / 1000:.0f} kB).")
