"""ReportSection: one part of every result, made from the result alone; and the whole document, in order."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from auditor.auditing.result import AuditResult
from auditor.kit.capability import Capability, Catalog
from auditor.neural.analysis import sections_of
from auditor.show.blocks import Section


class ReportSection(Capability):
    """A part of the report and of the result page. One subclass per file in ``auditor.report.sections``.

    ``order`` is its place: below 50 before the analyses, above 50 after them.
    """

    order: ClassVar[int]

    @abstractmethod
    def build(self, result: AuditResult) -> Section | None:
        """The section, None where this result has nothing to say under it."""


SECTIONS: Catalog[ReportSection] = Catalog("auditor.report.sections", ReportSection)

ANALYSES_ORDER = 50


def document(result: AuditResult) -> list[Section]:
    """Every section of a result: those of the catalogue in their order, the analyses in the middle."""
    parts: list[tuple[int, Section]] = []
    for member in SECTIONS:
        section = member(kind=member.kind_name()).build(result)
        if section is not None:
            parts.append((member.order, section))
    parts += [(ANALYSES_ORDER, section) for section in sections_of(result.findings).values()]
    return [section for _, section in sorted(parts, key=lambda item: item[0])]
