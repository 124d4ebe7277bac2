"""DenseNets: torchvision's function and parameters but for the stem, the paper's counts, kuangliu's names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from auditor.kit.errors import SpecError
from auditor.models.architectures.densenet import PLANS, DenseNet
from tests.auditor.models.architectures.oracle import convolved, normalized, parameters, unlike_fresh, with_norms
from tests.narrow import typed

models = pytest.importorskip("torchvision.models")


def torchvisions(depth: int, growth: int) -> nn.Module:
    """torchvision's network with a stem of one 3x3 convolution."""
    theirs = models.DenseNet(
        growth_rate=growth, block_config=PLANS[depth].blocks, num_init_features=2 * growth, num_classes=10
    )
    for name in ("norm0", "relu0", "pool0"):
        theirs.features.set_submodule(name, nn.Identity())
    theirs.features.conv0 = nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)
    return typed(theirs.eval(), nn.Module)


def give_weights(ours: nn.Module, theirs: nn.Module, depth: int, growth: int) -> None:
    """Ours to theirs. They put new channels last, we put them first: ``order`` has their number of each of our channels."""
    width = 2 * growth

    def give(mine: str, other: str, order: list[int] | None = None) -> None:
        given = theirs.get_submodule(other).state_dict()
        for name, tensor in ours.get_submodule(mine).state_dict().items():
            target = given[name]
            if order is None or tensor.dim() == 0:
                target.copy_(tensor)
            elif tensor.dim() == 1:
                target[order] = tensor
            else:
                target[:, order] = tensor

    give("conv1", "features.conv0")
    blocks = len(PLANS[depth].blocks)
    for number in range(1, blocks + 1):
        order = list(range(width))
        for index in range(PLANS[depth].blocks[number - 1]):
            own, other = f"dense{number}.{index}", f"features.denseblock{number}.denselayer{index + 1}"
            give(f"{own}.bn1", f"{other}.norm1", order)
            give(f"{own}.conv1", f"{other}.conv1", order)
            give(f"{own}.bn2", f"{other}.norm2")
            give(f"{own}.conv2", f"{other}.conv2")
            order = list(range(width, width + growth)) + order
            width += growth
        if number < blocks:
            give(f"trans{number}.bn", f"features.transition{number}.norm", order)
            give(f"trans{number}.conv", f"features.transition{number}.conv", order)
            width //= 2
    give("bn", "features.norm5", order)
    head, mine = (typed(part, nn.Linear) for part in (theirs.get_submodule("classifier"), ours.get_submodule("linear")))
    head.bias.data.copy_(mine.bias)
    head.weight.data[:, order] = mine.weight.data


@pytest.mark.parametrize("depth", [121, 100])
def test_the_same_function_as_torchvisions(depth: int) -> None:
    growth = 4
    ours = unlike_fresh(DenseNet(depth=depth, growth=growth).build())
    theirs = torchvisions(depth, growth)
    with torch.no_grad():
        give_weights(ours, theirs, depth, growth)
        x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
        torch.testing.assert_close(ours.double()(x), theirs.double()(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("depth", "growth"), [(121, 32), (161, 48), (169, 32), (201, 32)])
def test_parameters_are_torchvisions_but_for_the_stem(depth: int, growth: int) -> None:
    with torch.device("meta"):
        ours = DenseNet(depth=depth, growth=growth, num_classes=1000).build()
        theirs = models.get_model(f"densenet{depth}")
    # Their stem: 7x7 in the place of 3x3, and weight and bias of a batch norm.
    assert parameters(theirs) - parameters(ours) == 2 * growth * (3 * (49 - 9) + 2)


@pytest.mark.parametrize(("depth", "millions"), [(40, 1.0), (100, 0.8)])
def test_parameters_are_those_of_the_papers_table_2(depth: int, millions: float) -> None:
    with torch.device("meta"):
        assert round(parameters(DenseNet(depth=depth, growth=12).build()) / 1e6, 1) == millions


@pytest.mark.parametrize("depth", list(PLANS))
def test_depth_is_the_number_of_weighted_layers(depth: int) -> None:
    with torch.device("meta"):
        network = DenseNet(depth=depth, growth=1).build()
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == depth


def test_the_plain_form_restated() -> None:
    network = unlike_fresh(DenseNet(depth=40, growth=3).build()).double()
    weights = network.state_dict()

    def convolution(x: Tensor, norm: str, name: str) -> Tensor:
        return convolved(weights, name, normalized(weights, norm, x).clamp(min=0))

    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    x = convolved(weights, "conv1", images)
    for number in (1, 2, 3):
        for index in range(12):
            name = f"dense{number}.{index}"
            x = torch.cat([convolution(x, f"{name}.bn1", f"{name}.conv1"), x], dim=1)
        if number < 3:
            x = convolution(x, f"trans{number}.bn", f"trans{number}.conv")
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    vector = normalized(weights, "bn", x).clamp(min=0).mean((2, 3))
    with torch.no_grad():
        torch.testing.assert_close(network(images), vector @ weights["linear.weight"].T + weights["linear.bias"])
    # 16 channels, and 3 x 12 x 3 more; nothing is left out on the way.
    assert vector.shape == (2, 16 + 108)


def test_names_are_those_of_kuangliu() -> None:
    with torch.device("meta"):
        network = DenseNet(growth=12).build()
    counts = {1: 6, 2: 12, 3: 24, 4: 16}
    layers = ["conv1", "bn", "linear", *(f"trans{number}.{part}" for number in (1, 2, 3) for part in ("bn", "conv"))]
    for number, count in counts.items():
        for part in ("bn1", "conv1", "bn2", "conv2"):
            layers += [f"dense{number}.{index}.{part}" for index in range(count)]
    assert set(network.state_dict()) == with_norms(layers) | {"linear.bias"}
    # Its densenet_cifar: 24 channels, halved after each of three blocks.
    assert (
        network.get_submodule("linear").in_features == ((((24 + 6 * 12) // 2 + 12 * 12) // 2) + 24 * 12) // 2 + 16 * 12
    )


@pytest.mark.parametrize(("depth", "least"), [(40, 4), (100, 4), (121, 8), (201, 8)])
def test_an_image_just_too_small_is_refused(depth: int, least: int) -> None:
    with torch.device("meta"):
        network = DenseNet(depth=depth, growth=1, height=least, width=least).build()
        assert network(torch.rand(2, 3, least, least)).shape == (2, 10)
    if least > 4:
        with pytest.raises(SpecError, match=rf"at least {least}x{least} pixels .* got {least - 1}x32"):
            DenseNet(depth=depth, height=least - 1).build()
