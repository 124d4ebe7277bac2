"""SqueezeNet: torchvision's function and parameters but for stem and pools, weiaicunzai's names, its three ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auditor.kit.errors import SpecError
from auditor.models.architectures.squeezenet import SqueezeNet
from tests.auditor.models.architectures.oracle import convolved, normalized, parameters, shapes, unlike_fresh

models = pytest.importorskip("torchvision.models")
PAPER: dict[str, Any] = {"batch_norm": False, "bypass": "none", "head": "conv-relu"}
PLACES = {2: 3, 3: 4, 4: 5, 5: 7, 6: 8, 7: 9, 8: 10, 9: 12}
"""Number of a fire module -> its place in torchvision's features."""


def torchvisions_name(name: str) -> str:
    layer, rest = name.split(".", 1)
    if layer in ("stem", "conv10"):
        return f"{'features.0' if layer == 'stem' else 'classifier.1'}.{rest.rsplit('.')[-1]}"
    part, _, tensor = rest.split(".")
    return f"features.{PLACES[int(layer.removeprefix('fire'))]}.{part.replace('_', '')}.{tensor}"


def test_the_same_function_as_torchvisions() -> None:
    ours, theirs = unlike_fresh(SqueezeNet(**PAPER, num_classes=7).build()), models.squeezenet1_0(num_classes=7).eval()
    theirs.features[0] = nn.Conv2d(3, 96, 3, padding=1)
    for place in (2, 6, 11):
        theirs.features[place] = nn.MaxPool2d(2)
    theirs.load_state_dict({torchvisions_name(name): tensor for name, tensor in ours.state_dict().items()})
    x = torch.rand(2, 3, 32, 28)
    with torch.no_grad():
        logits = theirs(x)
        assert logits.count_nonzero() > 2
        torch.testing.assert_close(ours(x), logits)


def test_parameters_are_those_of_the_papers_table_1() -> None:
    with torch.device("meta"):
        ours, theirs = SqueezeNet(**PAPER, num_classes=1000).build(), models.squeezenet1_0()
    # The paper's total; its stem has 7x7 windows of 3 channels, ours 3x3.
    assert parameters(theirs) == 1_248_424
    assert parameters(ours) == 1_248_424 - 96 * 3 * (49 - 9)


def test_names_are_those_of_weiaicunzai() -> None:
    with torch.device("meta"):
        found = shapes(SqueezeNet(num_classes=100).build())
    convolutions = ["stem", *(f"fire{n}.{part}" for n in PLACES for part in ("squeeze", "expand_1x1", "expand_3x3"))]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert set(found) == {
        *(f"{name}.0.{part}" for name in convolutions for part in ("weight", "bias")),
        *(f"{name}.1.{part}" for name in convolutions for part in norm),
        *("conv10.weight", "conv10.bias"),
    }
    assert found["conv10.weight"] == (100, 512, 1, 1)


@pytest.mark.parametrize("bypass", ["none", "3+5+7", "3+5+7+9"])
def test_the_forward_pass_restated(bypass: str) -> None:
    network = unlike_fresh(SqueezeNet(bypass=bypass).build()).double()
    weights = network.state_dict()

    def unit(x: Tensor, name: str) -> Tensor:
        return normalized(weights, f"{name}.1", convolved(weights, f"{name}.0", x)).clamp(min=0)

    def pooled(x: Tensor) -> Tensor:
        return torch.stack([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]).amax(0)

    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    x = pooled(unit(images, "stem"))
    for number in PLACES:
        squeezed = unit(x, f"fire{number}.squeeze")
        out = torch.cat([unit(squeezed, f"fire{number}.expand_{side}x{side}") for side in (1, 3)], dim=1)
        x = out + x if str(number) in bypass else out
        x = pooled(x) if number in (4, 8) else x
    expected = convolved(weights, "conv10", x).mean((2, 3))
    with torch.no_grad():
        torch.testing.assert_close(network(images), expected, rtol=1e-9, atol=1e-9)


def test_the_linear_head_computes_what_the_convolution_does() -> None:
    conv, linear = (unlike_fresh(SqueezeNet(head=head).build()) for head in ("conv", "linear"))
    weights = {name.replace("conv10", "linear"): tensor for name, tensor in conv.state_dict().items()}
    linear.load_state_dict({name: t.flatten(1) if name == "linear.weight" else t for name, t in weights.items()})
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), linear(x))


def test_an_image_just_too_small_is_refused() -> None:
    with torch.device("meta"):
        assert SqueezeNet(height=8, width=8).build()(torch.rand(2, 3, 8, 8)).shape == (2, 10)
    with pytest.raises(SpecError, match=r"at least 8x8 pixels .* got 7x32"):
        SqueezeNet(height=7).build()
