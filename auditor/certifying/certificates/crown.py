from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from auditor.certifying.bounds import Bounds
from auditor.certifying.certificate import Certificate
from auditor.certifying.network import BoundableNetwork
from auditor.certifying.region import Region


class Crown(Certificate):
    """Linear bounds passed backwards (CROWN, Zhang et al. 2018), for the logits and before every activation.

    The tightest of the three here, and the costliest. Sources: arXiv 1811.00866; on graphs with residual additions, Xu et
    al. 2020 (arXiv 2002.12920).
    """

    title: ClassVar[str] = "CROWN"
    kind: Literal["crown"] = "crown"
    both: bool = Field(False, description="Also use interval bounds wherever these are tighter.")

    def least(
        self, network: BoundableNetwork, region: Region, margins: list[Tensor], leave: Tensor, reach: Tensor
    ) -> Tensor:
        return Bounds(network, region, margins, both=self.both).differences(leave, reach)
