"""Influence in closed form against brute force (one reverse pass for each output element, float64) in every case we claim."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier
from auditor.models.layers.residual import PadShortcut, ResidualNetwork
from auditor.models.tracing import Window
from auditor.neural.routes.closed_form import EdgeInfluence, IntoLayer
from auditor.neural.routes.derivative import Flow, ReluRule
from auditor.neural.routes.routes import Mode, RouteFinder
from tests.auditor.brute_force import jacobian_norms, randomized
from tests.narrow import known, sequence, typed

TOLERANCE = 1e-10
IMAGES = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Functional(nn.Module):
    """The operations of a path as functions, in place where that is possible."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, 3, padding=1)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu_(self.norm(self.first(x))), 2, padding=1)
        x = functional.pad(functional.dropout(x, 0.5, training=self.training), (0, 1, 1, 0))
        x = self.second(x)
        x += 1.0
        return self.out(x.relu().mean([2, 3]).view(x.size(0), -1))


class Beside(nn.Module):
    """A concatenation, with a normalization and an overlapping pool after it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.norm = nn.BatchNorm2d(11)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.last = nn.Conv2d(11, 3, 3)
        self.out = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.cat([functional.gelu(self.left(x)), self.right(x)], 1)
        return self.out(self.last(self.pool(torch.relu(self.norm(x)))).amax((2, 3)))


def conv(ins: int, outs: int, kernel: int | tuple[int, int] = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(ins, outs, kernel, **options)


FIRST = 6
CASES: dict[str, list[nn.Module]] = {
    "no activation": [conv(FIRST, 5)],
    "relu": [nn.ReLU(), conv(FIRST, 5, padding=1)],
    "stride": [nn.ReLU(), conv(FIRST, 5, stride=2, padding=1)],
    "stride larger than the kernel": [nn.ReLU(), conv(FIRST, 5, 2, stride=3)],
    "large padding": [nn.ReLU(), conv(FIRST, 5, 3, padding=4, stride=2)],
    "dilation": [nn.ReLU(), conv(FIRST, 5, dilation=2, padding=1)],
    "same padding, even kernel": [nn.ReLU(), conv(FIRST, 5, 4, padding="same")],
    "rectangular": [nn.ReLU(), conv(FIRST, 5, (1, 5), stride=(2, 1), padding=(1, 2), dilation=(3, 2))],
    "1x1": [nn.ReLU(), conv(FIRST, 5, 1)],
    "2x2 map": [nn.ReLU(), nn.MaxPool2d((4, 5)), conv(FIRST, 5, 3, padding=1)],
    "norm of either sign": [nn.BatchNorm2d(FIRST), nn.ReLU(inplace=True), conv(FIRST, 5, padding=1)],
    "norm after the activation": [nn.ReLU(), nn.BatchNorm2d(FIRST), nn.MaxPool2d(2), conv(FIRST, 5, padding=1)],
    "two norms": [nn.BatchNorm2d(FIRST), nn.GELU(), nn.BatchNorm2d(FIRST), nn.ReLU(), conv(FIRST, 5)],
    "groups": [nn.ReLU(), conv(FIRST, 4, groups=2, padding=1)],
    "depthwise": [nn.BatchNorm2d(FIRST), nn.ReLU(), conv(FIRST, 12, groups=FIRST, stride=2, padding=1)],
    "max-pool": [nn.ReLU(), nn.MaxPool2d(2), conv(FIRST, 5, padding=1)],
    "max-pool 3/3 before relu": [nn.BatchNorm2d(FIRST), nn.MaxPool2d(3), nn.ReLU(), conv(FIRST, 5, 2)],
    "max-pool without activation": [nn.MaxPool2d(2, ceil_mode=True), conv(FIRST, 5, padding=1)],
    "max-pool of gelu": [nn.GELU(), nn.MaxPool2d(2, padding=1), conv(FIRST, 5, padding=1)],
    "two pools": [nn.Tanh(), nn.MaxPool2d(2), nn.MaxPool2d(2), conv(FIRST, 5, padding=1)],
    "avg-pool": [nn.BatchNorm2d(FIRST), nn.ReLU(), nn.AvgPool2d(2, padding=1), conv(FIRST, 5, padding=1)],
    "avg-pool, then relu": [nn.ReLU(), nn.AvgPool2d(2), nn.BatchNorm2d(FIRST), nn.ReLU(), conv(FIRST, 5)],
    "avg-pool ceil": [nn.Sigmoid(), nn.AvgPool2d((2, 3), ceil_mode=True, count_include_pad=False), conv(FIRST, 5, 2)],
    "leaky relu": [nn.BatchNorm2d(FIRST), nn.LeakyReLU(0.2, inplace=True), conv(FIRST, 5, padding=1)],
    "leaky relu, max-pool": [nn.LeakyReLU(0.2), nn.MaxPool2d(2), conv(FIRST, 5, padding=1)],
    "prelu by channel": [nn.PReLU(FIRST), conv(FIRST, 5, padding=1)],
    "gelu": [nn.BatchNorm2d(FIRST), nn.GELU(), conv(FIRST, 5, padding=1)],
    "relu6": [nn.ReLU6(), conv(FIRST, 5, padding=1)],
    "hardswish, silu": [nn.Hardswish(inplace=True), nn.SiLU(inplace=True), conv(FIRST, 5, padding=1)],
    "dropout, identity, zero pad": [nn.ReLU(), nn.Dropout2d(), nn.Identity(), nn.ZeroPad2d((0, 2, 1, 0)), conv(FIRST, 5)],
    "overlapping 3/2": [nn.ReLU(), nn.MaxPool2d(3, 2), conv(FIRST, 5, 3, padding=1)],
    "overlapping 3/2, 5x5": [nn.ReLU(), nn.MaxPool2d(3, 2), conv(FIRST, 4, 5, padding=2)],
    "overlapping 3/2/1": [nn.BatchNorm2d(FIRST), nn.ReLU(), nn.MaxPool2d(3, 2, 1), conv(FIRST, 5, padding=1)],
    "overlapping 3/1/1": [nn.BatchNorm2d(FIRST), nn.ReLU(), nn.MaxPool2d(3, 1, 1), conv(FIRST, 4, padding=1)],
    "overlapping, strided dilated groups": [
        nn.ReLU(), nn.MaxPool2d(3, 1), conv(FIRST, 4, 3, stride=2, dilation=2, padding=3, groups=2),
    ],
    "overlapping, dilated pool": [nn.ReLU(), nn.MaxPool2d(2, 2, dilation=2), conv(FIRST, 5, padding=1)],
    "overlapping rectangular, ceil": [nn.GELU(), nn.MaxPool2d((3, 2), (1, 2), (1, 0), ceil_mode=True), conv(FIRST, 4, (2, 3))],
    "overlapping, then norm and relu": [nn.MaxPool2d(3, 2), nn.BatchNorm2d(FIRST), nn.ReLU(), conv(FIRST, 5, padding=1)],
    "overlapping, then 1x1": [nn.ReLU(), nn.MaxPool2d(3, 1, 1), conv(FIRST, 5, 1)],
    "flatten": [nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(FIRST * 20, 5)],
    "flatten, dropout, no activation": [nn.Flatten(), nn.Dropout(), nn.Linear(FIRST * 99, 5)],
    "overlapping, flatten": [nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(FIRST * 20, 5)],
    "flatten, gelu": [nn.MaxPool2d(3), nn.Flatten(), nn.GELU(), nn.Linear(FIRST * 9, 5)],
    "global average": [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(FIRST), nn.Linear(FIRST, 5)],
    "adaptive average": [nn.ReLU(), nn.AdaptiveAvgPool2d((3, 11)), nn.Flatten(), nn.Linear(FIRST * 33, 5)],
    "adaptive max": [nn.ReLU(), nn.AdaptiveMaxPool2d((3, 1)), nn.Flatten(), nn.Linear(FIRST * 3, 5)],
}  # fmt: skip


def sequential(name: str) -> tuple[nn.Module, nn.Conv2d, nn.Module]:
    """A network with the case between its first layer and the target, then something nonlinear and the logits."""
    torch.manual_seed(0)
    first, target = nn.Conv2d(3, FIRST, 3, padding=1), CASES[name][-1]
    outline = nn.Sequential(first, *CASES[name]).eval().double()
    size = outline(IMAGES[:1]).numel()
    tail = [nn.Flatten(), nn.Tanh(), nn.Linear(size, 3)]
    return randomized(nn.Sequential(first, *CASES[name], *tail)), first, target


def classifier_of(network: nn.Module, shape: tuple[int, int, int] = (3, 9, 11)) -> Classifier:
    return Classifier(network, input_shape=shape, num_classes=3, copy=False).double()


def error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs() / expected.abs().clamp_min(1e-3 * expected.abs().max())).max())


def edge_between(finder: RouteFinder, source: nn.Module, target: nn.Module, x: Tensor) -> Tensor:
    """C (B, Cin, Cout) that the finder gives for the edge between two modules."""
    names = {module: name for name, module in finder.network.module.named_modules()}
    for edge, influence in zip(finder.edges, finder.influences(x), strict=True):
        if (str(edge.edge.source.target), str(edge.edge.target.target)) == (names[source], names[target]):
            assert isinstance(influence, EdgeInfluence)
            return influence.pairs()
    raise AssertionError(f"no edge from {names[source]} to {names[target]}, but {finder.left_out}")


@pytest.mark.parametrize("name", CASES)
def test_closed_form_is_brute_force(name: str) -> None:
    network, first, target = sequential(name)
    finder = RouteFinder(classifier_of(network), linear=True)
    found = edge_between(finder, first, target, IMAGES)
    for image, one in zip(IMAGES, found, strict=True):
        expected = jacobian_norms(network, image[None], first, target)
        assert expected.max() > 0
        assert error(one, expected) <= TOLERANCE


@pytest.mark.parametrize("name", ["norm of either sign", "overlapping 3/2/1", "depthwise", "flatten"])
def test_with_the_normalization_folded_into_the_layer(name: str) -> None:
    """Post-norm nodes: none of the source's factor is left, the target has its own."""
    torch.manual_seed(0)
    first, target, norm = nn.Conv2d(3, FIRST, 3, padding=1), CASES[name][-1], nn.BatchNorm2d(FIRST)
    between = [module for module in CASES[name][:-1] if not isinstance(module, nn.BatchNorm2d)]
    last: nn.Module = (
        nn.BatchNorm1d(target.out_features)
        if isinstance(target, nn.Linear)
        else nn.BatchNorm2d(typed(target, nn.Conv2d).out_channels)
    )
    body = nn.Sequential(first, norm, *between, target, last).double().eval()
    size = body(torch.zeros(1, 3, 9, 11, dtype=torch.float64)).numel()
    network = randomized(nn.Sequential(*body, nn.Flatten(), nn.Tanh(), nn.Linear(size, 3)))
    finder = RouteFinder(classifier_of(network), node="bn", linear=True)
    (influence, *_), (edge, *_) = finder.influences(IMAGES[:1]), finder.edges
    assert isinstance(influence, EdgeInfluence)
    assert edge.edge.source.target == "1"
    assert error(influence.pairs()[0], jacobian_norms(network, IMAGES[:1], norm, last, layer=target)) <= TOLERANCE


