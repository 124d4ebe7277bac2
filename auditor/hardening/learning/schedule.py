"""Schedules: the learning rate as a function of the share of the steps that is done, and of nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["constant", "step", "cosine", "one_cycle"]

RISE, FIRST, LAST = 0.3, 1 / 25, 1e-4 / 25
"""One cycle: share of the steps in which the rate rises, and its first and last value (the defaults of torch's OneCycleLR)."""


def factor(schedule: Schedule, step: int, steps: int, *, milestones: Sequence[float] = (), drop: float = 0.1) -> float:
    """What the learning rate is multiplied by at a step, 0 <= step < steps.

    "step": by ``drop`` at each milestone, a share of the steps. "cosine": from 1 down to 0 along half a period (Loshchilov and
    Hutter 2017, arXiv 1608.03983). "one_cycle": up and down again (Smith and Topin 2017, arXiv 1708.07120).
    """
    if schedule == "step":
        return float(drop ** sum(step >= share * steps for share in milestones))
    if schedule == "cosine":
        return _cosine(1.0, 0.0, step / steps)
    if schedule == "one_cycle":
        top, end = RISE * steps - 1, steps - 1
        if step < top:
            return _cosine(FIRST, 1.0, step / top)
        return _cosine(1.0, LAST, (step - top) / (end - top))
    return 1.0


def _cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2
