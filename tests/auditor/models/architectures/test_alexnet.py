"""AlexNet: torchvision's layers and parameters, bearpaw's names, pools that fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from auditor.models.architectures.alexnet import AlexNet
from tests.auditor.models.architectures.oracle import parameters, shapes, unlike_fresh
from tests.narrow import sequence, typed

models = pytest.importorskip("torchvision.models")


def torchvisions_features(pool: int) -> nn.Sequential:
    """Its convolutions, the first padded as ours, with pools of side ``pool``."""
    features = sequence(models.alexnet().features)
    typed(features[0], nn.Conv2d).padding = (5, 5)
    for place in (2, 5, 12):
        features[place] = nn.MaxPool2d(pool, 2)
    return features


def test_the_papers_form_has_torchvisions_tensors() -> None:
    with torch.device("meta"):
        ours = AlexNet(hidden=4096, pool=3, height=224, width=224, num_classes=1000).build()
        theirs = models.alexnet()
    assert shapes(ours) == shapes(theirs)
    # Krizhevsky et al. 2012, section 1: 60 million parameters.
    assert parameters(ours) == parameters(theirs) == 61_100_840


@pytest.mark.parametrize(("pool", "side"), [(2, 32), (2, 48), (3, 64)])
def test_the_same_function_as_torchvisions_features(pool: int, side: int) -> None:
    ours = unlike_fresh(AlexNet(pool=pool, height=side, width=side).build())
    theirs = torchvisions_features(pool)
    theirs.load_state_dict(ours.get_submodule("features").state_dict())
    x = torch.rand(2, 3, side, side)
    with torch.no_grad():
        features = theirs(x)
        assert torch.equal(ours.get_submodule("features")(x), features)
        torch.testing.assert_close(ours(x), ours.get_submodule("classifier")(features.mean((2, 3))))


def test_the_hidden_layers_restated() -> None:
    ours = unlike_fresh(AlexNet(hidden=16, height=48, width=64).build())
    first, second, last = (sequence(ours.get_submodule("classifier"))[place] for place in (1, 4, 6))
    x = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        # 48 pixels: 12 after the stem, then 6, 3, 1; 64 pixels: 16, then 8, 4, 2.
        vector = ours.get_submodule("features")(x).reshape(2, 256 * 1 * 2)
        expected = last((second((first(vector)).clamp(min=0))).clamp(min=0))
        torch.testing.assert_close(ours(x), expected)


def test_names_and_parameters_of_the_small_form() -> None:
    with torch.device("meta"):
        network = AlexNet().build()
    layers = ["features.0", "features.3", "features.6", "features.8", "features.10", "classifier"]
    assert list(network.state_dict()) == [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    # 64 x (363 + 1), 192 x (1600 + 1), 384 x (1728 + 1), 256 x (3456 + 1), 256 x (2304 + 1), 10 x (256 + 1).
    assert parameters(network) == 23_296 + 307_392 + 663_936 + 884_992 + 590_080 + 2_570


@pytest.mark.parametrize(
    ("settings", "maps", "pools"),
    [
        # 32 pixels: 8 after the stem, then 4, 2, 1. 28 pixels: 7, then 3, 1 and no third pool.
        ({"height": 32, "width": 32}, (1, 1), 3),
        ({"height": 28, "width": 28}, (1, 1), 2),
        # A 3x3 stem: 16, then 8, 4, 2; overlapping: 16, then 7, 3, 1; of 28 pixels: 14, then 6, 2 and no third pool.
        ({"height": 32, "width": 32, "stem": "3x3"}, (2, 2), 3),
        ({"height": 32, "width": 32, "stem": "3x3", "pool": 3}, (1, 1), 3),
        ({"height": 28, "width": 28, "stem": "3x3", "pool": 3}, (2, 2), 2),
        # A quarter of the size is rounded up by the padding: 4 pixels give 1, 31 give 8; nothing fits.
        ({"height": 4, "width": 31}, (1, 8), 0),
    ],
)
def test_pools_that_do_not_fit_are_left_out(settings: dict[str, Any], maps: tuple[int, int], pools: int) -> None:
    with torch.device("meta"):
        plain, hidden = AlexNet(**settings).build(), AlexNet(**settings, hidden=8).build()
        x = torch.rand(2, 3, settings["height"], settings["width"])
        assert plain.get_submodule("features")(x).shape[2:] == maps
    assert sum(isinstance(module, nn.MaxPool2d) for module in plain.modules()) == pools
    assert hidden.get_submodule("classifier.1").in_features == 256 * maps[0] * maps[1]
    assert plain.get_submodule("classifier").in_features == 256
