"""A network with feature denoising blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from auditor.models.classifier import Classifier
from auditor.models.layers.denoising import Denoise, Filter
from auditor.models.layers.extended import Extended
from auditor.models.layers.insertion import stage_ends


class FeatureDenoised(Extended):
    """Any network with feature denoising blocks (Xie et al. 2019, arXiv 1812.03411), as the hardening of that name makes it.

    Blocks come by default after the last activation at each size of the maps. The tensors of the module ``name`` are those of
    ``name.layer``, the block's those of ``name.block``.
    """

    kind: Literal["feature-denoised"] = "feature-denoised"
    title: ClassVar[str] = "Feature denoising around a network"
    filter: Filter = Field("median", description="What takes the noise off the features.")

    def places(self, classifier: Classifier) -> tuple[str, ...]:
        return self.layers or stage_ends(classifier)

    def block(self) -> Callable[[int], nn.Module]:
        return lambda channels: Denoise(channels, self.filter)
