"""Whoever copies, traces or watches a network keeps the backward that somebody wrote by hand."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.fast import fast_copy
from auditor.attacking.threat import ThreatModel
from auditor.defending.defense import DEFENSES
from auditor.hardening.hardening import HARDENINGS
from auditor.hardening.learning.trainee import Trainee
from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.likeness import probes, stands_in
from auditor.models.neurons import list_layers
from auditor.neural.delta.survey import in_float64
from auditor.neural.probes.altered import altered_classifier
from auditor.neural.probes.identity_relu import IdentityRelu, last_relu
from auditor.neural.probes.layer_gradient import slopes
from auditor.neural.routes.graph import TracedNetwork
from tests.nets import StraightThrough

SHAPE = (1, 12, 12)


class Halved(torch.autograd.Function):
    """The identity, but for half the gradient where that is larger than 1: only its size tells."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.where(gradient.abs() > 1, gradient / 2, gradient)


class HandWrittenRelu(torch.autograd.Function):
    """A ReLU as its derivative is, but written by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.relu(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, gradient, 0.0)


class Net(nn.Module):
    """conv, norm, ReLU, ``middle``, conv, ReLU, linear."""

    def __init__(self, middle: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.second, self.head = nn.Conv2d(6, 8, 3), nn.Linear(8 * 64, 4)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(torch.relu(self.norm(self.first(x))))
        logits: Tensor = self.head(torch.relu(self.second(x)).flatten(1))
        return logits


def classifier(middle: Callable[[Tensor], Tensor] = lambda x: x) -> Classifier:
    return Classifier(Net(middle), input_shape=SHAPE, num_classes=4)


def drop_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        still = 0.5 * x
    return still + 0.5 * x


def hooked() -> Classifier:
    """A hook doubles the gradient at the norm, which a folded copy has no longer."""
    model = classifier()
    norm = model.network.norm
    assert isinstance(norm, nn.BatchNorm2d)

    def doubled(
        _: nn.Module, to_input: tuple[Tensor, ...] | Tensor, to_output: tuple[Tensor, ...] | Tensor
    ) -> tuple[Tensor]:
        return (2 * to_input[0],)

    norm.register_full_backward_hook(doubled)
    return model


def frozen_draw(x: Tensor) -> Tensor:
    return x * (1 + 1e-5 * random.random())


def gradient(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    points = x.clone().requires_grad_()
    functional.cross_entropy(model(points), torch.zeros(len(x), dtype=torch.int64), reduction="sum").backward()
    assert points.grad is not None
    return points.grad


class Viewing(nn.Module):
    """Views its maps as vectors, which maps in the memory order "channels last" do not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x).relu()
        logits: Tensor = self.last(maps.view(maps.size(0), -1))
        return logits


def test_a_network_that_views_its_maps_is_traced() -> None:
    classifier = Classifier(Viewing(), input_shape=(3, 8, 8), num_classes=3)
    assert [network.names[layer] for network in [TracedNetwork(classifier)] for layer in network.layers] == ["conv"]


def test_a_network_without_surprises_is_copied() -> None:
    model = classifier()
    fast = fast_copy(model)
    assert fast is not model
    x = torch.rand(5, *SHAPE)
    assert torch.allclose(gradient(fast, x), gradient(model, x), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: classifier(StraightThrough.apply),
        lambda: classifier(Halved.apply),
        lambda: classifier(drop_gradient),
        hooked,
        lambda: classifier(frozen_draw),
        lambda: classifier(lambda x: x + 1e-9 * torch.randn(1)),
        lambda: classifier(lambda x: x * float(1 + 1e-9 * np.random.rand())),
        lambda: classifier(lambda x: torch.round(x)),
        lambda: classifier(lambda x: x * torch.nan),
    ],
    ids=[
        "straight-through", "size of the gradient", "no_grad", "hook", "random", "random tensor", "random numpy",
        "no gradient", "NaN",
    ],
)  # fmt: skip
def test_a_network_whose_copy_may_behave_otherwise_is_attacked_itself(make: Callable[[], Classifier]) -> None:
    model = make()
    assert fast_copy(model) is model
    assert fast_copy(model, torch.rand(2, *SHAPE)) is model


