"""``auditor compare`` and ``auditor report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands.show import console, table
from auditor.errors import SpecError


def compare(first: str, second: str) -> None:
    """Two audits on the same samples, side by side, with paired differences."""
    from auditor.comparison import compare as compared
    from auditor.report.blocks import Table, Text, show_value
    from worker.client import Client

    client = Client()
    section = compared(client.audit_result(first), client.audit_result(second))[0]
    for block in section.blocks:
        if isinstance(block, Text):
            console.print(block.text)
        if isinstance(block, Table):
            table(
                [column.title for column in block.columns],
                [[show_value(row.get(column.key), column.format) for column in block.columns] for row in block.rows],
            )


def report(
    audit: str, output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None
) -> None:
    """Write the report of an audit as one HTML file."""
    from worker.client import Client

    client = Client()
    page = client.report(audit)
    path = output or Path(f"audit-{client.job(audit).id[:8]}.html")
    write_text(path, page)
    console.print(f"Wrote {path} ({len(page.encode()) / 1000:.0f} kB).")


def write_text(path: Path, text: str) -> None:
    """Write a file whole, or leave what was there. Raises SpecError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SpecError(f"{path} cannot be written: {error.strerror}.") from None
