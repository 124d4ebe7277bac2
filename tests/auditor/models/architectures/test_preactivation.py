"""Wide and pre-activation ResNets beside functions of their weights, and beside counts and names that others published."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from auditor.kit.errors import SpecError
from auditor.models.architecture import ARCHITECTURES, Architecture
from tests.auditor.models.architectures.oracle import convolved, normalized, parameters, unlike_fresh, with_norms

Weights = dict[str, Tensor]


def same_convolved(weights: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    """TensorFlow's ``SAME``: of the pixels that are missing, the smaller half comes first."""
    missing = [max((-(-side // stride) - 1) * stride + 3 - side, 0) for side in x.shape[-2:]]
    (down, across) = missing
    padded = functional.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
    return functional.conv2d(padded, weights[f"{name}.weight"], stride=stride)


def blocks_of(weights: Weights, stage: str) -> list[str]:
    """The names of a stage's blocks, from the names of their tensors."""
    numbers = {name.removeprefix(f"{stage}.").split(".")[0] for name in weights if name.startswith(f"{stage}.")}
    return [f"{stage}.{number}" for number in sorted(numbers, key=int)]


def headed(weights: Weights, x: Tensor, layer: str) -> Tensor:
    return x.mean((2, 3)) @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]


def wide(weights: Weights, x: Tensor, _: Architecture) -> Tensor:
    x = convolved(weights, "conv1", x)
    for stage, first in (("block1.layer", 1), ("block2.layer", 2), ("block3.layer", 2)):
        for block, stride in zip(blocks_of(weights, stage), (first, *[1] * 99), strict=False):
            active = normalized(weights, f"{block}.bn1", x).clamp(min=0)
            inner = normalized(weights, f"{block}.bn2", convolved(weights, f"{block}.conv1", active, stride))
            out = convolved(weights, f"{block}.conv2", inner.clamp(min=0))
            shortcut = f"{block}.convShortcut"
            x = out + (convolved(weights, shortcut, active, stride) if f"{shortcut}.weight" in weights else x)
    return headed(weights, normalized(weights, "bn1", x).clamp(min=0), "fc")


def act(x: Tensor, spec: Architecture) -> Tensor:
    return x * torch.sigmoid(x) if spec.settings()["activation"] == "silu" else x.clamp(min=0)


def wide_ported(weights: Weights, x: Tensor, spec: Architecture) -> Tensor:
    x = convolved(weights, "init_conv", x)
    for number, first in enumerate((1, 2, 2)):
        for block, stride in zip(blocks_of(weights, f"layer.{number}.block"), (first, *[1] * 99), strict=False):
            active = act(normalized(weights, f"{block}.batchnorm_0", x), spec)
            inner = normalized(
                weights, f"{block}.batchnorm_1", same_convolved(weights, f"{block}.conv_0", active, stride)
            )
            out = convolved(weights, f"{block}.conv_1", act(inner, spec))
            shortcut = f"{block}.shortcut"
            x = out + (convolved(weights, shortcut, active, stride) if f"{shortcut}.weight" in weights else x)
    return headed(weights, act(normalized(weights, "batchnorm", x), spec), "logits")


def preact(weights: Weights, x: Tensor, spec: Architecture) -> Tensor:
    x = convolved(weights, "conv1", x)
    for number, first in ((1, 1), (2, 2), (3, 2), (4, 2)):
        for block, stride in zip(blocks_of(weights, f"layer{number}"), (first, *[1] * 99), strict=False):
            active = normalized(weights, f"{block}.bn1", x).clamp(min=0)
            inner = normalized(weights, f"{block}.bn2", convolved(weights, f"{block}.conv1", active, stride))
            out = convolved(weights, f"{block}.conv2", inner.clamp(min=0))
            shortcut, taken = f"{block}.shortcut.0", active if spec.settings()["shortcut_of"] == "activated" else x
            x = out + (convolved(weights, shortcut, taken, stride) if f"{shortcut}.weight" in weights else x)
    if "bn.weight" in weights:
        x = normalized(weights, "bn", x).clamp(min=0)
    return headed(weights, x, "linear")


def preact_ported(weights: Weights, x: Tensor, spec: Architecture) -> Tensor:
    x = convolved(weights, "conv_2d", x)
    for number, first in enumerate((1, 2, 2, 2)):
        for block, stride in zip(blocks_of(weights, f"layer_{number}"), (first, *[1] * 99), strict=False):
            active = act(normalized(weights, f"{block}.batchnorm_0", x), spec)
            inner = normalized(
                weights, f"{block}.batchnorm_1", same_convolved(weights, f"{block}.conv_2d_1", active, stride)
            )
            out = convolved(weights, f"{block}.conv_2d_2", act(inner, spec))
            shortcut = f"{block}.shortcut"
            x = out + (same_convolved(weights, shortcut, x, stride) if f"{shortcut}.weight" in weights else x)
    return headed(weights, act(normalized(weights, "batchnorm", x), spec), "logits")


FORMS: list[tuple[str, Callable[[Weights, Tensor, Architecture], Tensor]]] = [
    ("wide-resnet:depth=16,widen_factor=2", wide),
    ("wide-resnet-dm:depth=16,widen_factor=2", wide_ported),
    ("wide-resnet-dm:depth=16,widen_factor=1,activation=relu", wide_ported),
    ("preact-resnet", preact),
    ("preact-resnet:shortcut_of=input", preact),
    ("preact-resnet:depth=34,last_norm=true", preact),
    ("preact-resnet-dm", preact_ported),
    ("preact-resnet-dm:activation=relu", preact_ported),
]


@pytest.mark.parametrize(("text", "plain"), FORMS, ids=[text for text, _ in FORMS])
@pytest.mark.parametrize("size", [(32, 32), (17, 30)], ids=["even", "odd"])
def test_logits_are_those_of_the_function_written_out(
    text: str, plain: Callable[[Weights, Tensor, Architecture], Tensor], size: tuple[int, int]
) -> None:
    height, width = size
    spec = ARCHITECTURES.parse(text, {"num_classes": 7, "height": height, "width": width})
    network = unlike_fresh(spec.build()).double()
    x = torch.rand(3, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        expected = plain(network.state_dict(), x, spec)
        assert expected.std() > 0.1
        torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)


COUNTS = {
    # WRN-28-10, WRN-34-10, WRN-40-2 and WRN-16-8: table 4 of arXiv 1605.07146 and its authors' page (36.5, 46.2, 2.2, 11.0 M).
    "wide-resnet:depth=28,widen_factor=10": 36_479_194,
    "wide-resnet:depth=34,widen_factor=10": 46_160_474,
    "wide-resnet:depth=40,widen_factor=2": 2_243_546,
    "wide-resnet:depth=16,widen_factor=8": 10_961_370,
    "wide-resnet-dm:depth=28,widen_factor=10": 36_479_194,
    # kuangliu/pytorch-cifar's PreActResNet18 and 34.
    "preact-resnet": 11_171_146,
}


@pytest.mark.parametrize(("text", "count"), COUNTS.items())
def test_parameters_are_as_many_as_published(text: str, count: int) -> None:
    with torch.device("meta"):
        assert parameters(ARCHITECTURES.parse(text).build()) == count


def test_names_are_those_of_published_files() -> None:
    block = ["bn1", "conv1", "bn2", "conv2"]
    stages = [f"block{stage}.layer.0.{part}" for stage in (1, 2, 3) for part in block]
    stages += [f"block{stage}.layer.0.convShortcut" for stage in (2, 3)]
    names = with_norms(["conv1", "bn1", *stages]) | {"fc.weight", "fc.bias"}
    # With one block a stage and factor 1, the first stage keeps 16 channels and has no shortcut.
    assert set(ARCHITECTURES.parse("wide-resnet:depth=10,widen_factor=1").build().state_dict()) == names
    ported = set(ARCHITECTURES.parse("wide-resnet-dm:depth=10,widen_factor=2").build().state_dict())
    assert {"init_conv.weight", "layer.0.block.0.batchnorm_0.running_mean", "layer.2.block.0.conv_1.weight"} <= ported
    assert {"layer.0.block.0.shortcut.weight", "batchnorm.weight", "logits.bias"} <= ported
    plain = set(ARCHITECTURES.parse("preact-resnet").build().state_dict())
    assert {"conv1.weight", "layer1.0.bn1.weight", "layer2.0.shortcut.0.weight", "linear.bias"} <= plain
    assert "bn1.weight" not in plain
    assert "layer1.0.shortcut.0.weight" not in plain
    assert "bn.running_var" in ARCHITECTURES.parse("preact-resnet:last_norm=true").build().state_dict()
    deep = set(ARCHITECTURES.parse("preact-resnet-dm").build().state_dict())
    assert {
        "conv_2d.weight",
        "layer_0.0.batchnorm_0.bias",
        "layer_3.0.shortcut.weight",
        "layer_3.1.conv_2d_2.weight",
    } <= deep


def test_a_depth_between_whole_blocks_names_its_neighbours() -> None:
    with pytest.raises(SpecError) as error:
        ARCHITECTURES.parse("wide-resnet:depth=30")
    assert "6n + 4, such as 28 or 34, got 30" in str(error.value)
    assert ARCHITECTURES.parse("wide-resnet:depth=34").settings()["depth"] == 34
