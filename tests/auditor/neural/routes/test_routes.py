"""Whole routes against brute force and against a backward pass through absolute weights; widths, ties, batches, modes."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from auditor.kit.errors import EvaluationError
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.layers.residual import ResidualNetwork
from auditor.models.neurons import list_layers
from auditor.neural.routes.routes import Mode, RouteFinder, RouteNode, count_of, model_route, routes, top
from tests.auditor.brute_force import jacobian_norms, loss_gradient, randomized, route
from tests.narrow import known, sequence
from tests.nets import SHAPE, small_classifier

WIDTH = 0.25


def vgg(batch_norm: bool) -> nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES.build("vgg", {"width_factor": 1 / 16, "batch_norm": batch_norm}).build()


def alexnet_like() -> nn.Module:
    """Two overlapping pools among the convolutions, one after them."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 10, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Conv2d(10, 12, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(12, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(), nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 10),
    )  # fmt: skip


def residual() -> nn.Module:
    torch.manual_seed(0)
    return ResidualNetwork(3, (4, 8), (2, 2), 10, "B")


NETWORKS = {"vgg": lambda: vgg(False), "vgg with norms": lambda: vgg(True), "alexnet": alexnet_like, "resnet": residual}


def prepared(name: str, dtype: torch.dtype = torch.float64) -> Classifier:
    network = randomized(NETWORKS[name]())
    shape = (3, 12, 12) if name == "resnet" else (3, 32, 32)
    return Classifier(network, input_shape=shape, num_classes=10, normalization=NORMALIZATIONS["half"]).to(dtype)


