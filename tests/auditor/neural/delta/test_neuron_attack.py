"""The attack on one neuron against a loop of our own, row by row in float64; the ReLU with an identity's gradient."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from auditor.attacking.threat import Norm, ThreatModel
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.neural.delta.neuron_attack import NeuronAttack, Targets, target_loss
from auditor.neural.probes.head import head_of
from auditor.neural.probes.identity_relu import IdentityRelu, last_relu
from tests.narrow import sequence, typed
from tests.nets import SHAPE, small_classifier


class Case(NamedTuple):
    """``goals``: the features that the rows of ``targets`` want, (R, M)."""

    classifier: Classifier
    x: Tensor
    targets: Targets
    goals: Tensor


def case(rows: int = 6, sharpness: float = 1.0) -> Case:
    """Rows of random images, each with a random neuron moved by a random amount. ``sharpness``: multiplies the logits, whose
    means over the images it makes equal."""
    classifier = small_classifier().double()
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(rows, *SHAPE, generator=generator).double()
    if sharpness != 1:
        head = sequence(classifier)[5]
        with torch.no_grad():
            head.bias -= classifier(x).mean(0)
            head.weight *= sharpness
            head.bias *= sharpness
    features = sequence(classifier)[:5](classifier.normalize(x))
    neuron = torch.randint(features.shape[1], (rows,), generator=generator)
    change = 3 * torch.randn(rows, 1, generator=generator).double()
    goals = features.scatter_add(1, neuron[:, None], change)
    targets = Targets(neuron, change[:, 0], classifier(x).argmax(1), torch.zeros(rows, dtype=torch.bool))
    return Case(classifier, x, targets, goals)


def plain_loss(features: Tensor, goal: Tensor, neuron: int) -> Tensor:
    difference = (features - goal).pow(2).sum().sqrt() / (goal.pow(2).sum().sqrt() + 1e-9)
    return difference + 10 * (features[neuron] - goal[neuron]).abs() / (goal[neuron].abs() + 1e-9)


def plain_attack(
    classifier: Classifier,
    x: Tensor,
    goal: Tensor,
    neuron: int,
    predicted: int,
    threat: ThreatModel,
    iterations: int,
    best: str,
) -> tuple[Tensor, bool]:
    """The same attack on one image, with a norm, a projection and a best iterate of the test's own.

    Its end is restated too: the class has a share below one in K, and iterates are chosen by that share.
    """
    body, head = sequence(classifier)[:5], sequence(classifier)[5]
    point, highest, kept, changed = x.clone(), -np.inf, x, False
    step = 2.5 * threat.epsilon / iterations
    for _ in range(iterations + 1):
        point = point.detach().requires_grad_()
        features = body(classifier.normalize(point[None]))[0]
        loss = plain_loss(features, goal, neuron)
        logits = head(features)
        value = -logits.log_softmax(0)[predicted].item() if best == "output" else -loss.item()
        if value > highest:
            highest, kept, changed = value, point.detach(), int(logits.argmax()) != predicted
        if best == "output" and logits.softmax(0)[predicted].item() < 0.999 / len(logits):
            break
        (gradient,) = torch.autograd.grad(loss, point)
        with torch.no_grad():
            if threat.norm is Norm.LINF:
                moved = point - step * gradient.sign()
                moved = torch.min(torch.max(moved, x - threat.epsilon), x + threat.epsilon)
            else:
                moved = point - step * gradient / gradient.norm().clamp_min(1e-30)
                delta = moved - x
                moved = x + delta * min(1.0, threat.epsilon / max(float(delta.norm()), 1e-30))
            point = moved.clamp(0, 1)
    return kept, changed


def run(
    classifier: Classifier, x: Tensor, targets: Targets, threat: ThreatModel, **settings: Any
) -> tuple[Tensor, Tensor]:
    values: dict[str, Any] = {"iterations": 12, "best": "output", "fake_relu": False} | settings
    return NeuronAttack(classifier, threat, **values)(x, targets)


@pytest.mark.parametrize("best", ["output", "loss"])
@pytest.mark.parametrize(
    "threat", [ThreatModel(epsilon=0.1), ThreatModel(norm=Norm.L2, epsilon=0.8)], ids=["linf", "l2"]
)
def test_every_row_is_what_a_plain_loop_finds(threat: ThreatModel, best: str) -> None:
    classifier, x, targets, goals = case()
    found, changed = run(classifier, x, targets, threat, best=best)
    for row in range(len(x)):
        neuron, predicted = int(targets.neuron[row]), int(targets.predicted[row])
        expected, flips = plain_attack(classifier, x[row], goals[row], neuron, predicted, threat, 12, best)
        assert torch.allclose(found[row], expected, rtol=0, atol=1e-9)
        assert bool(changed[row]) == flips
    distance = threat.ball(x).distance(found, x)
    assert (distance <= threat.epsilon * (1 + 1e-9)).all()
    assert distance.amax() > threat.epsilon / 3, "nothing moved"
    assert found.amin() >= 0
    assert found.amax() <= 1
    assert torch.equal(changed, classifier(found).argmax(1) != targets.predicted)


def test_a_success_that_is_settled_is_final_and_saves_the_rest_of_the_steps() -> None:
    """Against the same attack with all its steps: rows fooled alike; a network that counts its images."""
    classifier, x, targets, _ = case(60, 30.0)
    seen: list[int] = []
    counter = classifier.network.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    attack = NeuronAttack(classifier, ThreatModel(epsilon=0.5), iterations=12, best="output", fake_relu=False)
    attack.fast = classifier
    attack.head = head_of(classifier)
    seen.clear()
    early, saved = attack(x, targets), sum(seen)
    seen.clear()
    with mock.patch.object(attack, "_settled", lambda highest: torch.zeros_like(highest, dtype=torch.bool)):
        whole = attack(x, targets)
    counter.remove()
    assert sum(seen) == 60 * 14, "13 iterates and the verdict"
    assert saved < sum(seen)
    assert 0 < early.changed.sum() < 60
    assert torch.equal(early.changed, whole.changed)
    kept = ~early.changed
    assert torch.equal(early.x_adv[kept], whole.x_adv[kept])


def test_the_verdict_is_the_networks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The iterates come from a copy that takes every image for class 0 or 1; the network itself thinks otherwise of some."""
    classifier, x, targets, _ = case(30, 30.0)
    other = copy.deepcopy(classifier)
    sequence(other)[5].bias[2:] -= 100.0
    monkeypatch.setattr("auditor.neural.delta.neuron_attack.fast_copy", lambda classifier, images=None: other)
    found = run(classifier, x, targets, ThreatModel())
    assert torch.equal(found[1], classifier(found[0]).argmax(1) != targets.predicted)
    assert not torch.equal(found[1], other(found[0]).argmax(1) != targets.predicted)


