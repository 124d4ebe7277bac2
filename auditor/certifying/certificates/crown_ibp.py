from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from auditor.certifying.bounds import Bounds
from auditor.certifying.certificate import Certificate
from auditor.certifying.network import BoundableNetwork
from auditor.certifying.region import Region


class CrownIbp(Certificate):
    """Linear bounds passed backwards once, between interval bounds (CROWN-IBP, Zhang et al. 2020, arXiv 1906.06316)."""

    title: ClassVar[str] = "CROWN-IBP"
    kind: Literal["crown-ibp"] = "crown-ibp"

    def least(
        self, network: BoundableNetwork, region: Region, margins: list[Tensor], leave: Tensor, reach: Tensor
    ) -> Tensor:
        return Bounds(network, region, margins, backward=False).differences(leave, reach)