def test_operations_written_as_functions() -> None:
    torch.manual_seed(0)
    network = typed(randomized(Functional()), Functional)
    finder = RouteFinder(classifier_of(network))
    assert not finder.left_out
    found = edge_between(finder, network.first, network.second, IMAGES[:1])
    assert error(found[0], jacobian_norms(network, IMAGES[:1], network.first, network.second)) <= TOLERANCE


def test_concatenated_channels_each_by_itself() -> None:
    torch.manual_seed(0)
    network = typed(randomized(Beside()), Beside)
    finder = RouteFinder(classifier_of(network), mode="dag")
    assert not finder.left_out
    ways = (
        (network.stem, network.left),
        (network.stem, network.right),
        (network.left, network.last),
        (network.right, network.last),
    )
    for source, target in ways:
        found = edge_between(finder, source, target, IMAGES[:1])
        assert error(found[0], jacobian_norms(network, IMAGES[:1], source, target)) <= TOLERANCE


@pytest.fixture(scope="module", params=["A", "B"])
def residual(request: pytest.FixtureRequest) -> ResidualNetwork:
    torch.manual_seed(0)
    network = ResidualNetwork(3, (4, 6), (2, 2), 3, request.param)
    randomized(network)
    return network


RESIDUAL_IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_every_serial_edge_of_a_residual_network(residual: ResidualNetwork) -> None:
    finder = RouteFinder(classifier_of(residual, (3, 8, 8)))
    expected = ["conv1"]
    expected += [f"layer{s}.{b}.conv{c}" for s in (1, 2) for b in (0, 1) for c in (1, 2)]
    assert list(finder.layers) == expected
    for edge, influence in zip(finder.edges, finder.influences(RESIDUAL_IMAGE), strict=True):
        source, target = (residual.get_submodule(str(node.target)) for node in (edge.edge.source, edge.edge.target))
        assert isinstance(influence, EdgeInfluence)
        assert error(influence.pairs()[0], jacobian_norms(residual, RESIDUAL_IMAGE, source, target)) <= TOLERANCE


