"""Losses on the logits that attacks ascend; each is 0 where the two classes that it sets against each other have equal logits."""

from __future__ import annotations

from torch import Tensor

from auditor.attacking.criterion import Criterion


def margin(criterion: Criterion, logits: Tensor) -> Tensor:
    """Logit of the best class that would do, minus that of the class to leave, (B,): positive where adversarial.

    Carlini and Wagner 2017 (arXiv 1608.04644), the negative of f6 with kappa = infinity.
    """
    return _logit(logits, criterion.reach(logits)[:, 0]) - _logit(logits, criterion.leave(logits))


def difference_of_logits_ratio(criterion: Criterion, logits: Tensor) -> Tensor:
    """DLR (Croce and Hein 2020, arXiv 2003.01690, equation 6): the margin over the gap between the 1st and the 3rd logit, (B,).

    Invariant to shift and scale of the logits. With two classes there is no 3rd logit, and it is the margin itself.
    """
    if logits.shape[1] < 3:
        return margin(criterion, logits)
    ordered = logits.sort(1, descending=True).values
    return margin(criterion, logits) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def targeted_ratio(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Targeted DLR (the same, equation 7): -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2), (B,).

    With three classes the 3rd logit stands in for the 4th; with two it is the difference of their logits itself.
    """
    lead = _logit(logits, targets) - _logit(logits, labels)
    if logits.shape[1] < 3:
        return lead
    ordered = logits.sort(1, descending=True).values
    return lead / (ordered[:, 0] - (ordered[:, 2] + ordered[:, min(3, logits.shape[1] - 1)]) / 2 + 1e-12)


def _logit(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)