def test_a_row_does_not_depend_on_the_others() -> None:
    classifier, x, targets, _ = case()
    together = run(classifier, x, targets, ThreatModel())[0]
    alone = [run(classifier, x[i : i + 1], targets.part(torch.tensor([i])), ThreatModel())[0] for i in range(6)]
    assert torch.allclose(together, torch.cat(alone), rtol=0, atol=1e-12)


def test_the_loss_by_hand() -> None:
    goals, neurons = torch.tensor([[3.0, 4.0, 0.0]] * 2), torch.tensor([1, 2])
    # Row 0: difference (0, -1, 2), norm sqrt(5), over 5; neuron 1: 10 * 1 / 4. Row 1: neuron 2 has a goal of 0: 10 * 2 / 1e-9.
    loss = target_loss(torch.tensor([[3.0, 3.0, 2.0]] * 2), goals, neurons)
    assert loss.tolist() == pytest.approx([5**0.5 / 5 + 2.5, 2e10], rel=1e-6)


def test_in_single_precision_the_attack_stays_within_its_budget() -> None:
    _, x, targets, _ = case()
    threat = ThreatModel(epsilon=8 / 255)
    found, _ = run(small_classifier(), x.float(), targets, threat)
    assert found.dtype == torch.float32
    assert (found - x.float()).abs().max() <= threat.epsilon + 1e-7