def images(n: int, side: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(n, 3, side, side, generator=generator, dtype=torch.float64), torch.arange(n) % 10


def both(name: str, n: int) -> tuple[Classifier, tuple[Tensor, Tensor]]:
    classifier = prepared(name)
    return classifier, images(n, classifier.input_shape[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_route_is_that_of_brute_force(name: str) -> None:
    classifier, (x, labels) = both(name, 1 if name.startswith("vgg") else 3)
    found = routes(classifier, x, labels, width=WIDTH)
    layers = [classifier.network.get_submodule(layer) for layer in found.layers]
    for image in range(len(x)):
        point = classifier.normalize(x[image : image + 1])
        expected = route(classifier.network, point, int(labels[image]), layers, WIDTH)
        assert [members[image].nonzero().flatten().tolist() for members in found.members] == expected
    assert len(layers) == {"vgg": 13, "vgg with norms": 13, "alexnet": 4, "resnet": 9}[name]


def test_a_route_through_hidden_linear_layers_and_after_normalization() -> None:
    classifier, (x, labels) = both("alexnet", 1)
    found = routes(classifier, x, labels, width=WIDTH, linear=True)
    assert found.layers == ("0", "3", "6", "8", "14")
    layers = [sequence(classifier)[int(layer)] for layer in found.layers]
    expected = route(classifier.network, classifier.normalize(x), 0, layers, WIDTH)
    assert [members[0].nonzero().flatten().tolist() for members in found.members] == expected


@pytest.mark.parametrize("name", ["vgg with norms", "vgg"])
@pytest.mark.parametrize("node", ["conv", "bn"])
def test_scores_equal_a_backward_pass_through_absolute_weights(name: str, node: RouteNode) -> None:
    """Another way to eq. 5: sum over positions of (reached by the absolute kernel) times the local derivative."""
    classifier, (x, labels) = both(name, 4)
    found = routes(classifier, x, labels, width=WIDTH, node=node)
    features = list(classifier.network.get_submodule("features").children())
    inputs: dict[nn.Module, Tensor] = {}
    handles = [m.register_forward_pre_hook(lambda m, i: inputs.__setitem__(m, i[0])) for m in features]
    classifier.logits(x)
    for handle in handles:
        handle.remove()
    convolutions = [module for module in features if isinstance(module, nn.Conv2d)]
    for depth, (source, target) in enumerate(pairwise(convolutions)):
        norm, after = (features[features.index(module) + 1] for module in (source, target))
        factor, weight = torch.ones(source.out_channels, dtype=torch.float64), target.weight.abs()
        if isinstance(norm, nn.BatchNorm2d) and isinstance(after, nn.BatchNorm2d):
            if node == "bn":
                weight = weight * (after.weight / (known(after.running_var) + after.eps).sqrt()).abs().view(-1, 1, 1, 1)
            else:
                factor = (norm.weight / (known(norm.running_var) + norm.eps).sqrt()).abs()
        side = inputs[target].shape[2]
        selected = found.members[depth + 1].double()[:, :, None, None].expand(-1, -1, side, side)
        reached = functional.conv_transpose2d(selected, weight, padding=1)
        expected = (reached * (inputs[target] > 0)).sum((2, 3)) * factor
        assert torch.allclose(found.scores[depth], expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_layer_has_the_loss_gradient_of_the_true_label(name: str) -> None:
    classifier, (x, labels) = both(name, 3)
    found = routes(classifier, x, labels)
    last = classifier.network.get_submodule(found.layers[-1])
    for image in range(3):
        expected = loss_gradient(
            classifier.network, classifier.normalize(x[image : image + 1]), int(labels[image]), last
        )
        assert torch.allclose(found.scores[-1][image], expected, rtol=1e-9, atol=1e-12 * float(expected.max()))


def test_a_very_confident_image_has_a_route_all_the_same() -> None:
    """In float32 the cross-entropy of this image is exactly 0 and so is its gradient; the order of the neurons is not lost."""
    classifier, (x, labels) = prepared("vgg with norms", torch.float32), images(4)
    labels = classifier.logits(x.float()).argmax(1)
    classifier.network.get_submodule("classifier").get_parameter("weight").data *= 1e5
    loss = functional.cross_entropy(classifier.logits(x.float()), labels, reduction="none")
    assert (loss == 0).all()
    found, exact = routes(classifier, x.float(), labels), routes(copy.deepcopy(classifier).double(), x, labels)
    assert torch.equal(found.members[-1], exact.members[-1])
    # With all scores 0, ties would go to the lowest indices.
    assert not found.members[-1][:, : count_of(0.2, found.members[-1].shape[1])].all(1).any()


def test_the_widest_route_is_everything_and_the_narrowest_one_neuron() -> None:
    classifier, (x, labels) = both("vgg", 2)
    assert all(bool(members.all()) for members in routes(classifier, x, labels, width=1.0).members)
    assert all((members.sum(1) == 1).all() for members in routes(classifier, x, labels, width=0.001).members)


def test_counts_are_rounded_down_and_ties_go_to_the_lower_index() -> None:
    assert [count_of(0.2, n) for n in (3, 4, 5, 10, 64, 512)] == [1, 1, 1, 2, 12, 102]
    assert count_of(0.29, 100) == 29  # 0.29 * 100 is 28.999999999999996 in floating point
    scores = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert top(scores, 0.4).tolist() == [[False, True, True, False, False], [True, True, False, False, False]]


def test_the_model_route_is_ordered_by_frequency() -> None:
    frequency = [np.array([0.1, 0.9, 0.5, 0.9, 0.0, 0.2, 0.3, 0.3, 0.0, 0.0]), np.array([0.0, 0.0])]
    assert [layer.tolist() for layer in model_route(frequency, 0.3)] == [[1, 3, 2], [0]]
    assert [layer.tolist() for layer in model_route(frequency, 0.5)] == [[1, 3, 2, 6, 7], [0]]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("mode", ["serial", "dag"])
def test_the_batch_changes_nothing(name: str, mode: Mode) -> None:
    classifier, (x, labels) = both(name, 5)
    finder = RouteFinder(classifier, mode=mode)
    whole = finder(x, labels)
    for image in range(5):
        alone = finder(x[image : image + 1], labels[image : image + 1])
        for one, other in zip(whole.members, alone.members, strict=True):
            assert torch.equal(one[image], other[0])


def test_float32_agrees_to_rounding() -> None:
    (x, labels), exact, rounded = images(4), prepared("vgg with norms"), prepared("vgg with norms", torch.float32)
    one, other = routes(exact, x, labels), routes(rounded, x.float(), labels)
    assert other.scores[0].dtype == torch.float32
    same = [(a == b).double().mean().item() for a, b in zip(one.members, other.members, strict=True)]
    assert min(same) > 0.9


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("mode", ["serial", "dag"])
def test_layers_are_called_as_everywhere(name: str, mode: Mode) -> None:
    classifier, (x, labels) = both(name, 1)
    listed = {layer.name: layer for layer in list_layers(classifier)}
    found = routes(classifier, x, labels, mode=mode)
    depths = [listed[name].depth for name in found.layers]
    assert depths == sorted(depths)
    assert [members.shape[1] for members in found.members] == [listed[name].neurons for name in found.layers]


class Shared(nn.Module):
    """One convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.again(torch.relu(self.stem(x))))
        return self.out(torch.relu(self.again(x)).mean((2, 3)))


def test_a_layer_used_twice_is_two_layers() -> None:
    classifier, (x, labels) = Classifier(Shared(), input_shape=(3, 32, 32), num_classes=10).double(), images(1)
    assert routes(classifier, x, labels).layers == ("stem", "again", "again#2")
    assert {"again", "again#2"} <= {layer.name for layer in list_layers(classifier)}


def test_without_convolutions_the_linear_layers_are_followed() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    classifier = Classifier(randomized(network), input_shape=SHAPE, num_classes=3).double()
    x = torch.rand(1, *SHAPE, dtype=torch.float64)
    found = routes(classifier, x, torch.tensor([1]), width=0.4)
    assert found.layers == ("1", "3")
    expected = route(network, classifier.normalize(x), 1, [network[1], network[3]], 0.4)
    assert [members[0].nonzero().flatten().tolist() for members in found.members] == expected


def test_one_convolution_is_no_route() -> None:
    with pytest.raises(EvaluationError, match="no two layers"):
        RouteFinder(small_classifier())


def test_the_graph_route_of_a_residual_network_adds_up_every_way_onwards() -> None:
    """The score of a block's output is what the next convolutions and the skip connection receive, by brute force."""
    classifier, (x, labels) = both("resnet", 1)
    network, point = classifier.network, classifier.normalize(x)
    found = routes(classifier, x, labels, width=WIDTH, mode="dag")
    chosen = {
        name: members[0].nonzero().flatten().tolist() for name, members in zip(found.layers, found.members, strict=True)
    }
    scores = {name: values[0] for name, values in zip(found.layers, found.scores, strict=True)}

    def received(source: str, *onwards: str) -> Tensor:
        total = torch.zeros_like(scores[onwards[0]][:1])
        for layer in onwards:
            norm = "layer2.0.shortcut.1" if "shortcut" in layer else layer.replace("conv", "bn")
            total = total + jacobian_norms(
                network, point, network.get_submodule(source), network.get_submodule(norm),
                layer=network.get_submodule(layer), only=chosen[layer],
            ).sum(1)  # fmt: skip
        return total

    def skipped(source: str, total: str, layer: str) -> Tensor:
        end = network.get_submodule(total)
        return jacobian_norms(network, point, network.get_submodule(source), end, before=True, only=chosen[layer]).sum(
            1
        )

    expected = {
        "layer2.1.conv1": received("layer2.1.bn1", "layer2.1.conv2"),
        "layer2.0.conv2": received("layer2.0.bn2", "layer2.1.conv1")
        + skipped("layer2.0.bn2", "layer2.1.relu2", "layer2.1.conv2"),
        "layer1.1.conv2": received("layer1.1.bn2", "layer2.0.conv1", "layer2.0.shortcut.0"),
        "layer1.0.conv2": received("layer1.0.bn2", "layer1.1.conv1")
        + skipped("layer1.0.bn2", "layer1.1.relu2", "layer1.1.conv2"),
        "conv1": received("bn1", "layer1.0.conv1") + skipped("bn1", "layer1.0.relu2", "layer1.0.conv2"),
    }
    for name, values in expected.items():
        assert torch.allclose(scores[name], values, rtol=1e-10, atol=0), name
    assert torch.equal(scores["layer2.0.shortcut.0"], scores["layer2.0.conv2"]), "they feed the same channels"
    norm = network.get_submodule("layer2.1.bn2")
    assert torch.allclose(scores["layer2.1.conv2"], loss_gradient(network, point, 0, norm), rtol=1e-9)
