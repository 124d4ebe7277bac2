"""What every architecture of the catalogue keeps to, whoever adds it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from textwrap import dedent
from typing import Any

import jsonschema
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from auditor.kit.errors import SpecError
from auditor.models.architecture import ARCHITECTURES, Architecture
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.neurons import kind_of, list_layers
from tests.auditor.models.architectures.oracle import unlike_fresh


def built(member: type[Architecture], **settings: int) -> Architecture:
    return ARCHITECTURES.build(member.kind_name(), settings)


members = pytest.mark.parametrize("member", list(ARCHITECTURES), ids=lambda member: member.kind_name())

BORROWED = ("timm", "torchvision", "transformers")
"""The families whose modules are written elsewhere, with inplace and functional activations."""


def on_meta(spec: Architecture) -> nn.Module:
    with torch.device("meta"):
        return spec.build()


@members
def test_builds_without_memory_and_for_real_with_the_same_tensors(member: type[Architecture]) -> None:
    spec = built(member)
    outline, network = on_meta(spec).state_dict(), spec.build().state_dict()
    assert all(tensor.is_meta for tensor in outline.values())
    assert not any(tensor.is_meta for tensor in network.values())
    assert {k: (v.shape, v.dtype) for k, v in outline.items()} == {k: (v.shape, v.dtype) for k, v in network.items()}


@members
def test_two_images_give_two_rows_of_logits(member: type[Architecture]) -> None:
    spec = built(member)
    with torch.no_grad():
        logits = spec.build().eval()(torch.rand(2, *spec.input_shape))
    assert logits.shape == (2, spec.num_classes)
    assert logits.isfinite().all()


@members
def test_takes_other_classes_and_channels(member: type[Architecture]) -> None:
    spec = built(member, num_classes=7, channels=4)
    with torch.device("meta"), torch.no_grad():
        assert spec.build().eval()(torch.rand(2, *spec.input_shape)).shape == (2, 7)


@members
def test_survives_json_and_fits_its_schema(member: type[Architecture]) -> None:
    spec = built(member, num_classes=7, channels=2)
    assert member.model_validate_json(spec.model_dump_json()) == spec
    jsonschema.validate(spec.model_dump(mode="json"), ARCHITECTURES.json_schema())


@members
def test_every_activation_is_a_module_of_its_own(member: type[Architecture]) -> None:
    """Analyses hook layers by module: each is called once per image, and no activation runs outside a module."""
    if member.kind_name() in BORROWED:
        pytest.skip("modules of another library")
    spec = built(member)
    network = spec.build().eval()
    calls: Counter[str] = Counter()
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    with torch.no_grad(), ActivationsSeen() as seen:
        network(torch.rand(2, *spec.input_shape))
    assert set(calls.values()) == {1}
    leaves = {name for name, module in network.named_modules() if not list(module.children())}
    assert leaves <= set(calls)
    activations = [module for module in network.modules() if type(module).__module__ == nn.ReLU.__module__]
    assert seen.count == len(activations) > 0
    assert not any(getattr(module, "inplace", False) for module in network.modules())


@members
def test_layers_are_listed_in_the_order_in_which_they_are_defined(member: type[Architecture]) -> None:
    """Activations above all: a reader of the state dict and a reader of a report see the same order."""
    if member.kind_name() in BORROWED:
        pytest.skip("modules of another library")
    spec = built(member, channels=1, height=28, width=28)
    network = spec.build()
    classifier = Classifier(
        network, input_shape=(1, 28, 28), num_classes=10, normalization=NORMALIZATIONS["half"].for_channels(1)
    )
    listed = [layer.name for layer in list_layers(classifier) if layer.kind == "activation"]
    assert listed == [name for name, module in network.named_modules() if kind_of(module) == "activation"]
    assert sorted(layer.name for layer in list_layers(classifier)) == sorted(
        name for name, module in network.named_modules() if kind_of(module)
    )


@members
def test_gradients_reach_every_weight_and_the_image(member: type[Architecture]) -> None:
    spec = built(member)
    network = unlike_fresh(spec.build())
    x = torch.rand(2, *spec.input_shape, requires_grad=True)
    network(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad.flatten(1) != 0).any(1).all()
    missed = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias that helps to decide which class's weights count, and does nothing else, has no gradient.
    assert [name for name in missed if not name.endswith(".block.fc.bias")] == []


@members
def test_eval_mode_gives_the_same_logits_again_and_alone(member: type[Architecture]) -> None:
    spec = built(member)
    network = unlike_fresh(spec.build())
    x = torch.rand(3, *spec.input_shape)
    with torch.no_grad():
        logits = network(x)
        assert torch.equal(network(x), logits)
        # Float32 rounds differently for another number of images.
        torch.testing.assert_close(network(x[:1]), logits[:1], rtol=0, atol=1e-4 * float(logits.abs().max()))


@members
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)], ids=["28x28x1", "32x32x3"])
def test_the_images_of_mnist_and_cifar_are_never_refused(
    member: type[Architecture], shape: tuple[int, int, int]
) -> None:
    channels, height, width = shape
    with torch.device("meta"), torch.no_grad():
        network = built(member, num_classes=10, channels=channels, height=height, width=width).build().eval()
        assert network(torch.rand(2, *shape)).shape == (2, 10)


ACTIVATIONS = {"relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh", "softplus", "hardtanh", "hardswish"}


class ActivationsSeen(TorchDispatchMode):
    """Counts the activations that PyTorch computes, whoever asks for them."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.__name__.split(".")[0].rstrip("_") in {
            "relu",
            "tanh",
            "sigmoid",
            "clamp_min",
            "gelu",
            "silu",
        }
        return func(*args, **(kwargs or {}))


