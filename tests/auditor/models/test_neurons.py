"""Layers: every one found, in order, once per call, with the right neurons."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from auditor.models.classifier import Classifier
from auditor.models.neurons import altered, list_layers, watch


class Shared(nn.Module):
    """One ReLU used twice, in place; a ReLU called as a function; a linear layer on tokens; a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.mix = nn.Linear(6, 10)
        self.head = nn.Linear(10, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        x = self.relu(self.block(x))
        tokens = functional.gelu(self.mix(x.flatten(2).transpose(1, 2)))
        return self.head(torch.tanh(tokens).mean(1))


def test_calls_are_told_apart_and_functions_are_seen() -> None:
    layers = list_layers(Classifier(Shared(), input_shape=(3, 5, 5), num_classes=4))
    assert [(layer.depth, layer.name, layer.kind, layer.neurons, layer.spatial) for layer in layers] == [
        (1, "conv", "conv", 6, (5, 5)),
        (2, "relu", "activation", 6, (5, 5)),
        (3, "block.0", "conv", 6, (5, 5)),
        (4, "block.1", "norm", 6, (5, 5)),
        (5, "relu#2", "activation", 6, (5, 5)),
        (6, "mix", "linear", 10, (25,)),
        (7, "gelu()", "activation", 10, (25,)),
        (8, "tanh()", "activation", 10, (25,)),
        (9, "head", "linear", 4, ()),
    ]


def test_an_output_is_seen_before_the_next_layer_changes_it_in_place() -> None:
    network = Shared().eval()
    x = torch.rand(2, 3, 5, 5)
    negative: dict[str, bool] = {}

    def see(name: str, kind: str, type_name: str, output: Tensor) -> None:
        negative[name] = bool((output < 0).any())

    with torch.no_grad(), watch(network, see):
        network(x)
    assert negative["conv"]
    assert not negative["relu"]


def test_a_second_pass_counts_its_calls_anew_and_hooks_come_off_after_an_error() -> None:
    network = Shared().eval()
    names: list[str] = []
    with torch.no_grad(), watch(network, lambda name, *_: names.append(name)):
        network(torch.rand(1, 3, 5, 5))
        network(torch.rand(1, 3, 5, 5))
    assert names[:9] == names[9:]

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), watch(network, fail):
        network(torch.rand(1, 3, 5, 5))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    network(torch.rand(1, 3, 5, 5))


@pytest.mark.parametrize(
    ("model", "size", "layer", "neurons", "spatial"),
    [
        ("resnet18", 64, "layer1.0.relu#2", 64, (16, 16)),
        ("convnext_tiny", 64, "features.1.0.block.2", 96, (16, 16)),  # a LayerNorm that sees channels last
        ("convnext_tiny", 64, "features.0.1", 96, (16, 16)),  # LayerNorm2d, channels first
        ("convnext_tiny", 64, "features.1.0.block.4", 384, (16, 16)),  # GELU after a linear layer, channels last
        ("vit_b_16", 224, "encoder.layers.encoder_layer_0.mlp.1", 3072, (197,)),
        ("swin_t", 64, "features.1.0.mlp.1", 384, (16, 16)),
        ("densenet121", 64, "relu()", 1024, (2, 2)),
        ("googlenet", 64, "inception3a.branch1.relu()", 64, (8, 8)),
        ("mobilenet_v3_small", 64, "features.1.block.1.scale_activation", 16, (1, 1)),
    ],
)
def test_torchvision_families_name_their_neurons(
    model: str, size: int, layer: str, neurons: int, spatial: tuple[int, ...]
) -> None:
    extra = {"init_weights": False} if model == "googlenet" else {}
    network = torchvision.models.get_model(model, num_classes=10, **extra)
    layers = {item.name: item for item in list_layers(Classifier(network, input_shape=(3, size, size), num_classes=10))}
    assert (layers[layer].neurons, layers[layer].spatial) == (neurons, spatial)


def test_an_altered_layer_changes_what_follows_and_only_while_inside() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 2))
    x = torch.rand(2, 3, 2, 2)
    kept = torch.tensor([1.0, 0.0, 1.0, 0.5]).view(1, 4, 1, 1)
    before = network(x)
    with torch.no_grad(), altered(network, {"1": lambda maps: maps * kept}):
        inside = network(x)
    assert torch.allclose(inside, network[3]((network[0](x).relu() * kept).flatten(1)), atol=1e-6)
    assert torch.equal(network(x), before)


def test_an_activation_called_as_a_function_and_tokens_are_altered_too() -> None:
    class Tokens(nn.Module):
        """(B, T, F) with the neurons last; the activation is a function."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return functional.gelu(self.linear(x))

    network, x = Tokens(), torch.rand(2, 3, 4)
    plain = network(x)
    with torch.no_grad(), altered(network, {"gelu()": lambda maps: maps.index_fill(1, torch.tensor([2]), 0.0)}):
        changed = network(x)
    assert changed[..., 2].abs().sum() == 0
    others = [0, 1, 3]
    assert torch.equal(changed[..., others], plain[..., others])
