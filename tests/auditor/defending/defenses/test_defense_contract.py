"""What every defense of the catalogue keeps to, whoever adds it, and the model around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import clean_pass, run_attack
from auditor.attacking.harness.fast import fast_copy
from auditor.attacking.threat import ThreatModel
from auditor.defending.defense import DEFENSES, Defense, ImageDefense, defended, fit_stack
from auditor.defending.files import FitLineage, read_stack, write_stack
from auditor.kit.errors import IntakeError, MismatchError
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import DefendedClassifier, surest
from auditor.models.drawing import View
from tests.auditor.defending.defenses.small import SHAPE, behind, default, fitted, images, network
from tests.narrow import typed

KINDS = list(DEFENSES.members)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> DefendedClassifier:
    return behind(default(request.param))


@pytest.fixture(scope="module")
def x() -> Tensor:
    return images(network()).images(np.arange(10))


def defense_of(model: DefendedClassifier) -> Defense:
    return typed(model.defense, Defense)


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_it_answers_with_finite_logits(model: DefendedClassifier, x: Tensor) -> None:
    before = x.clone()
    logits = model.logits(x)
    assert logits.shape == (10, 5)
    assert logits.dtype == x.dtype
    assert torch.equal(x, before), "the input is not written to"


def test_the_network_gets_images_of_the_box(model: DefendedClassifier, x: Tensor) -> None:
    if isinstance(model.defense, ImageDefense):
        changed = model.defense.changed(model.inner, x, model.passing(x))
        assert changed.shape == x.shape
        assert changed.dtype == x.dtype
        assert changed.amin() >= 0
        assert changed.amax() <= 1


def test_an_answer_does_not_depend_on_the_batch(model: DefendedClassifier, x: Tensor) -> None:
    whole = model.logits(x)
    assert same(whole, torch.cat([model.logits(part) for part in x.split(3)]))
    assert same(whole, model.logits(x.flip(0)).flip(0))


def test_the_same_seed_gives_the_same_answer_and_another_one_only_where_it_draws(
    x: Tensor, model: DefendedClassifier
) -> None:
    assert torch.equal(model.logits(x), model.logits(x))
    again = behind(default(defense_of(model).kind))
    assert torch.equal(model.logits(x), again.logits(x))
    other = defense_of(model).wrap(model.inner, model.state, seed=4)
    assert torch.equal(model.logits(x), other.logits(x)) is not model.defense.random


def test_no_label_is_seen(model: DefendedClassifier) -> None:
    data = images(network())
    shuffled = ImageDataset(data._images, np.random.default_rng(0).permutation(data.labels), data.class_names)
    ids = np.arange(len(data))
    first, other = (clean_pass(model, item, ids, batch_size=8).logits for item in (data, shuffled))
    assert torch.equal(first, other)


def test_an_adaptive_attacker_gets_a_gradient(model: DefendedClassifier, x: Tensor) -> None:
    view = model.seen(View(adaptive=True, draws=2))
    points = x.clone().requires_grad_()
    logits = view(points)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum() - logits[:, 0].sum(), points)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1) != 0).any(1).all()


def test_what_is_deployed_has_no_gradient_but_its_own(model: DefendedClassifier, x: Tensor) -> None:
    points = x.clone().requires_grad_()
    assert model(points).requires_grad is (defense_of(model).backward == "exact")


def test_an_attacker_sees_the_deployed_answer_but_for_random_numbers(model: DefendedClassifier, x: Tensor) -> None:
    view = model.seen(View(adaptive=True))
    assert torch.equal(view.logits(x), model.logits(x)) is not model.defense.random
    assert torch.equal(defense_of(view.seen(View())).wrap(model.inner, model.state, seed=3).logits(x), model.logits(x))


def test_it_lives_on_as_json(model: DefendedClassifier) -> None:
    defense = defense_of(model)
    assert DEFENSES.build(defense.kind, defense.settings()) == defense
    assert DEFENSES.parse(defense.describe()) == defense


def test_what_it_learnt_lives_on_as_a_file(model: DefendedClassifier, x: Tensor, tmp_path: Path) -> None:
    lineage = FitLineage.of(model.inner, images(network()), np.arange(24), seed=3)
    stored = write_stack(tmp_path / "state.safetensors", [defense_of(model)], [model.state], lineage)
    read = read_stack(tmp_path / "state.safetensors")
    assert read.defenses == (model.defense,)
    assert read.lineage == lineage
    assert read.sha256 == stored
    assert torch.equal(read.defenses[0].wrap(model.inner, read.states[0], seed=3).logits(x), model.logits(x))


def test_attacks_run_on_it(model: DefendedClassifier) -> None:
    """As on any classifier; what they count as fooled, the deployed model gets wrong where it draws nothing."""
    data = images(network())
    ids = np.arange(8)
    criterion = Misclassification(torch.from_numpy(data.labels[ids]))
    attack = ATTACKS.parse("pgd:steps=3")
    kept: dict[int, Tensor] = {}
    view = model.seen(View(adaptive=True))
    outcome = run_attack(
        view, attack, ThreatModel(epsilon=0.2), data, ids, criterion, seed=0, batch_size=4,
        on_finished=lambda item: kept.update(zip(item.position.tolist(), item.x_adv, strict=True)),
    )  # fmt: skip
    final = torch.stack([kept[position] for position in range(8)])
    judged = criterion.is_adversarial(model.logits(final)).numpy()
    assert model.defense.random or (judged >= outcome.fooled).all()


def test_a_faster_copy_is_still_defended(model: DefendedClassifier, x: Tensor) -> None:
    fast = fast_copy(model)
    assert isinstance(fast, DefendedClassifier)
    with torch.no_grad():
        assert torch.allclose(fast(x), model.logits(x), rtol=1e-3, atol=1e-3)


def test_images_of_another_shape_are_refused(model: DefendedClassifier) -> None:
    with pytest.raises(MismatchError, match="takes images of shape 3x12x12"):
        model(torch.zeros(1, 3, 5, 5))


def test_double_precision_is_kept(model: DefendedClassifier, x: Tensor) -> None:
    exact = defense_of(model).wrap(network().double(), model.state, seed=3)
    assert exact.logits(x.double()).dtype == torch.float64


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"nonsense")
    with pytest.raises(IntakeError, match="not a stored defense"):
        read_stack(tmp_path / "state.safetensors")


def test_a_stack_passes_the_first_defense_first() -> None:
    classifier = network()
    stack: list[Defense] = [default("bit-depth"), default("spatial-smoothing")]
    states = fit_stack(classifier, stack, images(classifier), np.arange(24), seed=3)
    x = images(classifier).images(np.arange(4))
    one, two = (behind(item, classifier) for item in stack)
    by_hand = two.logits((x * 15).round() / 15)
    assert torch.equal(defended(classifier, stack, states, seed=3).logits(x), by_hand)
    assert not torch.equal(by_hand, one.logits(x))
    assert defended(classifier, [], [], seed=3) is classifier


def test_an_attackers_view_goes_through_the_whole_stack() -> None:
    classifier = network()
    stack = [default("spatial-smoothing"), default("bit-depth")]
    model = defended(classifier, stack, [fitted(item, classifier) for item in stack], seed=3)
    assert isinstance(model, DefendedClassifier)
    points = images(classifier).images(np.arange(4)).requires_grad_()
    assert not model(points).requires_grad
    assert model.seen(View(adaptive=True))(points).requires_grad


class Nested(nn.Module):
    """Calls its activation as a function: a traced copy has no module of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.first(x)))


