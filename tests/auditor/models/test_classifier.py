"""The classifier: normalization inside, eval mode, frozen, wrong shapes named."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.transforms import Normalize

from auditor.kit.errors import EvaluationError, MismatchError, SpecError
from auditor.models.classifier import NORMALIZATIONS, Classifier, Normalization, parse_normalization
from tests.narrow import sequence
from tests.nets import SHAPE, small_classifier, small_cnn

X = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))


def seen(normalization: Normalization) -> torch.Tensor:
    """What the network gets for X."""
    got = []
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    network.register_forward_pre_hook(lambda _module, inputs: got.append(inputs[0]))
    Classifier(network, input_shape=SHAPE, num_classes=2, normalization=normalization)(X)
    return got[0]


def test_normalization_is_torchvisions() -> None:
    values = NORMALIZATIONS["imagenet"]
    assert torch.allclose(seen(values), Normalize(values.mean, values.std)(X), atol=1e-6)


def test_bgr_and_0_255_as_caffe_models_take_them() -> None:
    mean = (103.939, 116.779, 123.68)  # blue, green, red, as Caffe's VGG wants them
    normalization = Normalization(mean=mean, std=(1.0,), channel_order="BGR", value_range="0-255")
    expected = 255 * X[:, [2, 1, 0]] - torch.tensor(mean).view(1, 3, 1, 1)
    assert torch.allclose(seen(normalization), expected, atol=1e-3)


def test_a_single_value_serves_every_channel_and_wrong_counts_are_named() -> None:
    assert NORMALIZATIONS["half"].for_channels(3).mean == (0.5, 0.5, 0.5)
    with pytest.raises(MismatchError, match="3 values for mean, the input has 1 channel"):
        NORMALIZATIONS["imagenet"].for_channels(1)
    with pytest.raises(MismatchError, match="BGR needs 3 channels"):
        Normalization(channel_order="BGR").for_channels(1)
    with pytest.raises(ValueError, match="greater than 0"):
        Normalization(std=(0.0,))


def test_names_and_values_are_parsed() -> None:
    assert parse_normalization("cifar10") == NORMALIZATIONS["cifar10"]
    assert parse_normalization("0.5,0.4,0.3/0.2,0.2,0.2").mean == (0.5, 0.4, 0.3)
    for bad in ("cifra10", "0.5", "a/b", "0.5/0"):
        with pytest.raises(SpecError, match="expected one of none, imagenet"):
            parse_normalization(bad)


def test_it_stays_in_eval_mode_and_frozen_whoever_asks() -> None:
    classifier = small_classifier()
    before = sequence(classifier)[1].running_mean.clone()
    classifier.train()
    classifier(X)
    assert not any(module.training for module in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert torch.equal(before, sequence(classifier)[1].running_mean)


def test_wrong_images_and_wrong_outputs_are_named() -> None:
    with pytest.raises(MismatchError, match="takes images of shape 3x6x6, got 3x5x6"):
        small_classifier()(torch.rand(1, 3, 5, 6))
    wrong = Classifier(small_cnn(classes=4), input_shape=SHAPE, num_classes=5)
    with pytest.raises(EvaluationError, match="batch x 5, it returned 4x4"):
        wrong(X)
    with pytest.raises(EvaluationError, match="it returned 4x3x6x6 as '0', 4x3x6x6 as '1'"):
        Classifier(Two(), input_shape=SHAPE, num_classes=5)(X)
    with pytest.raises(MismatchError, match="5 classes, but 2 class names"):
        Classifier(small_cnn(), input_shape=SHAPE, num_classes=5, class_names=["a", "b"])


class Two(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


def test_another_normalization_shares_the_network() -> None:
    classifier = small_classifier()
    other = classifier.with_normalization(NORMALIZATIONS["none"])
    assert other.network is classifier.network
    assert not torch.allclose(other(X), classifier(X))
