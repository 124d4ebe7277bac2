"""The report as one HTML file: no script, no outside address, every chart and picture inside it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from auditor.auditing.result import AuditResult
from auditor.kit.errors import AuditorError
from auditor.neural.analysis import detail_of, keyed
from auditor.report.section import document
from auditor.show.blocks import Figure, Section, Table, show_interval, show_measure
from auditor.show.export import NUMBER, as_svg

SIZE_LIMIT = 3_000_000
"""Bytes from which on the detail tables are left out, and it says so: a larger report does not travel by mail."""
LARGEST = 20_000_000
"""Bytes of a report with many analyses and pictures, at most; a browser opens it without complaint."""


def render(result: AuditResult, *, title: str = "") -> str:
    """The whole report of one audit. Raises AuditorError when even without details it exceeds LARGEST."""
    sections = document(result)
    details = {section.key: list(_details(result, section)) for section in sections}
    name = title or f"{result.provenance.model.name} on {result.provenance.dataset.name}"
    heading = f"Audit report: {name}"
    made = f"Neuron Auditor {result.provenance.product}, {result.provenance.started} (UTC)"
    html = page(heading, made, sections, details)
    if len(html.encode()) > SIZE_LIMIT:
        html = page(heading, made, sections, cut=True)
    if len(html.encode()) > LARGEST:
        raise AuditorError(
            f"The report has {len(html.encode()) / 1e6:.1f} MB, the limit is {LARGEST / 1e6:g} MB.",
            "Audit again with a smaller gallery or fewer analyses.",
        )
    return html


def page(
    heading: str,
    made: str,
    sections: list[Section],
    details: dict[str, list[tuple[str, list[Table]]]] | None = None,
    *,
    cut: bool = False,
) -> str:
    """Sections as one page. ``made``: with what and when. ``details``: tables behind a section's marks, by its key; ``cut``:
    they were left out."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("auditor.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(
        show_measure=show_measure, show_interval=show_interval, svg=_svg, picture=_picture, is_number=_is_number
    )
    template = environment.get_template("template.html.j2")
    return template.render(heading=heading, made=made, sections=sections, details=details or {}, cut=cut)


def _details(result: AuditResult, section: Section) -> Iterator[tuple[str, list[Table]]]:
    """The tables behind the marks of a section's selectable figures, by the name of the mark, each mark once."""
    finding = keyed(result.findings).get(section.key)
    figures = [block for block in section.blocks if isinstance(block, Figure) and block.select]
    if finding is None:
        return
    for name in dict.fromkeys(str(row[figure.select]) for figure in figures for row in figure.rows):
        yield name, [block for block in detail_of(finding, (name,)) if isinstance(block, Table)]


def _svg(figure: Figure) -> str:
    """A chart as a data address; as an image it can run nothing, whatever its texts say."""
    return "data:image/svg+xml;base64," + base64.b64encode(as_svg(figure).encode()).decode()


def _is_number(cell: str) -> bool:
    """Whether a cell is one number, which is not to be broken over two lines."""
    return NUMBER.fullmatch(cell.replace(",", "").removesuffix("%").strip()) is not None


def _picture(image: Any) -> str:
    return f"data:{image.mime};base64,{image.data}"
