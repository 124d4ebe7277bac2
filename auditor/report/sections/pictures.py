"""Clean image, adversarial image and their difference."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.auditing.result import AuditResult
from auditor.report.section import ReportSection
from auditor.show.blocks import Images, Section


class PicturesSection(ReportSection):
    """Some samples as the model saw them, with both predictions."""

    kind: Literal["pictures"] = "pictures"
    order: ClassVar[int] = 60

    def build(self, result: AuditResult) -> Section | None:
        if not result.gallery:
            return None
        reading = (
            f"{result.gallery_note} The difference is enlarged by the factor under it and drawn around mid-grey. "
            "Percentages are softmax confidences."
        )
        return Section(key=self.kind, title="Samples", blocks=(Images(rows=result.gallery, reading=reading),))
