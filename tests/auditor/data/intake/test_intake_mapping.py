"""Weights whose names are not the architecture's: what is stored computes what the uploader's own network computes."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils import parametrizations, prune

from auditor.data.intake.correspondence import correspondences
from auditor.data.intake.weights import ModelManifest, load_weights
from auditor.kit.errors import IntakeError
from auditor.models.architecture import ARCHITECTURES, Architecture
from tests.auditor.data.intake.conftest import Door


class Functional(nn.Module):
    """Layers by hand, pooling and ReLU as calls; 3x32x32 to 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2):
            x = torch.max_pool2d(torch.relu(conv(x)), 2)
        x = torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1)))))
        return self.fc3(x)


LAYERS = (
    "nn.Conv2d(3,6,5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6,16,5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), "
    "nn.Linear(400,120), nn.ReLU(), nn.Linear(120,84), nn.ReLU(), nn.Linear(84,10)"
)


def listed(layers: str = LAYERS, **values: Any) -> Architecture:
    return ARCHITECTURES.build("sequential", {"layers": layers} | values)


def written(state: Mapping[str, Tensor], safe: bool = False) -> bytes:
    if safe:
        return save_safetensors({key: value.clone().contiguous() for key, value in state.items()})
    stream = io.BytesIO()
    torch.save(dict(state), stream)
    return stream.getvalue()


