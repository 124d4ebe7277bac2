"""Networks written as a list of layers: PyTorch's names and shapes, networks trained by others, and hostile text."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from auditor.kit.errors import SpecError
from auditor.models.architecture import ARCHITECTURES
from auditor.models.architectures.sequential import MAX_PARAMETERS, Sequential
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.layers.notation import parse_layers
from auditor.models.layers.specs import LAYERS
from tests.narrow import sequence

CNN_A = (
    "nn.Sequential(nn.Conv2d(3, 16, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), "
    "nn.Flatten(), nn.Linear(32 * 8 * 8, 100), nn.ReLU(), nn.Linear(100, 10))"
)
FASHION = CNN_A.replace("Conv2d(3,", "Conv2d(1,").replace("32 * 8 * 8", "1568")
MNIST_CNN = [
    {"type": "conv", "out_channels": 20, "kernel_size": 5, "name": "conv1"},
    {"type": "relu"},
    {"type": "max_pool", "kernel_size": 2},
    {"type": "conv", "out_channels": 50, "kernel_size": [5, 5], "name": "conv2"},
    {"type": "relu"},
    {"type": "max_pool", "kernel_size": 2},
    {"type": "flatten"},
    {"type": "linear", "out_features": 500, "name": "fc1"},
    {"type": "relu"},
    {"type": "linear", "out_features": 10, "name": "fc2"},
]

EVERY_LAYER = nn.Sequential(
    nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect", bias=False),
    nn.BatchNorm2d(4, eps=1e-3),
    nn.GroupNorm(2, 4),
    nn.LayerNorm((4, 32, 32)),
    nn.Conv2d(4, 8, (3, 5), stride=(1, 2), padding=(2, 1), dilation=2, groups=2),
    nn.ReLU(),
    nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
    nn.LeakyReLU(0.1),
    nn.AvgPool2d((2, 3), stride=1, padding=1, count_include_pad=False),
    nn.ELU(0.5),
    nn.GELU(approximate="tanh"),
    nn.SiLU(),
    nn.AdaptiveAvgPool2d((2, 3)),
    nn.Dropout2d(0.2),
    nn.Flatten(),
    nn.BatchNorm1d(48),
    nn.Sigmoid(),
    nn.Linear(48, 20, bias=False),
    nn.Tanh(),
    nn.LayerNorm(20),
    nn.Softplus(beta=2),
    nn.Dropout(0.5),
    nn.Identity(),
    nn.Linear(20, 10),
)


def refusal(layers: Any, **settings: Any) -> str:
    """The sentence with which the layers are refused, as a user sees it."""
    with pytest.raises(SpecError) as caught:
        ARCHITECTURES.build("sequential", {"layers": layers, **settings}).build()
    return str(caught.value)


def test_what_pytorch_prints_is_read_back_as_the_same_network() -> None:
    network = sequence(Sequential(layers=str(EVERY_LAYER)).build())
    assert [type(module) for module in network] == [type(module) for module in EVERY_LAYER]
    assert {t.type for t in Sequential(layers=str(EVERY_LAYER)).layers} == set(LAYERS)
    network.load_state_dict(EVERY_LAYER.state_dict())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        # PyTorch does not print count_include_pad of AvgPool2d, so this compares what comes before it.
        assert torch.equal(network.eval()[:8](x), EVERY_LAYER.eval()[:8](x))


def test_code_and_json_give_the_same_function_as_pytorch() -> None:
    code = """
    model = nn.Sequential(  # as in a notebook
        nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect", bias=False), nn.BatchNorm2d(4, eps=1e-3),
        nn.GroupNorm(2, 4), nn.LayerNorm((4, 32, 32)),
        nn.Conv2d(4, 8, (3, 5), stride=(1, 2), padding=(2, 1), dilation=2, groups=2), nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), torch.nn.LeakyReLU(0.1),
        nn.AvgPool2d((2, 3), stride=1, padding=1, count_include_pad=False), nn.ELU(0.5), nn.GELU(approximate="tanh"),
        nn.SiLU(), nn.AdaptiveAvgPool2d((2, 3)), nn.Dropout2d(0.2), nn.Flatten(), nn.BatchNorm1d(48), nn.Sigmoid(),
        nn.Linear(48, 20, bias=False), Tanh(), nn.LayerNorm(20), nn.Softplus(beta=2), nn.Dropout(0.5), nn.Identity(),
        nn.Linear(20, 10),
    )
    """
    from_code = Sequential(layers=code)
    from_json = Sequential(layers=json.dumps(from_code.model_dump(mode="json")["layers"]))
    assert from_json == from_code == Sequential.model_validate_json(from_code.model_dump_json())
    network = from_json.build().eval()
    network.load_state_dict(EVERY_LAYER.state_dict())
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(x), EVERY_LAYER.eval()(x))
    assert not any(getattr(module, "inplace", False) for module in network.children())


@pytest.mark.parametrize(
    "text",
    [
        "nn.Flatten(), nn.Linear(3072, 10)",
        "nn.Flatten(),\nnn.Linear(3072, 10),\n",
        "[nn.Flatten(), nn.Linear(in_features=3072, out_features=10)]",
        "self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10, bias=True))",
        '[{"type": "flatten"}, {"type": "linear"}]',
        "(0): Flatten(start_dim=1, end_dim=-1)\n(1): Linear(in_features=3072, out_features=10, bias=True)",
    ],
)
def test_ways_to_write_one_network(text: str) -> None:
    network = Sequential(layers=text).build()
    assert {name: tuple(t.shape) for name, t in network.state_dict().items()} == {
        "1.weight": (10, 3072),
        "1.bias": (10,),
    }


def test_an_argument_named_once_stays_where_it_is() -> None:
    """A first ``padding=1`` is no assignment to a variable."""
    (layer,) = parse_layers("nn.Conv2d(3, 16, 3, padding=1)")
    assert layer == {"type": "conv", "in_channels": 3, "out_channels": 16, "kernel_size": 3, "padding": 1}


def test_printed_names_are_kept() -> None:
    text = "Sequential(\n  (conv1): Conv2d(3, 2, kernel_size=(32, 32), stride=(1, 1))\n  (1): Flatten()\n  (fc): Linear(2, 10)\n)"
    assert list(Sequential(layers=text).build().state_dict()) == ["conv1.weight", "conv1.bias", "fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("file", "layers", "data", "shape", "normalization", "published"),
    [
        ("cnn-a-adversarially-trained.pt", CNN_A, "cifar10-test", (3, 32, 32), "cifar10-loose", 0.63),
        ("fashion-certified-0.1.pth", FASHION, "fashion-mnist-test", (1, 28, 28), "none", 0.80),
        ("mnist-cnn-plain.pt", MNIST_CNN, "mnist-test", (1, 28, 28), "none", 0.987),
        ("mnist-cnn-fgsm-trained.pt", MNIST_CNN, "mnist-test", (1, 28, 28), "none", 0.971),
        ("mnist-cnn-pgd-trained.pt", MNIST_CNN, "mnist-test", (1, 28, 28), "none", 0.986),
        ("mnist-cnn-trades-trained.pt", MNIST_CNN, "mnist-test", (1, 28, 28), "none", 0.983),
    ],
)
def test_networks_trained_by_others_load_strictly_and_keep_their_accuracy(
    shared: Path,
    file: str,
    layers: Any,
    data: str,
    shape: tuple[int, int, int],
    normalization: str,
    published: float,
) -> None:
    channels, height, width = shape
    network = Sequential(layers=layers, channels=channels, height=height, width=width).build()
    network.load_state_dict(torch.load(shared / "weights" / file, weights_only=True, map_location="cpu"))
    classifier = Classifier(network, input_shape=shape, num_classes=10, normalization=NORMALIZATIONS[normalization])
    with np.load(shared / "data" / f"{data}.npz") as arrays:
        images = torch.from_numpy(arrays["images"][:2000]).reshape(2000, height, width, channels)
        labels = torch.from_numpy(arrays["labels"][:2000])
    predicted = classifier.logits(images.permute(0, 3, 1, 2) / 255).argmax(1)
    # Two standard errors of the published number, which others measured on as few as 256 images.
    tolerance = 2 * (published * (1 - published) / 256) ** 0.5
    assert (predicted == labels).float().mean().item() == pytest.approx(published, abs=tolerance)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ("nn.Linear(3072, 10)", "layer 0 (linear), where 3x32x32 comes in: it takes a flat vector; put a flatten"),
        ("nn.Flatten(), nn.Linear(100, 10)", "layer 1 (linear), where 3072 comes in: in_features is 100, but 3072"),
        (
            "nn.Flatten(), nn.Linear(3072, 9)",
            "layer 1 (linear), where 3072 comes in: it gives 9, but the last layer must",
        ),
        ("nn.ReLU(), nn.Conv2d(1, 8, 3)", "layer 1 (conv), where 3x32x32 comes in: in_channels is 1, but 3 channels"),
        ("nn.Conv2d(3, 8, 33)", "layer 0 (conv), where 3x32x32 comes in: its kernel covers 33x33 pixels, but"),
        ("nn.Conv2d(3, 8, 3, groups=2)", "groups is 2, which must divide both 3 channels in and 8 out"),
        ("nn.Conv2d(3, 8, 3, stride=2, padding='same')", 'padding "same" needs stride 1'),
        ("nn.GroupNorm(2, 3)", "num_groups is 2, which does not divide 3 channels"),
        ("nn.BatchNorm2d(16)", "num_features is 16, but 3 channels come in"),
        ("nn.LayerNorm(31)", "normalized_shape is 31, which are not the last dimensions"),
        ("nn.Flatten(), nn.MaxPool2d(2)", "layer 1 (max_pool), where 3072 comes in: it takes an image"),
        ("nn.MaxPool2d(40)", "its window covers 40x40 pixels"),
        ("nn.AvgPool2d(2, padding=2)", "padding 2x2 is more than half of the window 2x2"),
        ([{"type": "flatten", "name": "x"}, {"type": "linear", "name": "x"}], "layer 1 (linear): an earlier layer"),
        ([{"type": "flatten", "name": "forward"}], "PyTorch keeps the name 'forward' for itself"),
        ([{"type": "flatten", "name": "a..b"}], "layers.0.flatten.name"),
        (
            [{"type": "conv", "out_channels": 8, "kernel_size": [1, 2, 3]}],
            "layers.0.conv.kernel_size: expected a whole",
        ),
        ([{"type": "conv", "out_channels": 8, "kernel_size": True}], "layers.0.conv.kernel_size: expected a whole"),
        ([{"type": "conv", "out_channels": 8, "kernel_size": 0}], "expected numbers from 1 to 1024, got 0"),
        ([{"type": "lstm"}], "layers.0: expected a layer with a type out of conv, linear, "),
        ([{"type": ["conv"]}], "expected a layer with a type out of"),
        ([3], "expected a layer with a type out of"),
        ([], "expected at least one layer, got none"),
        ("[]", "expected at least one layer, got none"),
        ("", "expected at least one layer"),
        ("nn.Sequential()", "expected at least one layer"),
        ('{"type": "relu"}', "expected a JSON list of layers"),
        ('[{"type": "relu"', "expected a JSON list of layers (Expecting"),
        ("nn.Flatten(), nn.Softmax(dim=1)", "layer 1: Softmax is no layer known here (leave it out: the network must"),
        ("nn.Flatten(2)", "layer 0 (Flatten): start_dim=2 is not possible here, only start_dim=1"),
        ("nn.BatchNorm2d(3, track_running_stats=False)", "track_running_stats=False is not possible here"),
        ("nn.Conv2d(3)", "layer 0 (Conv2d): missing a required argument: 'out_channels'"),
        ("nn.Sigmoid(3)", "layer 0 (Sigmoid): it takes no arguments"),
        ("nn.ReLU", "layer 0: expected a call such as nn.ReLU(), got nn.ReLU"),
        (
            "nn.Sequential(nn.ReLU(), nn.Sequential(a=nn.ReLU()))",
            "layer 1: expected the layers of a Sequential one by one",
        ),
        ("nn.Sequential(" * 9 + ")" * 9, "nested at most 8 deep"),
        ("nn.Sequential(nn.Sequential())", "expected at least one layer"),
        ("Net(\n  (conv1): Conv2d(3, 8, 3)\n)", "it gives 8x30x30, but the last layer must give 10 logits"),
        ("nn.ReLU(),\nnn.ReLU(", "the text cannot be read"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(layers: Any, said: str) -> None:
    assert said in refusal(layers)


def test_limits_are_kept_before_anything_is_allocated() -> None:
    start = time.perf_counter()
    assert f"at most {MAX_PARAMETERS:,}" in refusal("nn.Flatten(), nn.Linear(3072, 100000)")
    assert f"at most {MAX_PARAMETERS:,}" in refusal("nn.Flatten(), nn.Linear(3072, 40000), nn.Linear(40000, 2500)")
    assert "values per image" in refusal("nn.Conv2d(3, 100000, 1)")
    assert "values per image" in refusal("nn.Conv2d(3, 1000, 1), nn.AdaptiveAvgPool2d(1000)")
    assert "less than or equal to 100000000" in refusal("nn.Flatten(), nn.Linear(3072, 10 * 1000000000)")
    assert "at most 200 items" in refusal("nn.ReLU()," * 201)
    assert "at most 50000 characters" in refusal("nn.ReLU()," * 10_000)
    huge = [{"type": "conv", "out_channels": 10**8, "kernel_size": 1024, "padding": 64}] * 3
    assert "layer 0 (conv)" in refusal(huge, height=1024, width=1024)
    assert time.perf_counter() - start < 5


def test_just_within_the_limit_is_a_network() -> None:
    # 3,072 x 65,000 + 65,000 + 65,000 x 2 + 2 = 199,875,002 weights.
    with torch.device("meta"):
        Sequential(layers="nn.Flatten(), nn.Linear(3072, 65000), nn.Linear(65000, 2)", num_classes=2).build()
        assert Sequential(layers="nn.ReLU()," * 198 + "nn.Flatten(), nn.Linear(3072, 10)").build()


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {marker}')",
        "nn.Conv2d(3, 16, open('{marker}', 'w'))",
        "nn.Conv2d(3, 16, (lambda: open('{marker}', 'w'))())",
        "[open('{marker}', 'w') for _ in (1,)]",
        'nn.ReLU(), exec(\'open("{marker}", "w")\')',
        "nn.Linear.__init__.__globals__['os']()",
        "nn.Sequential(*[nn.ReLU()] * 10**9)",
        "nn.Linear(10 ** 10 ** 10, 10)",
        "nn.Linear(9999999999 * 9999999999 * 9999999999, 10)",
        "nn.Linear('a' * 10000000000, 10)",
        "nn.Linear(1 // 0, 10)",
        "nn.Linear(**{'in_features': 3})",
        "nn.Linear(" + "9" * 6000 + ", 10)",
        "nn.Linear(1e999, 10)",
        "(" * 20_000,
        "[" * 20_000,
        '[{"type": ' * 4000,
        "-" * 40_000 + "1",
        "not " * 10_000 + "1",
        "a." * 20_000 + "b",
        "1+" * 20_000 + "1",
        "f" + "()" * 20_000,
        "f(" * 150 + ")" * 150,
        "nn.Linear(" + "1+" * 950 + "1)",
        "nn.Linear(" + "-" * 1000 + "1)",
        "lambda: " * 5000 + "1",
        "x if y else " * 4000 + "1",
        "\0",
        "\ud800",
        "nn.ReLU()\n\f;import os",
        "(0): ReLU(), ReLU()",
        "(0): " + "(" * 20_000,
    ],
)
def test_hostile_text_is_refused_and_never_run(text: str, tmp_path: Path) -> None:
    marker = tmp_path / "was-here"
    start = time.perf_counter()
    assert len(refusal(text.replace("{marker}", str(marker)))) < 1500
    assert time.perf_counter() - start < 5
    assert not marker.exists()


PIECES = [
    *("nn.", "Conv2d", "Linear", "ReLU", "Sequential", "Flatten", "(", ")", "[", "]", "{", "}", ",", ":", "=", "*"),
    *("**", "-", "3", "16", "0", "1.5", "'same'", '"', '"type"', "\n", "(0): ", " "),
]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ValidationError, SpecError):
        assert isinstance(Sequential(layers=text).build(), nn.Sequential)


SMALL = st.integers(1, 4)
WINDOW = {"kernel_size": SMALL, "stride": SMALL, "padding": st.integers(0, 2)}
LAYER_WITH_A_WINDOW = st.one_of(
    st.tuples(
        st.just(nn.Conv2d),
        st.fixed_dictionaries({"in_channels": st.just(3), "out_channels": SMALL, "dilation": SMALL, **WINDOW}),
    ),
    st.tuples(st.just(nn.MaxPool2d), st.fixed_dictionaries({"dilation": SMALL, "ceil_mode": st.booleans(), **WINDOW})),
    st.tuples(
        st.just(nn.AvgPool2d),
        st.fixed_dictionaries({"ceil_mode": st.booleans(), "count_include_pad": st.booleans(), **WINDOW}),
    ),
    st.tuples(st.just(nn.AdaptiveAvgPool2d), st.fixed_dictionaries({"output_size": SMALL})),
)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_tracked_shapes_are_those_of_pytorch(data: st.DataObject) -> None:
    """Whatever is accepted runs, and whatever PyTorch runs is accepted."""
    module, arguments = data.draw(LAYER_WITH_A_WINDOW)
    made: Callable[..., nn.Module] = module
    layer = made(**arguments)
    height, width = data.draw(st.tuples(st.integers(4, 9), st.integers(4, 9)))
    try:
        with torch.no_grad():
            values = layer(torch.rand(1, 3, height, width)).numel()
    except RuntimeError:
        values = None
    written = ", ".join(f"{name}={value}" for name, value in arguments.items())
    text = f"nn.{module.__name__}({written}), nn.Flatten(), nn.Linear({values or 1}, 10)"
    spec = Sequential(layers=text, height=height, width=width)
    if values is None:
        with pytest.raises(SpecError, match="layer 0"):
            spec.build()
    else:
        assert spec.build()(torch.rand(2, 3, height, width)).shape == (2, 10)


class Mine(nn.Module):
    """As people write it: parts as Sequentials, the rest by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Sequential(nn.Conv2d(8, 4, 3))
        )
        self.act = nn.Tanh()
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(4 * 12 * 12, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.act(self.features(x)))