def test_every_edge_of_the_residual_graph(residual: ResidualNetwork) -> None:
    """Post-norm nodes; the skip connections reach the input of the ReLU after the addition."""
    finder = RouteFinder(classifier_of(residual, (3, 8, 8)), mode="dag")
    assert not finder.left_out
    sums = {total: f"layer{1 + i // 2}.{i % 2}.relu2" for i, total in enumerate(finder.sums)}
    norms = {"conv1": "bn1"} | {f"{name}.{c}": f"{name}.{n}" for name in ("layer1.0", "layer1.1", "layer2.0", "layer2.1")
                                for c, n in (("conv1", "bn1"), ("conv2", "bn2"), ("shortcut.0", "shortcut.1"))}  # fmt: skip
    seen = 0
    for edge, influence in zip(finder.edges, finder.influences(RESIDUAL_IMAGE), strict=True):
        start, end = edge.edge.source, edge.edge.target
        # A sum and the normalized branch that goes into it have the same derivative onwards.
        source = residual.get_submodule(
            norms[str(finder.sums[start][0].target)] if start in finder.sums else str(start.target)
        )
        if end in sums:
            expected = jacobian_norms(residual, RESIDUAL_IMAGE, source, residual.get_submodule(sums[end]), before=True)
            found = torch.zeros_like(expected)
            for j in range(expected.shape[1]):
                found[:, j] = influence.onto(functional.one_hot(torch.tensor([j]), expected.shape[1]).double())[0]
            assert (expected.count_nonzero(0) <= 1).all(), "a diagonal"
        else:
            target = residual.get_submodule(norms[str(end.target)])
            assert isinstance(influence, EdgeInfluence)
            layer = residual.get_submodule(str(end.target))
            expected = jacobian_norms(residual, RESIDUAL_IMAGE, source, target, layer=layer)
            found = influence.pairs()[0]
        assert error(found, expected) <= TOLERANCE, (edge.edge.source, edge.edge.target)
        seen += 1
    # For each of the four blocks: into conv1, into conv2, and past both (in B once through a convolution, into that one).
    projected = not isinstance(residual.get_submodule("layer2.0.shortcut"), PadShortcut)
    assert seen == 4 + 4 + 4
    assert len(finder.sums) == 4
    assert ("layer2.0.shortcut.0" in finder.layers) == projected