def test_the_images_to_attack_are_looked_at_too() -> None:
    """A backward that differs on images of this kind alone (black, but for one corner), not on noise or patterns."""

    class Corner(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * 1

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return torch.where(x.mean((1, 2, 3), keepdim=True) < 0.1, -gradient, gradient)

    net = Net()
    model = Classifier(
        nn.Sequential(_Calls(Corner.apply), net), input_shape=SHAPE, num_classes=4
    )  # fmt: skip
    dark = torch.zeros(2, *SHAPE)
    dark[:, :, :2, :2] = 1
    assert fast_copy(model) is not model
    assert fast_copy(model, dark) is model


class _Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_are_copied_where_the_copy_is_the_same(dtype: torch.dtype) -> None:
    for middle, honest in ((lambda x: x, True), (StraightThrough.apply, False)):
        model = classifier(middle).to(dtype)
        fast = fast_copy(model)
        assert honest or fast is model
        if fast is not model:
            x = probes(model)
            difference = (gradient(fast, x) - gradient(model, x)).double().flatten(1).norm(dim=1)
            assert (difference <= 0.1 * gradient(model, x).double().flatten(1).norm(dim=1)).all()
    double = classifier().double()
    assert fast_copy(double) is not double


def test_random_generators_are_left_as_they_were() -> None:
    drawing = classifier(lambda x: x + torch.randn(1) * random.random() * np.random.rand())
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    expected = (torch.rand(2).tolist(), random.random(), np.random.rand())
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    assert fast_copy(drawing) is drawing
    assert (torch.rand(2).tolist(), random.random(), np.random.rand()) == expected


def test_one_image_and_channels_last_are_compared_too() -> None:
    """A replica that is wrong for a single image alone, and one that is wrong for another memory format."""
    model = classifier()
    model3 = Classifier(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 16, 3)), input_shape=(3, 6, 6), num_classes=3
    )
    assert stands_in(model, model, probes(model))
    assert not stands_in(lambda x: model(x) * (1 + (len(x) == 1)), model, probes(model))
    by_format: Callable[[Tensor], Tensor] = lambda x: model3(x) * (1 + (not x.is_contiguous()))  # noqa: E731
    assert not stands_in(by_format, model3, probes(model3))


@pytest.mark.parametrize("kind", list(DEFENSES.members))
def test_behind_a_defense_too(kind: str) -> None:
    """The network behind it is the very network, whatever stands in front."""
    model = classifier(StraightThrough.apply)
    if DEFENSES[kind].fit is not DEFENSES.contract.fit:
        pytest.skip("what it learns has nothing to do with the copy")
    defended = DEFENSES.build(kind, {}).wrap(model)
    fast = fast_copy(defended)
    assert getattr(fast, "inner") is model  # noqa: B009


def test_an_attack_follows_the_hand_written_gradient() -> None:
    """One step of FGSM, by hand with the network's own gradient and by the harness: the same images."""
    model = classifier(StraightThrough.apply)
    pixels = np.random.default_rng(0).integers(60, 200, (6, 12, 12, 1), dtype=np.uint8)
    data = ImageDataset(pixels, np.zeros(6, np.int64))
    x = data.images(np.arange(6))
    labels = model.logits(x).argmax(1)
    points = x.clone().requires_grad_()
    functional.cross_entropy(model(points), labels, reduction="sum").backward()
    assert points.grad is not None
    by_hand = x + 0.01 * points.grad.sign()
    kept: dict[int, Tensor] = {}
    run_attack(
        model, ATTACKS.parse("fgsm"), ThreatModel(epsilon=0.01), data, np.arange(6), Misclassification(labels), seed=0,
        batch_size=6, early_stop=False,
        on_finished=lambda item: kept.update(zip(item.position.tolist(), item.x_adv, strict=True)),
    )  # fmt: skip
    assert torch.allclose(torch.stack([kept[index] for index in range(6)]), by_hand, atol=1e-6)


