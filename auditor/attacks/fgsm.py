"""The fast gradient sign method."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from auditor.attack import Attack, Query, Rows
from auditor.threat import ThreatModel


class FGSM(Attack):
    """Fast gradient sign method (Goodfellow et al. 2015, arXiv 1412.6572): one step of length epsilon along the gradient.

    In L2 the step follows the gradient itself (the "fast gradient method").
    """

    title: ClassVar[str] = "FGSM"
    kind: Literal["fgsm"] = "fgsm"

    @property
    def iterations(self) -> int:
        return 1

    def step(self, rows: Rows, threat: ThreatModel, query: Query) -> Tensor:
        return rows.x_adv + threat.epsilon * threat.steepest(query.gradient())
