"""torchvision's classifiers: every name, the same state dict as torchvision's own builder, clear refusals."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auditor.kit.errors import SpecError
from auditor.models.architecture import ARCHITECTURES, check_images
from auditor.models.architectures.torchvision_models import TorchvisionModel, model_names

models = pytest.importorskip("torchvision.models")
WITH_AUXILIARY_HEADS = {"inception_v3", "googlenet"}


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def pretrained_form(name: str) -> nn.Module:
    """What torchvision builds for its own pretrained weights."""
    options: dict[str, Any] = {"aux_logits": True, "init_weights": False} if name in WITH_AUXILIARY_HEADS else {}
    network: nn.Module = models.get_model(name, weights=None, **options)
    return network


def test_the_schema_offers_every_classifier() -> None:
    offered = TorchvisionModel.model_json_schema()["properties"]["model"]["enum"]
    assert offered == models.list_models(module=models)
    assert len(offered) >= 80


def every_name() -> Iterator[Any]:
    """All names; beyond two of a family (a source file of torchvision) they count as slow."""
    seen: Counter[str] = Counter()
    for name in model_names():
        family = models.get_model_builder(name).__module__
        seen[family] += 1
        yield pytest.param(name, marks=[pytest.mark.slow] if seen[family] > 2 else [])


@pytest.mark.parametrize("name", list(every_name()))
def test_every_name_builds_without_memory_as_torchvision_does(name: str) -> None:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("error")
        network = TorchvisionModel(model=name).build()
        assert all(tensor.is_meta for tensor in network.state_dict().values())
        # RegNet reads small tensors back while it is built, so torchvision alone cannot build it on meta.
        if not name.startswith("regnet"):
            assert shapes(network) == shapes(pretrained_form(name))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_random_weights_are_those_of_torchvision(name: str) -> None:
    """The outline on the meta device draws nothing: the same seed gives the same weights, and the same number afterwards."""
    drawn = []
    for build in (TorchvisionModel(model=name, num_classes=1000).build, models.get_model_builder(name)):
        torch.manual_seed(5)
        drawn.append((build().state_dict(), torch.rand(1)))
    (ours, next_ours), (theirs, next_theirs) = drawn
    assert all(torch.equal(ours[key], theirs[key]) for key in ours.keys() | theirs.keys())
    assert torch.equal(next_ours, next_theirs)


def test_regnet_on_meta_is_the_regnet_of_torchvision() -> None:
    with torch.device("meta"):
        network = TorchvisionModel(model="regnet_y_400mf").build()
    assert shapes(network) == shapes(models.regnet_y_400mf())


@pytest.mark.parametrize(
    "name",
    [
        *("squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_x_400mf", "googlenet"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("densenet121", "swin_t", "efficientnet_b0")),
    ],
)
def test_small_families_run_for_real_on_grey_images(name: str) -> None:
    spec = TorchvisionModel(model=name, num_classes=7, channels=1, height=32, width=32)
    with torch.no_grad():
        assert spec.build().eval()(torch.rand(2, 1, 32, 32)).shape == (2, 7)


def test_a_vision_transformer_takes_the_declared_size() -> None:
    with torch.device("meta"), torch.no_grad():
        spec = TorchvisionModel(model="vit_b_32", num_classes=7, height=64, width=64)
        network = spec.build().eval()
        # Four patches of 32x32 and the class token.
        assert network.state_dict()["encoder.pos_embedding"].shape == (1, 5, 768)
        assert network(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_only_the_first_convolution_changes_with_the_channels() -> None:
    with torch.device("meta"):
        grey, colour = (shapes(TorchvisionModel(model="resnet18", channels=n).build()) for n in (1, 3))
    assert {name for name in colour if grey[name] != colour[name]} == {"conv1.weight"}
    assert grey["conv1.weight"] == (64, 1, 7, 7)


def test_the_same_function_as_torchvisions() -> None:
    theirs = models.resnet18(num_classes=7).eval()
    ours = TorchvisionModel(num_classes=7).build().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("name", sorted(WITH_AUXILIARY_HEADS))
def test_input_is_transformed_as_for_torchvisions_weights(name: str) -> None:
    with torch.device("meta"):
        spec = TorchvisionModel(model=name)
        assert spec.build().transform_input
        assert not spec.model_copy(update={"transform_input": False}).build().transform_input
        assert not spec.model_copy(update={"channels": 1}).build().transform_input


def test_an_unknown_name_is_refused_with_the_closest() -> None:
    with pytest.raises(SpecError, match=r"no classifier 'resnet81' \(close to it: .*resnet18"):
        ARCHITECTURES.parse("torchvision:model=resnet81")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": "vgg16", "height": 28, "width": 28}, "cannot take images of 28x28 pixels"),
        ({"model": "inception_v3", "height": 74, "width": 74}, "cannot take images of 74x74 pixels"),
        ({"model": "vit_b_16", "height": 100, "width": 100}, "indivisible by patch size"),
        ({"model": "vit_b_16", "height": 224, "width": 256}, "square images, got 224x256"),
        ({"model": "maxvit_t", "height": 100, "width": 100}, "not divisible by partition size"),
    ],
)
def test_sizes_that_make_no_network_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        TorchvisionModel(**settings).build()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121", "googlenet", "convnext_tiny"])
def test_shapes_are_checked_as_the_network_itself_makes_them(name: str) -> None:
    """Without its batch normalizations, which change none, and with them."""
    with torch.device("meta"):
        network = pretrained_form(name)
    made: list[tuple[int, ...]] = []

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            made.append(tuple(output.shape))

    for module in network.modules():
        module.register_forward_hook(note)
    check_images(network, TorchvisionModel(model=name, height=64, width=96), name)
    seen = made.copy()
    made.clear()
    network(torch.empty(2, 3, 64, 96, device="meta"))
    assert seen == made
    assert len(seen) > 50
