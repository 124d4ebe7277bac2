"""ResNets for small images: parameter counts of the paper, names and accuracy of networks trained by others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from auditor.models.architecture import ARCHITECTURES
from auditor.models.architectures.resnet_cifar import ResNetCifar
from auditor.models.architectures.resnet_small_images import ResNet18Cifar, ResNet50Cifar
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.layers.residual import PadShortcut
from tests.auditor.models.architectures.oracle import unlike_fresh


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_parameters_are_those_of_the_papers_table_6(depth: int, millions: float) -> None:
    with torch.device("meta"):
        assert round(count(ResNetCifar(depth=depth).build()) / 1e6, 2) == millions


def test_depth_is_the_number_of_weighted_layers() -> None:
    for depth in (20, 32, 44, 56):
        with torch.device("meta"):
            network = ResNetCifar(depth=depth, shortcut="A").build()
        assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == depth


def test_option_b_has_two_projections_and_option_a_none() -> None:
    with torch.device("meta"):
        a, b = (ResNetCifar(shortcut=shortcut).build() for shortcut in ("A", "B"))
    assert not [name for name in a.state_dict() if "shortcut" in name]
    # 16 x 32 + 32 x 64 weights of the 1x1 convolutions, and weight and bias of their batch norms.
    assert count(b) - count(a) == 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert {name.rsplit(".", 1)[0] for name in b.state_dict() if "shortcut" in name} == {
        f"layer{stage}.0.shortcut.{part}" for stage in (2, 3) for part in (0, 1)
    }


@pytest.mark.parametrize("side", [8, 7])
def test_the_padding_shortcut_restated(side: int) -> None:
    x = torch.rand(2, 4, side, side)
    out = PadShortcut(4, 8, stride=2)(x)
    expected = torch.zeros(2, 8, -(-side // 2), -(-side // 2))
    for channel in range(4):
        for row in range(0, side, 2):
            for column in range(0, side, 2):
                expected[:, 2 + channel, row // 2, column // 2] = x[:, channel, row, column]
    assert torch.equal(out, expected)


def test_the_forward_pass_restated_with_functions() -> None:
    """Figure 2 of the paper, written with functions over the state dict."""
    torch.manual_seed(0)
    network = ResNetCifar(depth=20, shortcut="B").build().double().eval()
    weights = network.state_dict()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return functional.batch_norm(x, mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def block(x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        y = functional.conv2d(x, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
        y = functional.conv2d(functional.relu(norm(y, f"{name}.bn1")), weights[f"{name}.conv2.weight"], padding=1)
        if f"{name}.shortcut.0.weight" in weights:
            x = norm(functional.conv2d(x, weights[f"{name}.shortcut.0.weight"], stride=stride), f"{name}.shortcut.1")
        return functional.relu(norm(y, f"{name}.bn2") + x)

    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    x = functional.relu(norm(functional.conv2d(images, weights["conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        for number in range(3):
            x = block(x, f"layer{stage}.{number}", stride=2 if stage > 1 and number == 0 else 1)
    expected = functional.linear(x.mean((2, 3)), weights["linear.weight"], weights["linear.bias"])
    with torch.no_grad():
        torch.testing.assert_close(network(images), expected)


def our_name(name: str) -> str:
    """Of a tensor of torchvision."""
    return name.replace("downsample", "shortcut").replace("fc.", "linear.")


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_resnets_have_torchvisions_weights_but_for_stem_and_names(depth: int) -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        ours = ARCHITECTURES.build(f"resnet{depth}-cifar", {"num_classes": 1000}).build().state_dict()
        theirs = models.get_model(f"resnet{depth}").state_dict()
    assert {k: v.shape for k, v in ours.items() if k != "conv1.weight"} == {
        our_name(k): v.shape for k, v in theirs.items() if k != "conv1.weight"
    }
    assert ours["conv1.weight"].shape == (64, 3, 3, 3)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_resnets_compute_what_torchvisions_do_behind_the_stem(depth: int) -> None:
    models = pytest.importorskip("torchvision.models")
    ours = unlike_fresh(ARCHITECTURES.build(f"resnet{depth}-cifar", {"num_classes": 7}).build())
    theirs = models.get_model(f"resnet{depth}", num_classes=7).eval()
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    given = ours.state_dict()
    theirs.load_state_dict({name: given[our_name(name)] for name in theirs.state_dict()})
    x = torch.rand(2, 3, 15, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)])
def test_parameters_are_those_of_the_imagenet_networks_but_for_the_stem(depth: int, parameters: int) -> None:
    # The numbers beside torchvision's published weights; its stem has 7x7 windows, ours 3x3.
    with torch.device("meta"):
        network = ARCHITECTURES.build(f"resnet{depth}-cifar", {"num_classes": 1000}).build()
    assert count(network) == parameters - 64 * 3 * (49 - 9)


def test_width_factor_scales_every_stage() -> None:
    network = ResNet18Cifar(width_factor=0.25).build()
    assert [network.get_submodule(f"layer{stage}.1.bn2").num_features for stage in (1, 2, 3, 4)] == [16, 32, 64, 128]
    wide = ResNet50Cifar(width_factor=0.25).build()
    assert [wide.get_submodule(f"layer{stage}.1.bn3").num_features for stage in (1, 2, 3, 4)] == [64, 128, 256, 512]
    assert ResNet18Cifar(width_factor=0.001).build()(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("file", "depth", "published", "images"),
    [("resnet20-12fca82f.th", 20, 0.926, 1000), ("resnet32-d509ac18.th", 32, 0.93, 500)],
)
def test_networks_trained_by_others_load_strictly_and_keep_their_accuracy(
    shared: Path, file: str, depth: int, published: float, images: int
) -> None:
    checkpoint = torch.load(shared / "weights" / file, weights_only=True, map_location="cpu")
    network = ResNetCifar(depth=depth).build()
    network.load_state_dict({name.removeprefix("module."): t for name, t in checkpoint["state_dict"].items()})
    classifier = Classifier(network, input_shape=(3, 32, 32), num_classes=10, normalization=NORMALIZATIONS["imagenet"])
    with np.load(shared / "data" / "cifar10-test.npz") as data:
        x = torch.from_numpy(data["images"][:images]).permute(0, 3, 1, 2) / 255
        labels = torch.from_numpy(data["labels"][:images])
    predicted = torch.cat([classifier.logits(batch).argmax(1) for batch in x.split(250)])
    # Two standard errors of an accuracy measured on so many images: 0.017 for 0.926 on 1000.
    tolerance = 2 * (published * (1 - published) / images) ** 0.5
    assert (predicted == labels).double().mean().item() == pytest.approx(published, abs=tolerance)
