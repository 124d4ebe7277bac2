"""Inspecting a file of weights: its architecture, from names and shapes alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.utils import prune

from auditor.data.intake.inspection import Inspection, inspect
from auditor.data.intake.signatures import INDEX, index, made, shapes_of, signature, weighty
from auditor.data.intake.solving import from_data
from auditor.data.intake.weights import load_weights, take_model
from auditor.kit.errors import IntakeError
from auditor.models.architecture import ARCHITECTURES, Architecture
from tests.narrow import typed

CASES = (
    "alexnet:num_classes=7,channels=1",
    "alexnet:num_classes=7,hidden=48,height=64,width=64,pool=3,stem=3x3",
    "densenet:growth=12,depth=40,num_classes=7",
    "inception-v3:num_classes=7,stem=1",
    "lenet5:num_classes=7,channels=3,height=32,width=32,pad=false",
    "lenet5:num_classes=7",
    "mobilenet-v1:width_factor=0.3,num_classes=7",
    "preact-resnet:num_classes=100,depth=34,last_norm=true",
    "preact-resnet-dm:channels=1",
    "resnet-cifar:depth=32,shortcut=A,num_classes=5",
    "resnet-cifar:depth=20,shortcut=B,num_classes=5",
    "resnet18-cifar:width_factor=0.25,num_classes=7",
    "resnet34-cifar:width_factor=0.25,num_classes=7",
    "resnet50-cifar:width_factor=0.25,channels=1",
    "squeezenet:head=linear,num_classes=7",
    "vgg:depth=11,width_factor=0.35,num_classes=7,channels=1,batch_norm=false",
    "wide-resnet:depth=16,widen_factor=4,num_classes=100",
    "wide-resnet:depth=16,widen_factor=1,num_classes=7",
    "wide-resnet-dm:depth=10,widen_factor=2,channels=1",
    "torchvision:model=resnet18,stem=3x3,height=32,width=32,num_classes=10",
    "torchvision:model=mobilenet_v3_small,num_classes=7",
    "torchvision:model=squeezenet1_0,num_classes=7,channels=1",
    "torchvision:model=vit_b_32,height=64,width=64,num_classes=7",
    "timm:model=vit_tiny_patch16_224,num_classes=7,height=96,width=96",
    "timm:model=convnext_atto,num_classes=7",
    "timm:model=resnet18d,num_classes=7",
    "transformers:num_classes=7",
)
ELSEWHERE = {"sequential", "onnx", "channel-suppressed", "feature-denoised"}
"""Kinds that are layers, a graph or another network with blocks: drafted, said by the file, or tested below."""


def test_every_kind_of_the_catalogue_is_among_the_cases() -> None:
    own = {member.kind_name() for member in ARCHITECTURES if member.__module__.startswith("auditor.")}
    assert {case.partition(":")[0] for case in CASES} == own - ELSEWHERE


def parsed(text: str) -> Architecture:
    if text.startswith(("timm", "transformers")):
        pytest.importorskip(text.partition(":")[0])
    return ARCHITECTURES.parse(text)


def inspected(state: Mapping[str, Tensor], folder: Path, *, safe: bool = False) -> Inspection:
    file = folder / ("w.safetensors" if safe else "w.pt")
    if safe:
        save_file(dict(state), file)
    else:
        torch.save(dict(state), file)
    return inspect(file, file.name)


@pytest.mark.parametrize(
    "text", [pytest.param(text, marks=pytest.mark.slow) if "=vit_" in text else text for text in CASES]
)
def test_the_architecture_of_its_own_file_is_proposed(text: str, tmp_path: Path) -> None:
    architecture = parsed(text)
    state = architecture.build().state_dict()
    found = inspected({f"module.{key}": value for key, value in state.items()}, tmp_path)
    assert found.parameters == sum(value.numel() for value in weighty(state).values())
    assert 1 <= len(found.proposals) <= 3
    assert architecture.model_dump(mode="json") in [each.architecture for each in found.proposals]
    for each in found.proposals:
        proposed = from_data(each.architecture)
        shapes_of(proposed)[0].load_state_dict(state, assign=True)
        assert f"{architecture.num_classes:,} classes" in found.what
        manifest = take_model(tmp_path / "w.pt", "w.pt", proposed, tmp_path / "kept")
        assert not manifest.mapping, "the file's own names, not a guess by shape"


def test_only_one_that_fits_is_taken_and_the_note_says_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    architecture = ARCHITECTURES.parse("wide-resnet:depth=10,widen_factor=2,num_classes=7")
    network = architecture.build()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    manifest = take_model(tmp_path / "w.pt", "w.pt", None, tmp_path / "kept")
    assert manifest.architecture == architecture.model_dump(mode="json")
    note = " ".join(manifest.notes)
    assert "wide-resnet:num_classes=7,depth=10,widen_factor=2 was taken, the only one tried whose tensors fit." in note
    assert "The image size is not in the file: 32x32 is a guess" in note
    again = architecture.build()
    load_weights(again, tmp_path / "kept")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.eval()(x), network.eval()(x))


def test_of_several_none_is_taken_and_each_choice_named_can_be(tmp_path: Path) -> None:
    """What the shortcut takes shows in no tensor; guessing would give a network that answers otherwise."""
    torch.save(ARCHITECTURES.parse("preact-resnet:num_classes=7").build().state_dict(), tmp_path / "w.pt")
    with pytest.raises(IntakeError, match="2 of those tried fit") as refusal:
        take_model(tmp_path / "w.pt", "w.pt", None, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    assert "do not decide: shortcut_of (activated or input)" in refusal.value.message
    texts = [shlex.split(part)[1] for part in refusal.value.hint.split("`") if part.startswith("--architecture")]
    kept = []
    for text in texts:
        kept.append(take_model(tmp_path / "w.pt", "w.pt", ARCHITECTURES.parse(text), tmp_path / "kept").architecture)
    assert [each and each["shortcut_of"] for each in kept] == ["activated", "input"]


class Functional(nn.Module):
    """LeNet-5's layers for colour, under the names of PyTorch's tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("other", [False, True], ids=["conv1", "c1"])
