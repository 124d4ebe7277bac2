"""Auto-PGD on the cross-entropy."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.attacking.harness.auto_pgd import AutoPGD


class APGDCE(AutoPGD):
    """Auto-PGD on the cross-entropy (Croce and Hein 2020, arXiv 2003.01690): PGD that adapts its own step size."""

    title: ClassVar[str] = "APGD-CE"
    kind: Literal["apgd-ce"] = "apgd-ce"
