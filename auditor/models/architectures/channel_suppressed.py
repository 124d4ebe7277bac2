"""A network with channel-wise activation suppressing."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from torch import nn

from auditor.models.classifier import Classifier
from auditor.models.layers.extended import Extended
from auditor.models.layers.insertion import last_activations
from auditor.models.layers.suppression import ChannelSuppression

LAST = 3
"""Activations that are suppressed: the three of the last stage of VGG-16."""


class ChannelSuppressed(Extended):
    """Any network with channel-wise activation suppressing (CAS, Bai et al. 2021, arXiv 2103.08307), as that hardening makes it.

    Blocks come by default after the last three activations of maps, as far as these have the same size. The tensors of the
    module ``name`` are those of ``name.layer``, the block's those of ``name.block``.
    """

    kind: Literal["channel-suppressed"] = "channel-suppressed"
    title: ClassVar[str] = "Channel suppression (CAS) around a network"

    def places(self, classifier: Classifier) -> tuple[str, ...]:
        return self.layers or last_activations(classifier, LAST)

    def block(self) -> Callable[[int], nn.Module]:
        return lambda channels: ChannelSuppression(channels, self.num_classes)
