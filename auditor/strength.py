"""Was the headline's attack as strong as it should be? Shares of samples that another attack found, and what they mean."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from auditor.flag import Flag
from auditor.metrics import Rate

WORTH_SAYING, TOO_MANY = 0.02, 0.10
"""Lower ends of the 95 % interval of a share of samples that call for a warning, and for withholding the headline."""


def weakness(
    name: str,
    missed: NDArray[np.bool_],
    message: str,
    remedy: str,
    *,
    most: Literal["warning", "severe"] = "severe",
    levels: tuple[float, float] = (WORTH_SAYING, TOO_MANY),
) -> tuple[Flag, ...]:
    """The doubt that follows when an attack missed some of these samples; none when they may be chance."""
    share = Rate.of(missed)
    warned, severe = levels
    if share.low is None or share.low < warned:
        return ()
    return (
        Flag(
            name=name,
            severity=most if share.low >= severe else "warning",
            message=message,
            evidence=f"{share.hits} of {share.n} samples ({share})",
            remedy=remedy,
        ),
    )
