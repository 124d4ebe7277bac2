"""A figure as files: its data as CSV, its picture as SVG."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

from auditor.show.blocks import Figure
from auditor.show.charts import draw

WIDTH = 760
"""Pixels; a report's column is as wide."""


FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a cell begins that spreadsheets read as a formula (OWASP, CSV injection); some take the full-width signs as well."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def as_csv(figure: Figure) -> str:
    """The rows of a figure, one column for each field that any of them has."""
    fields = list(dict.fromkeys(field for row in figure.rows for field in row))
    return csv_text([fields, *([row.get(field) for field in fields] for row in figure.rows)])


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV, no cell of which a spreadsheet takes for a formula: a text that begins like one gets an apostrophe before it.

    Numbers stay as they are, negative ones too, and so do texts that are nothing but a number.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r\n", "\n").replace("\r", "\n")  # a lone CR is not quoted, and readers begin a new row at it
    return f"'{text}" if text.startswith(FORMULAS) and not NUMBER.fullmatch(text) else text


def as_svg(figure: Figure) -> str:
    """The chart without a script; drawn here, with no browser."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(draw(figure, width=WIDTH).to_dict()))