def test_names_of_ones_own_are_matched_by_shape(prefix: str, other: bool, tmp_path: Path) -> None:
    """functional-names: conv1 and fc1 are LeNet-5's own names here, c1 and f1 are not."""
    state = Functional().state_dict()
    if other:
        state = {key.replace("conv", "c").replace("fc", "f"): value for key, value in state.items()}
    found = inspected({f"{prefix}{key}": value for key, value in state.items()}, tmp_path)
    (first, *_) = found.proposals
    assert first.text == "lenet5:channels=3,height=32,width=32,pad=false"
    assert "height (32 or 28), activation (relu or tanh)" in first.note
    assert ("The names differ; tensors were matched by order and shape: " in first.note) == other
    manifest = take_model(tmp_path / "w.pt", "w.pt", from_data(first.architecture), tmp_path / "kept")
    assert bool(manifest.mapping) == other


@pytest.mark.parametrize("safe", [False, True], ids=["torch", "safetensors"])
def test_a_plain_chain_is_drafted(safe: bool, tmp_path: Path) -> None:
    """parted-names: the convolutions see 32x32 and 16x16, so 3136 inputs are 16 maps of 14x14."""
    theirs = nn.Sequential()
    features = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU())
    theirs.add_module("features", nn.Sequential(*features))
    theirs.add_module("classifier", nn.Sequential(nn.Flatten(), nn.Linear(16 * 14 * 14, 10)))
    found = inspected(theirs.state_dict(), tmp_path, safe=safe)
    assert not found.proposals
    assert found.draft is not None
    assert found.draft.note.startswith("This is a draft")
    assert {each.name for each in found.first} | {each.name for each in found.last} == set(theirs.state_dict())
    assert "8x3x3x3" in {each.shape for each in (*found.first, *found.last)}
    architecture = from_data(found.draft.architecture)
    assert architecture.input_shape == (3, 32, 32)
    file = next(tmp_path.glob("w.*"))
    manifest = take_model(file, file.name, architecture, tmp_path / "kept")
    assert manifest.parameters == sum(each.numel() for each in theirs.parameters())
    with pytest.raises(IntakeError, match="none of those tried fits"):
        take_model(file, file.name, None, tmp_path / "other")


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([nn.Linear(784, 20), nn.Linear(20, 4)], "nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 4)"),
        (
            [nn.Conv2d(3, 9, 3, bias=False), nn.BatchNorm2d(9), nn.Linear(9, 4)],
            "nn.Conv2d(3, 9, 3, padding=1, bias=False), nn.BatchNorm2d(9), nn.ReLU(), nn.MaxPool2d(2), "
            "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 4)",
        ),
    ],
)
def test_what_is_drafted(layers: list[nn.Module], text: str, tmp_path: Path) -> None:
    found = inspected(nn.Sequential(*layers).state_dict(), tmp_path)
    assert found.draft is not None
    assert found.draft.text == f"nn.Sequential({text})"