def test_the_sign_before_the_addition_would_be_wrong(residual: ResidualNetwork) -> None:
    """The classic mistake: counting where the branch alone is positive, instead of the sum."""
    last, norm = residual.get_submodule("layer1.0.conv2"), typed(residual.get_submodule("layer1.0.bn2"), nn.BatchNorm2d)
    following = typed(residual.get_submodule("layer1.1.conv1"), nn.Conv2d)
    expected = jacobian_norms(residual, RESIDUAL_IMAGE, last, following)
    kept: list[Tensor] = []
    handle = norm.register_forward_hook(lambda _m, _i, output: kept.append(output))
    residual(RESIDUAL_IMAGE)
    handle.remove()
    scale = (norm.weight / (known(norm.running_var) + norm.eps).sqrt()).abs()

    def with_mask(mask: Tensor) -> Tensor:
        reached = functional.conv_transpose2d(
            torch.ones(1, 4, 8, 8, dtype=torch.float64), following.weight.abs(), padding=1
        )
        return (mask[0] * reached[0]).sum((1, 2)) * scale

    wrong = with_mask((kept[0] > 0).double())
    assert error(wrong, expected.sum(1)) > 0.05
    right = RouteFinder(classifier_of(residual, (3, 8, 8)))
    found = edge_between(right, last, following, RESIDUAL_IMAGE)[0]
    assert error(found.sum(1), expected.sum(1)) <= TOLERANCE