def test_a_graph_that_has_other_gradients_is_refused() -> None:
    TracedNetwork(classifier())
    TracedNetwork(classifier(HandWrittenRelu.apply))
    for middle in (StraightThrough.apply, drop_gradient, frozen_draw):
        with pytest.raises(EvaluationError, match="its logits and its gradients"):
            TracedNetwork(classifier(middle))


def test_what_a_hand_written_function_does_inside_is_not_a_layer() -> None:
    """Its gradient was said to be zero, since no graph runs through it."""
    plain, custom = classifier(torch.relu), classifier(HandWrittenRelu.apply)
    names = [layer.name for layer in list_layers(plain)]
    assert names == ["first", "norm", "relu()", "relu()#2", "second", "relu()#3", "head"]
    seen = [layer.name for layer in list_layers(custom)]
    assert seen == ["first", "norm", "relu()", "second", "relu()#2", "head"]
    x = torch.rand(3, *SHAPE)
    found = slopes(custom, x, lambda logits: logits[:, 0].sum(), seen)
    assert all(bool((found.of(name).gradient != 0).any()) for name in seen)
    assert torch.allclose(
        found.of("first").gradient, slopes(plain, x, lambda z: z[:, 0].sum(), names).of("first").gradient
    )


def test_a_relu_inside_a_hand_written_function_is_not_made_the_identity() -> None:
    """The last ReLU whose gradient can be exchanged is the one before it."""

    class Tail(nn.Module):
        def __init__(self, last: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.body, self.last, self.head = nn.Linear(4, 6), last, nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.last(torch.relu(self.body(x.flatten(1)))))
            return logits

    torch.manual_seed(0)
    model = Classifier(Tail(lambda x: HandWrittenRelu.apply(x + 1)), input_shape=(1, 2, 2), num_classes=3)
    assert last_relu(model) == 1
    x = torch.rand(5, 1, 2, 2)
    with IdentityRelu(1, torch.ones(5, dtype=torch.bool)):
        changed = gradient(model, x)
    assert not torch.allclose(changed, gradient(model, x))


def deep(model: Classifier) -> Classifier:
    return copy.deepcopy(model)


def renormalized(model: Classifier) -> Classifier:
    return model.with_normalization(model.normalization)


def unchanged(model: Classifier) -> Classifier:
    return altered_classifier(model, {})


def watched(model: Classifier) -> Classifier:
    """A layer's output exchanged for itself."""
    return altered_classifier(model, {"second": lambda output: output * 1})


def trainee(model: Classifier) -> Classifier:
    return Trainee(model, copy.deepcopy(model.network)).classifier


def snapshot(model: Classifier) -> Classifier:
    return Trainee(model, copy.deepcopy(model.network)).snapshot()


def extended(model: Classifier) -> Classifier:
    hardening = HARDENINGS.build("fine_tune", {})
    return model.with_network(hardening.extended(model))


@pytest.mark.parametrize("made", [deep, renormalized, unchanged, watched, trainee, snapshot, extended, in_float64])
def test_every_other_copy_keeps_the_hand_written_backward(made: Callable[[Classifier], Classifier]) -> None:
    """The copies that training, float64 and changed layers make: nothing is traced, so nothing is forgotten."""
    model = classifier(StraightThrough.apply)
    expected = classifier(StraightThrough.apply).to(torch.float64 if made is in_float64 else torch.float32)
    other = made(model)
    x = torch.rand(4, *SHAPE, dtype=expected.dtype, generator=torch.Generator().manual_seed(2))
    slope = gradient(expected, x)
    assert bool((slope != 0).any())
    assert torch.allclose(gradient(other, x), slope, rtol=1e-4, atol=1e-6)
