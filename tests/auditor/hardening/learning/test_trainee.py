"""The network in training: its modes, what is kept, what lies below a layer, and half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auditor.hardening.learning.scratch import draw_anew
from auditor.hardening.learning.trainee import Trainee, before
from auditor.kit.errors import EvaluationError, SpecError
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import Classifier
from auditor.models.neurons import list_layers
from tests.narrow import sequence
from tests.nets import SHAPE, Linear, deeper_classifier, small_classifier


def test_what_lies_below_a_layer_is_what_runs_before_it() -> None:
    architecture = ARCHITECTURES.build("resnet18-cifar", {"width_factor": 0.05})
    classifier = Classifier(architecture.build(), input_shape=(3, 32, 32), num_classes=10)
    below = before(classifier, "layer2.0.conv2")
    assert below == (
        *("conv1", "bn1"),
        *(f"layer1.{block}.{name}" for block in (0, 1) for name in ("conv1", "bn1", "conv2", "bn2")),
        *("layer2.0.conv1", "layer2.0.bn1"),
    )
    assert before(classifier, "layer2.0.bn2") == (*below, "layer2.0.conv2")
    assert before(classifier, "layer2.0.relu1") == below
    assert before(classifier, "conv1") == ()
    assert set(before(classifier, "linear")) == {
        layer.name for layer in list_layers(classifier) if layer.kind in ("conv", "norm")
    }
    with pytest.raises(SpecError, match=r"no layer 'layer2\.0\.conv9'") as refused:
        before(classifier, "layer2.0.conv9")
    assert refused.value.hint.startswith("Did you mean layer2.0.conv")
    assert "conv1, " in refused.value.hint


def test_a_module_that_runs_again_later_is_not_below() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    network = nn.Sequential(
        conv, nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1), conv, nn.Flatten(), nn.Linear(108, 5)
    )
    assert before(deeper_classifier().with_network(network), "3") == ("1",)


def test_what_an_attention_uses_without_calling_it_goes_with_it() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(36, 2, batch_first=True)
            self.flatten, self.head = nn.Flatten(), nn.Linear(108, 5)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2)
            return self.head(self.flatten(self.attention(tokens, tokens, tokens)[0]))

    classifier = deeper_classifier().with_network(Attending())
    assert before(classifier, "head") == ("attention", "attention.out_proj")
    trainee = Trainee(classifier, classifier.network, frozen=before(classifier, "head"))
    assert set(trainee.parameters) == {"head.weight", "head.bias"}


def test_only_the_batch_normalization_that_learns_moves() -> None:
    x = torch.rand(8, *SHAPE)
    settings: tuple[tuple[dict[str, Any], set[str]], ...] = (
        ({}, {"1", "5"}), ({"frozen": ("0", "1")}, {"5"}), ({"batch_norm": "fixed"}, set()),
    )  # fmt: skip
    for more, moving in settings:
        classifier = deeper_classifier()
        trainee = Trainee(classifier, classifier.network, **more)
        old = {name: value.clone() for name, value in trainee.network.named_buffers()}
        trainee.logits(x)
        moved = {
            name.split(".")[0] for name, value in trainee.network.named_buffers() if not torch.equal(value, old[name])
        }
        assert moved == moving
        assert not any(module.training for module in trainee.network.modules()), "eval again after each pass"
        learning = {name.split(".")[0] for name in trainee.parameters}
        assert learning == ({"4", "5", "8", "10"} if "frozen" in more else {"0", "1", "4", "5", "8", "10"})


def test_nothing_left_to_train_is_refused() -> None:
    classifier = small_classifier()
    with pytest.raises(SpecError, match="every layer is frozen"):
        Trainee(classifier, classifier.network, frozen=("0", "1", "5"))


def test_features_are_what_the_layers_put_out_even_where_the_next_one_writes_over_them() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 5))
    classifier = deeper_classifier().with_network(network)
    trainee = Trainee(classifier, network)
    x = torch.rand(2, *SHAPE)
    found = trainee.features(x, ("0", "1"))
    first = network[0](classifier.normalize(x))
    assert torch.equal(found.outputs["0"], first)
    assert torch.equal(found.outputs["1"], first.clamp_min(0))
    assert first.min() < 0
    assert all(value.requires_grad for value in found.outputs.values())
    assert torch.equal(found.logits, classifier(x))
    assert trainee.passes == (2, 2)
    with pytest.raises(EvaluationError, match="no layer gone"):
        trainee.features(x, ("gone",))


def test_half_precision_computes_in_bfloat16_and_gives_float32() -> None:
    classifier = deeper_classifier()
    trainee = Trainee(classifier, classifier.network, precision="bf16")
    kinds: list[torch.dtype] = []
    sequence(classifier)[0].register_forward_hook(lambda _module, _inputs, output: kinds.append(output.dtype))
    x = torch.rand(8, *SHAPE)
    found = trainee.features(x, ("0", "4"))
    assert kinds == [torch.bfloat16]
    assert found.logits.dtype == torch.float32
    found.logits.square().sum().backward()
    assert all(value.grad is not None and value.grad.dtype == torch.float32 for value in trainee.parameters.values())
    with trainee.learning():
        assert torch.allclose(found.logits, classifier(x), atol=0.1)


def test_new_weights_are_drawn_for_every_module_by_the_generator() -> None:
    states = []
    for seed in (5, 5, 6):
        network = deeper_classifier().network
        torch.manual_seed(seed)
        draw_anew(network)
        states.append({name: value.clone() for name, value in network.state_dict().items()})
    first, again, other = states
    old = deeper_classifier().network.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in first:
        if name.endswith(("weight", "bias")) and not name.startswith(("1.", "5.")):
            assert not torch.equal(first[name], other[name])
            assert not torch.equal(first[name], old[name])
    assert first["1.running_mean"].eq(0).all()
    assert first["1.weight"].eq(1).all()
    with pytest.raises(SpecError, match="weight cannot be drawn again"):
        draw_anew(Linear(torch.rand(108), 0.0))


def test_facts_are_found_once() -> None:
    asked: list[Any] = []

    def find(classifier: Classifier) -> int:
        asked.append(classifier)
        return 7

    classifier = deeper_classifier()
    trainee = Trainee(classifier, classifier.network)
    assert [trainee.fact("seven", find) for _ in range(3)] == [7, 7, 7]
    assert asked == [trainee.classifier]


def test_a_snapshot_is_a_copy_that_does_not_learn() -> None:
    classifier = deeper_classifier()
    trainee = Trainee(classifier, classifier.network)
    copy = trainee.snapshot()
    state: dict[str, Tensor] = {name: value + 1 for name, value in trainee.network.state_dict().items()}
    other = trainee.snapshot(state)
    assert not any(value.requires_grad for value in copy.parameters())
    assert all(value.requires_grad for value in trainee.network.parameters())
    assert torch.equal(sequence(other)[0].weight, sequence(classifier)[0].weight + 1)
    with torch.no_grad():
        sequence(classifier)[0].weight.zero_()
    assert sequence(copy)[0].weight.any()