GREY = {"channels": 1, "height": 28, "width": 28}


def test_what_print_shows_of_a_module_of_ones_own_is_the_same_network() -> None:
    network = Mine().eval()
    built = Sequential(layers=str(network), **GREY).build().eval()
    built.load_state_dict(network.state_dict())  # strictly: features.0.weight, features.3.0.weight, classifier.1.weight
    x = torch.rand(3, 1, 28, 28)
    assert torch.equal(built(x), network(x))
    again = Sequential.model_validate_json(Sequential(layers=str(network), **GREY).model_dump_json())
    assert list(again.build().state_dict()) == list(network.state_dict())


def test_sequentials_within_a_sequential_are_named_as_pytorch_names_them() -> None:
    code = (
        "nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(3072, 20)), nn.Tanh(), nn.Sequential(nn.Linear(20, 10)))"
    )
    first = nn.Sequential(nn.Flatten(), nn.Linear(3072, 20))
    network = nn.Sequential(first, nn.Tanh(), nn.Sequential(nn.Linear(20, 10)))
    for text in (code, str(network)):
        built = Sequential(layers=text).build()
        built.load_state_dict(network.state_dict())
        x = torch.rand(2, 3, 32, 32)
        assert torch.equal(built(x), network(x))
        assert [name for name, _ in built.named_modules()] == [name for name, _ in network.named_modules()]


