"""Bit-depth reduction."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from auditor.defending.defense import Backward, ImageDefense
from auditor.models.defended import Passing


class BitDepthReduction(ImageDefense):
    """Bit-depth reduction (Xu et al. 2018, arXiv 1704.01155): every value rounded to one of 2^bits levels.

    Rounding has no derivative; the adaptive attacker ignores it. 8 bits do nothing to the images of a file.
    """

    title: ClassVar[str] = "Bit-depth reduction"
    kind: Literal["bit-depth"] = "bit-depth"
    backward: ClassVar[Backward] = "identity"
    bits: int = Field(4, ge=1, le=8, description="Bits per value.")

    def transform(self, x: Tensor, passing: Passing) -> Tensor:
        levels = 2**self.bits - 1
        return (x * levels).round() / levels
