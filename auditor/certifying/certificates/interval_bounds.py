from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from auditor.certifying.bounds import Bounds
from auditor.certifying.certificate import Certificate
from auditor.certifying.network import BoundableNetwork
from auditor.certifying.region import Region


class IntervalBounds(Certificate):
    """Intervals passed from layer to layer (Gowal et al. 2018): fast and loose, made for networks trained with it.

    What follows the last activation is taken exactly, together with the difference of the two logits (arXiv 1810.12715,
    section 3).
    """

    title: ClassVar[str] = "Interval bounds"
    kind: Literal["interval-bounds"] = "interval-bounds"

    def least(
        self, network: BoundableNetwork, region: Region, margins: list[Tensor], leave: Tensor, reach: Tensor
    ) -> Tensor:
        return Bounds(network, region, margins, backward=False).differences(leave, reach, linear=False)