FUNCTIONAL = """MyNet(
  (conv1): Conv2d(1, 20, kernel_size=(5, 5), stride=(1, 1))
  (conv2): Conv2d(20, 50, kernel_size=(5, 5), stride=(1, 1))
  (fc1): Linear(in_features=800, out_features=500, bias=True)
  (fc2): Linear(in_features=500, out_features=10, bias=True)
)"""


def test_calls_that_print_does_not_show_are_asked_for_and_can_be_added() -> None:
    text = refusal(FUNCTIONAL, **GREY)
    assert "there is no activation between conv1 and conv2" in text
    assert "print(model) shows the modules of MyNet, but not what its forward calls between them" in text
    lines = FUNCTIONAL.splitlines()
    added = "\n".join(
        [
            *lines[:2],
            "ReLU()",
            "MaxPool2d(2)",
            lines[2],
            "nn.ReLU(),",
            "nn.MaxPool2d(2),",
            "Flatten()",
            lines[3],
            "ReLU()",
            *lines[4:],
        ]
    )
    built = sequence(Sequential(layers=added, **GREY).build())
    assert list(built.state_dict()) == [
        f"{name}.{part}" for name in ("conv1", "conv2", "fc1", "fc2") for part in ("weight", "bias")
    ]
    assert [type(layer).__name__ for layer in built].count("ReLU") == 3
    linear = (
        "Net(\n  (a): Flatten()\n  (b): Linear(in_features=784, out_features=5)\n  Identity()\n  (c): Linear(5, 10)\n)"
    )
    assert len(sequence(Sequential(layers=linear, **GREY).build())) == 4, (
        "two linear layers in a row, where somebody means them"
    )


