"""One step towards the least likely class."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.attacking.attack import Attack, Query, Rows
from auditor.attacking.criterion import Criterion
from auditor.attacking.threat import Norm


class StepLL(Attack):
    """Step-LL (Kurakin et al. 2017, arXiv 1611.01236): one step of length epsilon towards the least likely class.

    That is the class with the smallest logit on the clean image, among those that count as success: all but the label,
    or the target alone (then this is a one-step targeted attack). Any success counts, not only the class stepped to.
    """

    norms: ClassVar[frozenset[Norm]] = frozenset({Norm.LINF})
    title: ClassVar[str] = "Step-LL"
    kind: Literal["step-ll"] = "step-ll"

    @property
    def iterations(self) -> int:
        return 1

    def step(self, rows: Rows, query: Query) -> Tensor:
        gradient = query.gradient(loss=least_likely).value
        return rows.x_adv + rows.ball.epsilon * rows.ball.steepest(gradient, rows.x_adv)


def least_likely(criterion: Criterion, logits: Tensor) -> Tensor:
    """Log-probability of the least likely class that would do, (B,)."""
    return -cross_entropy(logits, criterion.reach(logits)[:, -1], reduction="none")