@pytest.mark.parametrize(
    "state",
    [
        {"a.weight": torch.ones(4, 3, 3, 3), "b.weight": torch.ones(7, 5), "c.scale": torch.ones(2)},
        {"a.weight": torch.zeros(0, 3, 3, 3), "b.weight": torch.zeros(0, 0)},
        {"a": torch.tensor(3.0)},
        {"a.weight": torch.ones(5, 784), "b.weight": torch.ones(1, 5)},
    ],
    ids=["gap", "empty", "scalar", "one logit"],
)
def test_what_is_no_chain_is_not_drafted(state: dict[str, Tensor], tmp_path: Path) -> None:
    found = inspected(state, tmp_path)
    assert found.draft is None
    assert not found.proposals
    assert [each.name for each in found.first] == list(state)
    assert found.what.startswith("No architecture of the catalogue that was tried fits: ")


def test_a_network_of_timm_that_is_not_tried_can_be_named(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    found = inspected(timm.create_model("resnet10t").state_dict(), tmp_path)
    assert found.draft is None
    remedy = found.what.partition("`--architecture ")[2].partition("`")[0]
    taken = take_model(tmp_path / "w.pt", "w.pt", ARCHITECTURES.parse(remedy), tmp_path / "kept")
    assert not taken.mapping


@pytest.mark.parametrize("kind", ["feature-denoised", "channel-suppressed"])
def test_a_network_with_blocks_is_found_under_them(kind: str, tmp_path: Path) -> None:
    values = {"base": "resnet-cifar:depth=32", "num_classes": 7}
    architecture = ARCHITECTURES.build(kind, values)
    state = architecture.build().state_dict()
    found = inspected(state, tmp_path)
    assert [each.architecture["kind"] for each in found.proposals[:1]] == [kind]
    for each in found.proposals:
        assert json.loads(each.text) == each.architecture
        proposed = from_data(json.loads(each.text))
        shapes_of(proposed)[0].load_state_dict(state, assign=True)
        assert typed(each.architecture["base"], dict)["depth"] == 32


@pytest.mark.parametrize("form", ["pruned", "fused"])
def test_what_was_done_to_the_weights_hides_no_architecture(form: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES.parse("vgg:depth=11,width_factor=0.25,num_classes=7")
    network = architecture.build().eval()
    if form == "fused":
        network = fuse(network)
    for module in list(network.modules()) if form == "pruned" else []:
        if isinstance(module, nn.Conv2d):
            prune.l1_unstructured(module, "weight", 0.3)
    found = inspected(network.state_dict(), tmp_path)
    assert [each.text for each in found.proposals] == ["vgg:num_classes=7,depth=11,width_factor=0.25"]
    manifest = take_model(tmp_path / "w.pt", "w.pt", None, tmp_path / "kept")
    assert manifest.architecture == architecture.model_dump(mode="json")


def test_several_sets_of_weights_are_named(tmp_path: Path) -> None:
    state = ARCHITECTURES.parse("lenet5").build().state_dict()
    torch.save({"student": state, "teacher": state}, tmp_path / "w.pt")
    found = inspect(tmp_path / "w.pt", "w.pt")
    assert found.sets == ("student", "teacher")
    assert inspect(tmp_path / "w.pt", "w.pt", choice="teacher").proposals[0].text == "lenet5"


@pytest.mark.parametrize(
    "text",
    [
        "torchvision:model=resnet18",
        "torchvision:model=vgg11_bn",
        "densenet:depth=100",
        "resnet-cifar:shortcut=B",
        "lenet5",
    ],
)
def test_the_shipped_index_is_current(text: str) -> None:
    architecture = ARCHITECTURES.parse(text)
    shapes = {key: value.shape for key, value in shapes_of(architecture)[1].items()}
    found = [ARCHITECTURES.parse(each) for each in index().plain[signature(shapes)]]
    assert architecture in found


def test_the_index_names_every_kind() -> None:
    stored: dict[str, Any] = json.loads(INDEX.read_text())
    own = [member.kind_name() for member in ARCHITECTURES if member.__module__.startswith("auditor.")]
    assert stored["kinds"] == sorted(own), f"run python -m {made.__module__}"