def test_a_block_of_ones_own_is_not_taken_for_its_lines() -> None:
    text = "Net(\n  (0): Block(\n    (conv): Conv2d(1, 8, 3)\n  )\n)"
    assert "is a module of its own, and what it does between its lines (a sum, say) is not printed" in refusal(
        text, **GREY
    )


def test_images_of_another_size_say_how_to_declare_them() -> None:
    for layers in ("nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(6272, 10)", "nn.Flatten(), nn.Linear(784, 10)"):
        assert "--input 1x28x28" in refusal(layers)
    assert len(sequence(Sequential(layers="nn.Flatten(), nn.Linear(784, 10)", **GREY).build())) == 2


def test_an_end_that_does_not_give_the_classes_says_what_to_do() -> None:
    layers = "nn.Flatten(), nn.Linear(784, 4)"
    said = refusal(layers, **GREY)
    assert "it gives 4, but the last layer must give 10 logits. If the model has 4 classes, declare them" in said
    assert "(--num-classes 4)" in said
    assert "num_classes=4" in said
    assert ARCHITECTURES.build("sequential", {"layers": layers, "num_classes": 4, **GREY}).num_classes == 4
    for layers in ("nn.Conv2d(1, 8, 3)", "nn.Flatten(), nn.Linear(784, 1)", "nn.Flatten()"):
        remedy = refusal(layers, **GREY).partition("the layers that are missing at the end, such as ")[2]
        network = Sequential(layers=f"{layers}, {remedy.rstrip('.')}", **GREY).build()
        assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a.0", "b", "a.1"), "the layers of 'a' must follow one another"),
        (("a.0.x", "a.1", "a.0.y"), "the layers of 'a.0' must follow one another"),
        (("a", "a.0", "b"), "an earlier layer is named 'a'"),
        (("a.training", "b", "c"), "PyTorch keeps the name 'training'"),
    ],
)
def test_dotted_names_that_make_no_nesting(names: tuple[str, ...], said: str) -> None:
    layers = [{"type": "flatten"}, {"type": "relu"}, {"type": "linear"}]
    assert said in refusal([layer | {"name": name} for layer, name in zip(layers, names, strict=True)])


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("resnet44", "Did you mean resnet-cifar:depth=44?"),
        ("resnet_56", "Did you mean resnet-cifar:depth=56?"),
        ("vgg16", "Did you mean vgg:depth=16?"),
        ("lenet-5", "Did you mean lenet5?"),
        ("sequentail", "Did you mean sequential?"),
        ("resnet-cifar:deph=44", "Did you mean depth for deph?"),
        ("resnet-cifar:xyz=1", "Its parameters: num_classes, channels, height, width, depth, shortcut."),
    ],
)
def test_near_misses_are_named(text: str, meant: str) -> None:
    with pytest.raises(SpecError) as caught:
        ARCHITECTURES.parse(text)
    assert meant in str(caught.value)
    if ":" in meant and meant.startswith("Did"):
        ARCHITECTURES.parse(meant.removeprefix("Did you mean ").removesuffix("?"))
