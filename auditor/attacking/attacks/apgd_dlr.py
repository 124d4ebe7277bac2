"""Auto-PGD on the difference of logits ratio."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.attacking.attack import Loss, Rows
from auditor.attacking.harness.auto_pgd import AutoPGD
from auditor.attacking.harness.losses import difference_of_logits_ratio


class APGDDLR(AutoPGD):
    """Auto-PGD on the difference of logits ratio (Croce and Hein 2020, arXiv 2003.01690), a loss that does not depend
    on the scale of the logits.
    """

    title: ClassVar[str] = "APGD-DLR"
    kind: Literal["apgd-dlr"] = "apgd-dlr"

    def loss(self, rows: Rows) -> Loss:
        return difference_of_logits_ratio