@pytest.mark.parametrize("name", ["overlapping 3/2", "overlapping 3/2/1", "overlapping 3/1/1"])
def test_overlapping_windows_told_apart_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the patterns the taps of one position are added after the absolute value: an upper bound, and too large."""
    network, first, target = sequential(name)
    exact = edge_between(RouteFinder(classifier_of(network)), first, target, IMAGES)
    plain = IntoLayer.finish

    def naive(self: IntoLayer, flow: Flow, value: Tensor) -> EdgeInfluence:
        return plain(self, replace(flow, size=flow.by_window(value), gated=False, won=None), value)

    monkeypatch.setattr(IntoLayer, "finish", naive)
    bound = edge_between(RouteFinder(classifier_of(network)), first, target, IMAGES)
    assert (bound >= exact * (1 - 1e-12)).all()
    assert (bound / exact)[exact > 0].max() > 1.1


def test_nothing_active_before_an_overlapping_pool_is_no_influence() -> None:
    network, first, target = sequential("overlapping 3/2")
    first.weight.data.zero_()
    known(first.bias).data.fill_(-1.0)
    finder = RouteFinder(classifier_of(network))
    assert edge_between(finder, first, target, IMAGES).count_nonzero() == 0
    assert finder(IMAGES, torch.tensor([0, 1])).members[0].sum(1).tolist() == [1, 1]


def test_windows_that_can_hold_a_position() -> None:
    for kernel, stride, padding, dilation in (
        (3, 2, 0, 1),
        (3, 2, 1, 1),
        (3, 1, 1, 1),
        (2, 2, 0, 2),
        (5, 2, 2, 1),
        (2, 2, 0, 1),
    ):
        window = Window((kernel,) * 2, (stride,) * 2, (padding,) * 2, (dilation,) * 2)
        first = window.first(0, torch.arange(12)).tolist()
        for position in range(12):
            holding = [
                q for q in range(-9, 20) for k in range(kernel) if q * stride - padding + k * dilation == position
            ]
            assert all(first[position] <= q < first[position] + window.reach[0] for q in holding)


def test_relu_is_read_off_its_output() -> None:
    """At exactly zero the derivative is 0, as PyTorch has it, and a later addition does not move the gate."""
    layers = [nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 1, 1, bias=False)]
    network = sequence(nn.Sequential(*layers, nn.Flatten(), nn.Tanh(), nn.Linear(4, 3)))
    network[0].weight.data.fill_(1.0)
    network[2].weight.data.fill_(-2.0)
    classifier = Classifier(network, input_shape=(1, 2, 2), num_classes=3)
    (influence,) = RouteFinder(classifier).influences(torch.tensor([0.0, 0.5, 0.25, 0.0]).view(1, 1, 2, 2))
    assert isinstance(influence, EdgeInfluence)
    assert influence.pairs().tolist() == [[[4.0]]]  # two active positions times |-2|
    assert isinstance(RouteFinder(classifier).edges[0].edge.steps[0], ReluRule)


class Gated(nn.Module):
    """Squeeze and excitation: the maps are multiplied by something that depends on them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.second = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Conv2d(4, 5, 3)
        self.third, self.out = nn.Conv2d(5, 5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return self.out(torch.relu(self.third(torch.relu(self.second(x)))).mean((2, 3)))


class Twice(nn.Module):
    """One layer reaches the next by two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 5, 3)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.second(torch.relu(x) + torch.tanh(x))
        return self.out(torch.relu(self.third(torch.relu(x))).mean((2, 3)))


class Doubled(nn.Module):
    """A layer's output is added to itself, once as it is and once before the next layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 5, 3)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.second(torch.relu(x + x))
        return self.out(torch.relu(self.third(torch.relu(x))).mean((2, 3)))


class Branching(nn.Module):
    """Its forward pass looks at the values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3), nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).mean((2, 3)) if x.sum() > 0 else self.second(self.first(-x)).mean((2, 3))


def three(*between: nn.Module, target: nn.Module | None = None) -> nn.Module:
    target = target or nn.Conv2d(4, 5, 3, padding=1)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), *between, target, nn.ReLU(), nn.Conv2d(5, 3, 3))
    return nn.Sequential(*body, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (three(nn.LocalResponseNorm(3)), "LocalResponseNorm is between them"),
        (three(nn.GroupNorm(2, 4)), "GroupNorm is between them"),
        (three(nn.Softmax2d()), "Softmax2d is between them"),
        (three(nn.AvgPool2d(3, 1)), "windows of the average pool overlap"),
        (three(nn.AdaptiveAvgPool2d(4)), "windows of the average pool overlap"),
        (three(nn.AdaptiveMaxPool2d(4)), "overlap unevenly"),
        (
            three(nn.ConvTranspose2d(4, 4, 3), nn.ReLU(), nn.BatchNorm2d(4, track_running_stats=False)),
            "statistics of the batch",
        ),
        (three(nn.MaxPool2d(2, 1), nn.AvgPool2d(2)), "pool with overlapping windows"),
        (three(target=nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect")), "reflect padding"),
        (three(nn.ReflectionPad2d(1)), "ReflectionPad2d is between them"),
        (Gated(), "mul is between them|several ways"),
        (Doubled(), "repeats or scales"),
        (Twice(), "several ways that add up"),
    ],
)
@pytest.mark.parametrize("mode", ["serial", "dag"])
def test_an_edge_without_a_closed_form_is_left_out_and_named(network: nn.Module, reason: str, mode: Mode) -> None:
    finder = RouteFinder(Classifier(network, input_shape=(3, 9, 11), num_classes=3), mode=mode)
    assert len(finder.left_out) >= 1
    assert finder.left_out[-1].startswith("The edge ")
    assert re.search(reason, " ".join(finder.left_out))
    assert len(finder.layers) == 2, "the route begins after it"


def test_a_network_that_looks_at_its_values_is_refused() -> None:
    with pytest.raises(EvaluationError, match="cannot be traced"):
        RouteFinder(Classifier(Branching(), input_shape=(3, 9, 11), num_classes=3))


def test_numbers_of_a_hand_made_edge() -> None:
    """3x3 kernel of ones on a 3x3 map, padding 1, all active: taps reach 4, 6, 4 / 6, 9, 6 / 4, 6, 4 outputs, 49 in all."""
    layers = [nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 1, 3, padding=1, bias=False)]
    network = sequence(nn.Sequential(*layers, nn.Flatten(), nn.Tanh(), nn.Linear(9, 2)))
    for index in (0, 2):
        network[index].weight.data.fill_(1.0)
    (influence,) = RouteFinder(Classifier(network, input_shape=(1, 3, 3), num_classes=2)).influences(
        torch.ones(1, 1, 3, 3)
    )
    assert isinstance(influence, EdgeInfluence)
    assert np.array_equal(influence.taps[0].counts[0, 0].numpy(), [[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    assert influence.pairs().item() == 49
