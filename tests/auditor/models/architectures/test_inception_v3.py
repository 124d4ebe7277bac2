"""Inception-V3: torchvision's tensors and function but for the strides of the stem, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.kit.errors import SpecError
from auditor.models.architectures.inception_v3 import BLOCKS, InceptionV3
from tests.auditor.models.architectures.oracle import convolved, normalized, parameters, shapes, unlike_fresh
from tests.narrow import typed

models = pytest.importorskip("torchvision.models")


def torchvisions(num_classes: int) -> nn.Module:
    """torchvision's network whose stem keeps the size."""
    theirs = models.inception_v3(aux_logits=False, transform_input=False, init_weights=False, num_classes=num_classes)
    theirs.maxpool1 = theirs.maxpool2 = nn.Identity()
    theirs.Conv2d_1a_3x3.conv.stride = (1, 1)
    for unit in (theirs.Conv2d_1a_3x3, theirs.Conv2d_2a_3x3, theirs.Conv2d_4a_3x3):
        unit.conv.padding = (1, 1)
    return typed(theirs.eval(), nn.Module)


def test_torchvisions_tensors() -> None:
    with torch.device("meta"):
        ours, theirs = InceptionV3(num_classes=1000).build(), torchvisions(1000)
    assert shapes(ours) == shapes(theirs)
    assert parameters(ours) == 23_834_568
    assert list(dict(ours.named_children()))[:5] == [name for name, _ in theirs.named_children() if "Conv2d" in name]


def test_the_same_function_as_torchvisions() -> None:
    ours, theirs = unlike_fresh(InceptionV3(num_classes=7, height=17, width=20).build()), torchvisions(7)
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 17, 20)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_a_stem_of_one_convolution() -> None:
    with torch.device("meta"):
        five, one = (shapes(InceptionV3(stem=count).build()) for count in (5, 1))
        network = InceptionV3(stem=1).build()
    assert {name for name in one if not name.startswith("Mixed") and "fc" not in name} == {
        "Conv2d_1a_3x3.conv.weight",
        *(f"Conv2d_1a_3x3.bn.{part}" for part in ("weight", "bias", "running_mean", "running_var")),
        "Conv2d_1a_3x3.bn.num_batches_tracked",
    }
    assert {k: v for k, v in one.items() if "Conv2d" not in k} == {k: v for k, v in five.items() if "Conv2d" not in k}
    assert one["Conv2d_1a_3x3.conv.weight"] == (192, 3, 3, 3)
    assert network.parts == ["Conv2d_1a_3x3", *BLOCKS]


def test_the_stem_restated() -> None:
    network = unlike_fresh(InceptionV3(channels=1, height=8, width=9).build()).double()
    weights, x = network.state_dict(), torch.rand(2, 1, 8, 9, dtype=torch.float64)
    seen: list[torch.Tensor] = []
    network.get_submodule("Mixed_5b").register_forward_pre_hook(lambda _block, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(x)
    for name in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"):
        unit = f"Conv2d_{name}"
        x = normalized(weights, f"{unit}.bn", convolved(weights, f"{unit}.conv", x), eps=0.001).clamp(min=0)
    torch.testing.assert_close(seen[0], x, rtol=1e-9, atol=1e-9)


def test_maps_of_each_block() -> None:
    sizes: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        network = InceptionV3().build()
        for name in BLOCKS:
            network.get_submodule(name).register_forward_hook(
                lambda _block, _inputs, out, name=name: sizes.update({name: tuple(out.shape[1:])})
            )
        network(torch.rand(2, 3, 32, 32))
    # Channels of the paper's table 1 (288 before 6a, 768, 1280, 2048); (32 - 3) // 2 + 1 = 15 and (15 - 3) // 2 + 1 = 7.
    assert list(sizes.values()) == [
        *((256, 32, 32), (288, 32, 32), (288, 32, 32)),
        *[(768, 15, 15)] * 5,
        *((1280, 7, 7), (2048, 7, 7), (2048, 7, 7)),
    ]


def test_an_image_just_too_small_is_refused() -> None:
    with torch.device("meta"):
        assert InceptionV3(height=7, width=7).build()(torch.rand(2, 3, 7, 7)).shape == (2, 10)
    with pytest.raises(SpecError, match=r"at least 7x7 pixels .* got 32x6"):
        InceptionV3(width=6).build()
