"""Results told to a reader: sections, comparisons, HTML."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from auditor.auditing.result import AuditResult


class _Callable(ModuleType):
    """``auditor.report(result)`` gives the whole report as one HTML page."""

    def __call__(self, result: AuditResult, *, title: str = "") -> str:
        from auditor.report.html import render

        return render(result, title=title)


sys.modules[__name__].__class__ = _Callable
