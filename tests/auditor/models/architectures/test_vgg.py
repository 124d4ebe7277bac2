"""VGG for small images: torchvision's convolutions, kuangliu's names, and any image size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.models.architectures.vgg import VGG
from tests.narrow import sequence


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_features_are_those_of_torchvision(depth: int, batch_norm: bool) -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        ours = VGG(depth=depth, batch_norm=batch_norm).build()
        theirs = models.get_model(f"vgg{depth}_bn" if batch_norm else f"vgg{depth}")
    assert [type(module) for module in sequence(ours.get_submodule("features"))] == [
        type(module) for module in theirs.features
    ]
    assert {k: v.shape for k, v in ours.get_submodule("features").state_dict().items()} == {
        k: v.shape for k, v in theirs.features.state_dict().items()
    }
    assert {k for k in ours.state_dict() if not k.startswith("features.")} == {"classifier.weight", "classifier.bias"}


def test_the_same_function_as_torchvisions_features() -> None:
    models = pytest.importorskip("torchvision.models")
    ours, theirs = VGG(depth=11).build().eval(), models.vgg11_bn().features.eval()
    theirs.load_state_dict(ours.get_submodule("features").state_dict())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), ours.get_submodule("classifier")(theirs(x).flatten(1)))


def test_parameters_of_vgg16() -> None:
    # Simonyan and Zisserman: 13 convolutions, 14,714,688 weights and biases; the batch norms 2 x 4,224; the head 5,130.
    with torch.device("meta"):
        assert sum(p.numel() for p in VGG().build().parameters()) == 14_714_688 + 2 * 4_224 + 5_130


@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 32), (64, 64), (4, 4), (8, 100)])
def test_every_image_size_has_the_same_tensors(height: int, width: int) -> None:
    spec = VGG(depth=11, height=height, width=width, width_factor=0.125)
    network = spec.build().eval()
    reference = VGG(depth=11, width_factor=0.125).build()
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in reference.state_dict().items()
    }
    with torch.no_grad():
        assert network(torch.rand(2, *spec.input_shape)).shape == (2, 10)


def test_only_pools_that_would_leave_nothing_are_left_out() -> None:
    def pools(side: int) -> int:
        return sum(isinstance(module, nn.MaxPool2d) for module in VGG(height=side, width=side).build().modules())

    with torch.device("meta"):
        assert (pools(32), pools(28), pools(16), pools(4)) == (5, 4, 4, 2)
