"""LeNet-5: sizes of the paper, a restatement, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.kit.errors import SpecError
from auditor.models.architectures.lenet5 import LeNet5


def test_parameters_layer_by_layer() -> None:
    # 6 x (25 + 1), 16 x (6 x 25 + 1), 120 x (400 + 1), 84 x (120 + 1), 10 x (84 + 1); C1, C5 and F6 are those of
    # LeCun et al. 1998, section II.B: 156, 48,120 and 10,164 trainable parameters.
    network = LeNet5().build()
    layers = (network.get_submodule(name) for name in ("conv1", "conv2", "fc1", "fc2", "fc3"))
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    assert counts == [156, 2416, 48_120, 10_164, 850]


@pytest.mark.parametrize(("height", "width", "flat"), [(28, 28, 400), (32, 32, 400), (30, 31, 400), (64, 32, 1040)])
def test_maps_have_the_papers_size(height: int, width: int, flat: int) -> None:
    # 64 rows, unpadded: 60, 30, 26, 13; times 5 columns and 16 channels = 1040.
    assert LeNet5(height=height, width=width).build().get_submodule("fc1").in_features == flat


def test_without_padding() -> None:
    assert LeNet5(pad=False).build().get_submodule("fc1").in_features == 16 * 4 * 4


@pytest.mark.parametrize(("activation", "pooling"), [("relu", "max"), ("tanh", "avg")])
def test_the_same_function_as_plain_pytorch(activation: str, pooling: str) -> None:
    act = nn.ReLU if activation == "relu" else nn.Tanh
    pool = nn.MaxPool2d if pooling == "max" else nn.AvgPool2d
    ours = LeNet5(activation=activation, pooling=pooling).build()
    plain = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), act(), pool(2), nn.Conv2d(6, 16, 5), act(), pool(2), nn.Flatten(),
        nn.Linear(400, 120), act(), nn.Linear(120, 84), act(), nn.Linear(84, 10),
    )  # fmt: skip
    plain.load_state_dict(dict(zip(plain.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(ours(x), plain(x))


def test_an_image_just_too_small_is_refused() -> None:
    with torch.no_grad():
        assert LeNet5(height=12, width=12).build()(torch.rand(2, 1, 12, 12)).shape == (2, 10)
        assert LeNet5(height=16, width=16, pad=False).build()(torch.rand(2, 1, 16, 16)).shape == (2, 10)
    with pytest.raises(SpecError, match=r"at least 12x12 pixels .* got 11x28"):
        LeNet5(height=11).build()
    with pytest.raises(SpecError, match="at least 16x16 pixels"):
        LeNet5(height=15, pad=False).build()
