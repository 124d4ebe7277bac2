"""The last linear layer and its input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.kit.errors import EvaluationError
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.neural.probes.head import head_of, penultimate
from tests.nets import SHAPE


def classifier_of(network: nn.Module, shape: tuple[int, int, int] = SHAPE, classes: int = 4) -> Classifier:
    return Classifier(network, input_shape=shape, num_classes=classes, normalization=NORMALIZATIONS["half"])


@pytest.mark.parametrize("kind", ["vgg", "resnet-cifar", "lenet5", "alexnet", "mobilenet-v1"])
def test_the_logits_are_the_head_of_the_features(kind: str) -> None:
    architecture = ARCHITECTURES.build(kind, {})
    classifier = classifier_of(architecture.build(), architecture.input_shape, architecture.num_classes)
    head = head_of(classifier)
    x = torch.rand(3, *architecture.input_shape)
    features, logits = penultimate(classifier, head, x)
    assert features.shape == (3, head.layer.in_features)
    assert torch.allclose(features @ head.weight.T + head.bias, logits, atol=1e-6)
    assert torch.equal(logits, classifier(x))


def test_a_head_without_a_bias_has_zeros() -> None:
    classifier = classifier_of(nn.Sequential(nn.Flatten(), nn.Linear(108, 4, bias=False)))
    assert head_of(classifier).bias.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 6), nn.Flatten()), "no linear layer"),
        (nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.ReLU()), "does not end in a linear layer"),
        (nn.Sequential(nn.Linear(6, 6), nn.Conv2d(3, 4, 6), nn.Flatten()), "does not end in a linear layer"),
    ],
)
def test_another_ending_is_declined(network: nn.Module, said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        head_of(classifier_of(network))