@members
def test_compact_text_gives_the_numbers_as_numbers(member: type[Architecture]) -> None:
    spec = ARCHITECTURES.parse(f"{member.kind_name()}:num_classes=7")
    assert spec == built(member, num_classes=7)
    assert spec.describe().startswith(member.kind_name())


def test_numbers_to_choose_from_may_come_as_text() -> None:
    assert ARCHITECTURES.parse("vgg:depth=11") == built(ARCHITECTURES["vgg"], depth=11)
    with pytest.raises(SpecError, match="depth: expected 11, 13, 16 or 19, got 12"):
        ARCHITECTURES.parse("vgg:depth=12")


@members
@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 31), (28, 28), (33, 17)])
def test_small_and_odd_images_give_logits_or_a_clear_refusal(
    member: type[Architecture], height: int, width: int
) -> None:
    spec = built(member, height=height, width=width)
    try:
        network = on_meta(spec).eval()
    except SpecError as error:
        refusal = error
    else:
        with torch.device("meta"), torch.no_grad():
            assert network(torch.rand(2, *spec.input_shape)).shape == (2, spec.num_classes)
        return
    assert f"{height}x{width}" in refusal.message
    assert refusal.hint


def test_an_installed_package_adds_an_architecture(tmp_path: Path) -> None:
    (tmp_path / "stranger_nets.py").write_text(
        dedent(
            """
            from typing import Literal
            from torch import nn
            from auditor import Architecture

            class Stranger(Architecture):
                kind: Literal["stranger"] = "stranger"

                def build(self) -> nn.Module:
                    return nn.Sequential(nn.Flatten(), nn.LazyLinear(self.num_classes))
            """
        )
    )
    info = tmp_path / "stranger_nets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-nets\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[auditor.architectures]\nstranger = stranger_nets\n")
    program = (
        "from auditor.models.architecture import ARCHITECTURES as A\n"
        "print(A.parse('stranger:num_classes=3').build()[1].out_features)"
    )
    root = Path(__file__).parents[4]
    paths = os.pathsep.join(map(str, (tmp_path, root)))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["3"]


def test_the_catalogue_is_there_without_torchvision() -> None:
    program = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from auditor.models.architecture import ARCHITECTURES as A\n"
        "A.parse('lenet5').build()\n"
        "try: A.parse('torchvision').build()\n"
        "except Exception as error: print(error)\n"
        "print(len(A.json_schema()['$defs']) >= len(A))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Install torchvision" in done.stdout
    assert done.stdout.split()[-1] == "True"