def stirred(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, with statistics and factors of its normalizations that are not the defaults."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias)
    return network.eval()


def stored_difference(door: Door, architecture: Architecture, theirs: nn.Module) -> float:
    """The largest difference between logits of the stored network and of the uploader's own, over the largest logit."""
    torch.manual_seed(1)
    x = torch.randn(3, *architecture.input_shape)
    ours = architecture.build()
    load_weights(ours, door.destination)
    with torch.no_grad():
        expected = theirs.eval()(x)
        return float((ours.eval()(x) - expected).abs().max() / expected.abs().max())


def torchvision_resnet(name: str) -> nn.Module:
    models = pytest.importorskip("torchvision").models
    network = models.get_model(name, num_classes=10)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return stirred(network)


@pytest.mark.parametrize("safe", [False, True], ids=["torch", "safetensors"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvisions_resnet_with_a_small_stem_is_ours(door: Door, name: str, safe: bool) -> None:
    """downsample and fc there, shortcut and linear here."""
    torch.manual_seed(0)
    theirs, ours = torchvision_resnet(name), ARCHITECTURES.parse(f"{name}-cifar")
    manifest = door.model(written(theirs.state_dict(), safe), "w.safetensors" if safe else "w.pt", ours)
    assert manifest.mapping["layer2.0.downsample.1.bias"] == "layer2.0.shortcut.1.bias"
    assert manifest.mapping["fc.weight"] == "linear.weight"
    assert len(manifest.mapping) == len(theirs.state_dict())
    assert not manifest.other
    assert "matched by nesting, order and shape: layer" in " ".join(manifest.notes)
    assert "Only the accuracy on a data set proves" in manifest.notes[-1]
    assert stored_difference(door, ours, theirs) == 0


@pytest.mark.parametrize("prefix", ["", "model.", "backbone.", "encoder.net."])
@pytest.mark.parametrize("safe", [False, True], ids=["torch", "safetensors"])
def test_layers_by_hand_are_a_list_of_layers(door: Door, prefix: str, safe: bool) -> None:
    torch.manual_seed(0)
    theirs = Functional()
    state = {f"{prefix}{key}": value for key, value in theirs.state_dict().items()}
    manifest = door.model(written(state, safe), "w.safetensors" if safe else "w.pt", listed())
    assert set(manifest.mapping.values()) == set(listed().build().state_dict())
    assert manifest.mapping[f"{prefix.removeprefix(manifest.prefix)}fc3.weight"] == "11.weight"
    assert "10 of 10 tensors were matched by" in " ".join(manifest.notes)
    assert stored_difference(door, listed(), theirs) == 0


def test_leftovers_are_named(door: Door) -> None:
    theirs = Functional()
    state = {f"model.{key}": value for key, value in theirs.state_dict().items()}
    state |= {
        "criterion.weight": torch.ones(10),
        "total_ops": torch.zeros(1),
        "model.conv1.total_params": torch.zeros(1),
    }
    manifest = door.model(written(state), "w.ckpt", listed())
    (note,) = (note for note in manifest.notes if note.startswith("Left out"))
    assert "'criterion.weight'" in note
    assert "'total_ops'" in note
    assert stored_difference(door, listed(), theirs) == 0


def test_wrappers_within_names_are_taken_out(door: Door) -> None:
    """DataParallel around a part of a network: features.module.0."""
    torch.manual_seed(0)
    theirs = nn.Sequential()
    theirs.add_module("features", nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
    theirs.add_module("classifier", nn.Sequential(nn.Flatten(), nn.Linear(8 * 30 * 30, 10)))
    ours = listed(str(theirs))
    state = {key.replace("features.", "features.module."): value for key, value in theirs.state_dict().items()}
    manifest = door.model(written(state), "w.pt", ours)
    assert manifest.notes == ("Wrappers ('module', '_orig_mod') were taken out of the names.",)
    assert stored_difference(door, ours, theirs) == 0


def pruned(network: nn.Module) -> None:
    for layer in (network.conv2, network.fc2):
        assert isinstance(layer, nn.Module)
        prune.l1_unstructured(layer, "weight", 0.4)
    prune.random_unstructured(network.fc1, "bias", 0.5)


def on_all(function: Callable[..., Any]) -> Callable[[nn.Module], None]:
    def act(network: nn.Module) -> None:
        for layer in list(network.children()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                function(layer)
        with torch.no_grad():  # so that the parts are not those of the first step
            for parameter in network.parameters():
                parameter.mul_(torch.rand_like(parameter) + 0.5)
        network(torch.randn(2, 3, 32, 32))

    return act


ALL = cast(int, None)
"""torch takes None, the norm of the whole tensor, whatever its annotation says."""

FORMS: dict[str, tuple[Callable[[nn.Module], None], str]] = {
    "pruned": (pruned, "pruning"),
    "weight norm, old": (on_all(torch.nn.utils.weight_norm), "weight normalization"),
    "weight norm of all, old": (on_all(lambda layer: torch.nn.utils.weight_norm(layer, dim=ALL)), "weight normalization"),
    "weight norm": (on_all(parametrizations.weight_norm), "weight normalization"),
    "spectral norm, old": (on_all(torch.nn.utils.spectral_norm), "spectral normalization"),
    "spectral norm": (on_all(parametrizations.spectral_norm), "spectral normalization"),
}  # fmt: skip


@pytest.mark.parametrize("names", ["own", "other"])
@pytest.mark.parametrize("form", FORMS)
def test_weights_in_parts_are_put_together(door: Door, form: str, names: str) -> None:
    """Against torch.nn.utils: its own module, in evaluation mode, gives the same logits."""
    torch.manual_seed(0)
    theirs = Functional()
    change, title = FORMS[form]
    change(theirs)
    lenet = {"channels": 3, "height": 32, "width": 32, "pad": False}
    ours = listed() if names == "other" else ARCHITECTURES.build("lenet5", lenet)
    manifest = door.model(written(theirs.state_dict()), "w.pt", ours)
    assert f"put together from the parts of {title}" in manifest.notes[0]
    assert bool(manifest.mapping) == (names == "other")
    assert stored_difference(door, ours, theirs) < 1e-6


def test_the_type_of_parts_is_kept_and_halves_are_put_together_in_float32(door: Door) -> None:
    theirs = Functional()
    FORMS["weight norm"][0](theirs)
    state = {key: value.half() for key, value in theirs.state_dict().items()}
    manifest = door.model(written(state), "w.pt", listed())
    assert any("float16 (10 tensors)" in note for note in manifest.notes)
    assert stored_difference(door, listed(), theirs) < 0.01


def test_parts_that_do_not_go_together_are_refused(door: Door) -> None:
    state = Functional().state_dict()
    wrong = {"conv1.weight_orig": state["conv1.weight"], "conv1.weight_mask": torch.ones(3)}
    rest = {key: value for key, value in state.items() if key != "conv1.weight"}
    door.refuse_model(written(rest | wrong), "unexpected", architecture=listed())


@pytest.mark.parametrize("kind", ["resnet18-cifar", "torchvision:model=resnet18,num_classes=10,height=64,width=64"])
def test_fused_normalization_is_restored_as_the_identity(door: Door, kind: str) -> None:
    """Fused by torch.fx; under the architecture's own names, and under others."""
    torch.manual_seed(0)
    ours = ARCHITECTURES.parse(kind)
    theirs = torchvision_resnet("resnet18") if kind == "resnet18-cifar" else stirred(ours.build())
    fused = fuse(copy.deepcopy(theirs))
    assert not any("running_mean" in key for key in fused.state_dict())
    manifest = door.model(written(fused.state_dict()), "w.pt", ours)
    assert "fused into the layers before it, in 20 places" in " ".join(manifest.notes)
    assert stored_difference(door, ours, theirs) < 1e-5


def test_a_network_that_is_fused_in_part(door: Door, state: dict[str, Tensor]) -> None:
    """One of two normalizations; by the formula of fusion in float64."""
    torch.manual_seed(0)
    layers = (
        "nn.Conv2d(3,4,3,bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4,5,3), nn.BatchNorm2d(5), nn.ReLU(), "
    )
    ours = listed(layers + "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 10)")
    theirs = stirred(ours.build())
    content = dict(theirs.state_dict())
    mean, var, factor, shift = (
        content.pop(f"4.{k}").double() for k in ("running_mean", "running_var", "weight", "bias")
    )
    del content["4.num_batches_tracked"]
    scale = factor / (var + 1e-5).sqrt()
    content["3.bias"] = ((content["3.bias"].double() - mean) * scale + shift).float()
    content["3.weight"] = (content["3.weight"].double() * scale[:, None, None, None]).float()
    manifest = door.model(written(content), "w.pt", ours)
    assert "in 1 place:" in manifest.notes[0]
    assert stored_difference(door, ours, theirs) < 1e-5


TWINS = "nn.Flatten(), nn.Linear(192,16), nn.ReLU(), nn.Linear(16,16), nn.ReLU(), nn.Linear(16,16), nn.ReLU(), nn.Linear(16,10)"


class Swapped(nn.Module):
    """Two layers of the same shape, of which the second is defined first."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(192, 16)
        self.fc3, self.fc2 = nn.Linear(16, 16), nn.Linear(16, 16)
        self.fc4 = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in (self.fc1, self.fc2, self.fc3):
            x = torch.relu(layer(x))
        return self.fc4(x)


def test_two_ways_are_said_and_either_can_be_had(door: Door) -> None:
    torch.manual_seed(0)
    theirs, ours = Swapped(), listed(TWINS, height=8, width=8)
    content = written(theirs.state_dict())
    first = door.model(content, "w.pt", ours)
    assert first.mapping["fc3.weight"] == "3.weight"  # the order of the file
    assert first.other == {"3.weight": "5.weight", "3.bias": "5.bias", "5.weight": "3.weight", "5.bias": "3.bias"}
    assert "The shapes fit in a second way as well" in " ".join(first.notes)
    assert stored_difference(door, ours, theirs) > 0.01
    before = door.tensors()
    second = door.model(content, "w.pt", ours, second=True)  # the numbers in the names
    assert second.mapping["fc3.weight"] == "5.weight"
    assert stored_difference(door, ours, theirs) == 0
    after = door.tensors()
    assert all(torch.equal(after[key], before[first.other.get(key, key)]) for key in before)


def test_without_an_order_in_the_file_or_its_names_both_ways_are_offered(door: Door) -> None:
    state = Swapped().state_dict()
    names = {"fc1": "entry", "fc2": "upper", "fc3": "lower", "fc4": "exit"}
    renamed = {f"{names[key.partition('.')[0]]}.{key.partition('.')[2]}": value for key, value in state.items()}
    manifest = door.model(written(renamed, safe=True), "w.safetensors", listed(TWINS, height=8, width=8))
    assert manifest.other.keys() == {"3.weight", "3.bias", "5.weight", "5.bias"}


def test_other_shapes_are_still_refused(door: Door) -> None:
    state = Functional().state_dict()
    state["fc2.weight"] = torch.zeros(85, 120)
    door.refuse_model(written(state), "10 missing", "10 unexpected", architecture=listed())


def test_a_shortcut_that_is_defined_first_keeps_its_normalization() -> None:
    """conv, norm and shortcut of a block: norms have the same shapes, and only the nesting tells them apart."""
    expected = {
        "0.conv.weight": (8, 4, 3, 3), "0.norm.weight": (8,), "0.norm.bias": (8,), "0.short.0.weight": (8, 4, 1, 1),
        "0.short.1.weight": (8,), "0.short.1.bias": (8,),
    }  # fmt: skip
    found = {
        "b.down.0.weight": (8, 4, 1, 1), "b.down.1.weight": (8,), "b.down.1.bias": (8,), "b.c.weight": (8, 4, 3, 3),
        "b.n.weight": (8,), "b.n.bias": (8,),
    }  # fmt: skip
    (way,) = correspondences(found, expected, ordered=True)
    assert way.names["b.n.weight"] == "0.norm.weight"
    assert way.names["b.down.1.weight"] == "0.short.1.weight"


def test_names_nested_deeply_cost_nothing(door: Door) -> None:
    state = Functional().state_dict()
    deep = {f"{'a.' * 20_000}{key}": value for key, value in state.items()}
    with pytest.raises(IntakeError):
        door.model(written(deep | {"x.weight": torch.zeros(3, 3)}), "w.pt", listed())


def test_where_names_fit_nothing_is_mapped(door: Door, state: dict[str, Tensor]) -> None:
    manifest: ModelManifest = door.model(written(state))
    assert (manifest.mapping, manifest.other, manifest.notes) == ({}, {}, ())
