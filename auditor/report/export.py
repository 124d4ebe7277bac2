"""A figure as files: its data as CSV, its picture as SVG."""

from __future__ import annotations

import csv
import io

from auditor.report.blocks import Figure
from auditor.report.charts import draw

WIDTH = 760
"""Pixels; a report's column is as wide."""


def as_csv(figure: Figure) -> str:
    """The rows of a figure, one column for each field that any of them has."""
    fields = list(dict.fromkeys(field for row in figure.rows for field in row))
    text = io.StringIO()
    table = csv.DictWriter(text, fields, lineterminator="\n")
    table.writeheader()
    table.writerows(figure.rows)
    return text.getvalue()


def as_svg(figure: Figure) -> str:
    """The chart without a script; drawn here, with no browser."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(draw(figure, width=WIDTH).to_dict()))