class Calls(nn.Module):
    """ReLU in three ways: module, function in place, method."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(108, 9), nn.Linear(9, 9), nn.Linear(9, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x.flatten(1)))
        x = functional.relu(self.second(x), inplace=True)
        return self.head((self.second(x) - 0.1).relu())


def calls() -> Classifier:
    torch.manual_seed(2)
    return Classifier(Calls(), input_shape=SHAPE, num_classes=3, normalization=NORMALIZATIONS["half"]).double()


def test_outputs_stay_and_the_gradient_of_marked_rows_is_the_identitys() -> None:
    classifier = calls()
    assert last_relu(classifier) == 3
    x = torch.rand(4, *SHAPE, dtype=torch.float64)
    marked = torch.tensor([True, False, True, False])

    def gradient(passing: Tensor, place: int) -> tuple[Tensor, Tensor]:
        points = x.clone().requires_grad_()
        with IdentityRelu(place, passing):
            logits = classifier(points)
        return torch.autograd.grad(logits[:, 0].sum(), points)[0], logits

    network = typed(classifier.network, Calls)
    points = x.clone().requires_grad_()
    hidden = network.second(network.first(classifier.normalize(points).flatten(1)).relu()).relu()
    through = network.head(network.second(hidden) - 0.1)  # no third ReLU at all
    (identity,) = torch.autograd.grad(through[:, 0].sum(), points)
    plain, logits = gradient(~marked & marked, 3)
    mixed, same = gradient(marked, 3)
    assert torch.equal(logits, classifier(x))
    assert torch.equal(same, logits)
    assert torch.allclose(mixed[marked], identity[marked], rtol=1e-12)
    assert torch.equal(mixed[~marked], plain[~marked])
    assert not torch.allclose(plain[marked], identity[marked])


def test_a_relu_that_must_work_in_place_is_left_alone() -> None:
    class InPlace(Calls):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x.flatten(1))
            functional.relu_(hidden)  # the result is not used
            return self.head(hidden)

    classifier = Classifier(InPlace(), input_shape=SHAPE, num_classes=3)
    assert last_relu(classifier) == 0
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(108, 9), nn.GELU(), nn.Linear(9, 3))
    assert last_relu(Classifier(smooth, input_shape=SHAPE, num_classes=3)) == 0


def test_a_dead_target_needs_the_identity() -> None:
    """The neuron that is wanted has an output of 0 and no gradient: without the identity it stays dead."""
    torch.manual_seed(0)
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(108, 6), nn.ReLU(), nn.Linear(6, 3)))
    classifier = Classifier(network, input_shape=SHAPE, num_classes=3, copy=False).double()
    x = torch.rand(1, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        network[1].bias[2] -= network[1](x.flatten(1))[0, 2] + 0.3  # neuron 2 lies 0.3 below zero
    raised = {}
    for passing in (False, True):
        targets = Targets(torch.tensor([2]), torch.tensor([2.0]), classifier(x).argmax(1), torch.tensor([passing]))
        found, _ = run(classifier, x, targets, ThreatModel(epsilon=0.2), best="loss", fake_relu=True)
        raised[passing] = float(network[:3](found)[0, 2])
    assert raised[False] == 0
    assert raised[True] > 0.1


def test_the_classifier_is_left_as_it_was() -> None:
    classifier, x, targets, _ = case()
    before = copy.deepcopy(classifier.state_dict())
    run(classifier, x, targets, ThreatModel())
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert not any(module._forward_pre_hooks for module in classifier.modules())