def test_a_defense_that_reaches_into_layers_finds_them_in_the_faster_copy() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(Nested(), nn.Flatten(), nn.Linear(6 * 100, 5))
    classifier = Classifier(layers, input_shape=SHAPE, num_classes=5)
    model = behind(default("neuron-selecting"), classifier)
    x = images(classifier).images(np.arange(6))
    assert not same(model.logits(x), classifier.logits(x).log_softmax(1))
    assert same(fast_copy(model)(x), model.logits(x))


def test_an_adaptive_attacker_sees_through_the_edge_of_the_box() -> None:
    """Noise on a black image is cut off at half of the pixels, where what is deployed has no gradient."""
    model = behind(default("gaussian-noise"))
    x = torch.zeros(1, 3, 12, 12)
    dead = []
    for view in (model, model.seen(View(adaptive=True))):
        points = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(view(points)[0, 0], points)
        dead.append(float((gradient == 0).double().mean()))
    assert dead[0] > 0.3
    assert dead[1] < 0.05


def test_of_several_answers_the_surest_of_a_class_counts() -> None:
    """Margins of class 0: row 0: -1 and 2, so the second; row 1: 3 and -4, so the first."""
    answers = [torch.tensor([[1.0, 2.0], [5.0, 2.0]]), torch.tensor([[4.0, 2.0], [1.0, 5.0]])]
    assert surest(answers, 0).tolist() == [[4, 2], [5, 2]]
    assert surest(answers, 1).tolist() == [[1, 2], [1, 5]]
