"""Which change of the logits is rounding, and which is a model that answers otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from auditor.models.classifier import Classifier
from auditor.models.preflight import batch_dependence, random_output
from tests.nets import SHAPE, small_cnn


class Jitter(nn.Module):
    """Every second answer is off by a share of the largest logit."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.inner, self.share, self.asked = small_cnn(), share, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        logits: Tensor = self.inner(x)
        return logits + self.share * logits.abs().max() * (self.asked % 2)


class Neighbours(nn.Module):
    """Each answer is off by a share of the largest logit, more so in a larger batch."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.inner, self.share = small_cnn(), share

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits + self.share * logits.abs().max() * (len(x) > 1)


@pytest.mark.parametrize(("share", "doubted"), [(1e-3, True), (3e-4, True), (3e-5, False), (1e-6, False)])
def test_a_thousandth_of_the_largest_logit_is_no_rounding(share: float, doubted: bool) -> None:
    images = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0))
    for network, look in ((Jitter(share), random_output), (Neighbours(share), batch_dependence)):
        classifier = Classifier(network, input_shape=SHAPE, num_classes=5)
        assert bool(look(classifier, images).flags) == doubted
