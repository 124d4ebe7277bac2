"""What every attack of the catalogue keeps to, whoever adds it, and the harness around them."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.attacking.attack import ATTACKS, Attack, Ensemble
from auditor.attacking.attacks.fgsm import FGSM
from auditor.attacking.criterion import Criterion, Misclassification, TargetedMisclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.outcome import Finished, Outcome
from auditor.attacking.threat import Norm, ThreatModel
from auditor.kit.errors import AuditorError, EvaluationError, SpecError
from auditor.models.classifier import NO_CLASS, Classifier
from auditor.models.dataset import ImageDataset
from tests.narrow import sequence
from tests.nets import SHAPE, Linear, labelled, small_classifier

EPSILON = {Norm.LINF: 0.1, Norm.L2: 1.0, Norm.L1: 6.0, Norm.L0: 12.0}
ROOM = {Norm.L1: 1.3, Norm.L0: 6.0}
"""How far past the boundary an attack must succeed, 1.05 elsewhere. In L0 some move one channel of a pixel, in one direction and
not all the way, and so change several times the pixels that are needed."""
CONTROL_ROOM = 15.0
"""The same for a control: the best of some tens of random points goes about a tenth as far across the plane as can be."""
SEARCH_ROOM = 6.0
"""The same for an attack without gradients: some move few entries, all get close to the best point only with more questions than
this test can ask. Tests of their own look closer."""
CHEAPER: dict[str, dict[str, Any]] = {
    "auna": {"levels": 200},
    "boundary": {"steps": 150, "directions": 3},
    "carlini-wagner": {"binary_steps": 2, "steps": 40, "first_weight": 1},
    "hop-skip-jump": {"steps": 4},
    "nattack": {"steps": 40, "samples": 40, "step_size": 0.05},
    "one-pixel": {"pixels": 24, "population": 60, "generations": 30},
    "pointwise": {"steps": 40},
    "random-noise": {"draws": 60},
    "spsa": {"steps": 30, "samples": 16, "step_size": 0.02},
    "square": {"queries": 400},
    "uap": {"passes": 1, "deepfool_steps": 5},
}
"""Other parameters for attacks that take too many steps by default."""
CHEAPER_STAGES = {
    "standard": (
        ("apgd-ce", {"steps": 20}),
        ("apgd-t", {"steps": 20, "restarts": 4}),
        ("fab-t", {"steps": 20, "classes": 4}),
        ("square", {"queries": 100}),
    )
}
"""The same for AutoAttack, which has no parameters; on networks of two classes and five."""
FEWER = 12
"""Samples where every attack runs several times, and for those without gradients and ensembles."""
ORDER = {Norm.LINF: np.inf, Norm.L2: 2, Norm.L1: 1}

combinations = pytest.mark.parametrize(
    ("member", "norm"),
    [(member, norm) for member in ATTACKS for norm in sorted(member.norms)],
    ids=lambda value: value.value if isinstance(value, Norm) else value.kind_name(),
)


@pytest.fixture(autouse=True)
def cheaper_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auditor.attacking.attacks.auto_attack.STAGES", CHEAPER_STAGES)


class Kept:
    """Collects the judged images of a run by position."""

    def __init__(self) -> None:
        self.x: dict[int, Tensor] = {}
        self.x_adv: dict[int, Tensor] = {}

    def __call__(self, finished: Finished) -> None:
        for row, position in enumerate(finished.position.tolist()):
            self.x[position], self.x_adv[position] = finished.x[row], finished.x_adv[row]


def default(member: type[Attack], **more: Any) -> Attack:
    return ATTACKS.build(member.kind_name(), CHEAPER.get(member.kind_name(), {}) | more)


def quick(member: type[Attack]) -> bool:
    return member.uses_gradients and not issubclass(member, Ensemble)


def length(delta: Tensor, norm: Norm) -> float:
    """The norm by numpy."""
    if norm is Norm.L0:
        return float((delta != 0).any(0).sum())
    return float(np.linalg.norm(delta.double().flatten().numpy(), ORDER[norm]))


def attacked(
    member: type[Attack] | Attack,
    norm: Norm,
    *,
    batch_size: int = 16,
    seed: int = 3,
    epsilon: float | None = None,
    classifier: Classifier | None = None,
    data: ImageDataset | None = None,
    samples: int | None = None,
    **more: Any,
) -> tuple[Outcome, Kept, Classifier]:
    classifier = classifier or small_classifier()
    data = data or labelled(classifier, wrong=0)
    if samples is None:
        samples = len(data) if isinstance(member, Attack) or quick(member) else FEWER
    ids = np.arange(samples)
    kept = Kept()
    attack = member if isinstance(member, Attack) else default(member)
    criterion: Criterion = more.pop("criterion", None) or Misclassification(torch.from_numpy(data.labels))
    criterion = criterion[torch.from_numpy(ids)]
    threat = ThreatModel(norm=norm, epsilon=epsilon or EPSILON[norm])
    outcome = run_attack(
        classifier, attack, threat, data, ids, criterion, seed=3, batch_size=batch_size, on_finished=kept, **more
    )
    return outcome, kept, classifier


class Ran(NamedTuple):
    """A run that several tests look at. ``before``: the stored images and the weights, before the attack saw them."""

    outcome: Outcome
    kept: Kept
    classifier: Classifier
    epsilon: float
    data: ImageDataset
    before: tuple[NDArray[np.uint8] | NDArray[np.float32], dict[str, Tensor]]


@cache
def ran(member: type[Attack], norm: Norm, times: int = 1) -> Ran:
    """On the small network, with ``times`` the usual radius."""
    classifier = small_classifier()
    data = labelled(classifier, wrong=0)
    weights = {name: value.clone() for name, value in classifier.state_dict().items()}
    before, epsilon = (data._images.copy(), weights), times * EPSILON[norm]
    outcome, kept, _ = attacked(member, norm, epsilon=epsilon, classifier=classifier, data=data)
    return Ran(outcome, kept, classifier, epsilon, data, before)


def telling(member: type[Attack], norm: Norm) -> Ran:
    """A run at a radius at which somebody is fooled: a weak attack may need a larger one."""
    found = ran(member, norm)
    return found if found.outcome.fooled.any() else ran(member, norm, 3)


@combinations
def test_budget_and_box_are_respected_and_the_verdict_is_the_models(member: type[Attack], norm: Norm) -> None:
    outcome, kept, classifier, epsilon, data, _ = telling(member, norm)
    for position in kept.x:
        distance = length(kept.x_adv[position] - kept.x[position], norm)
        if outcome.fooled[position]:
            assert distance <= epsilon * (1 + 1e-5) + 1e-6
        assert distance == pytest.approx(outcome.distance[position], rel=1e-4, abs=1e-6)
        assert kept.x_adv[position].min() >= 0
        assert kept.x_adv[position].max() <= 1
        logits = classifier(kept.x_adv[position][None])
        assert outcome.prediction[position] == int(logits.argmax())
        assert outcome.confidence[position] == pytest.approx(float(logits.softmax(1).max()), abs=1e-5)
        adversarial = int(logits.argmax()) != data.labels[position]
        assert outcome.fooled[position] == (adversarial and distance <= epsilon * (1 + 1e-5) + 1e-6)
        assert adversarial == np.isfinite(outcome.closest[position])
        assert not member.bounded or outcome.fooled[position] == adversarial
    assert outcome.fooled.any(), "an attack that fools nobody here proves nothing about its budget"


@combinations
def test_the_seed_makes_it_bit_for_bit_and_the_batch_size_does_not_matter(member: type[Attack], norm: Norm) -> None:
    """In float64, since decisions close to the boundary, and many steps, magnify what the batch does to the rounding of float32,
    by how much depends on the processor."""
    classifier = small_classifier().double()
    samples, part = (6, 4) if quick(member) else (4, 3)  # the last of them come into places that others left
    first, kept, _ = attacked(member, norm, batch_size=part, classifier=classifier, samples=samples)
    again, kept_again, _ = attacked(member, norm, batch_size=part, classifier=classifier, samples=samples)
    assert all(torch.equal(kept.x_adv[position], kept_again.x_adv[position]) for position in kept.x_adv)
    untimed = [outcome._replace(seconds=0.0) for outcome in (first, again)]
    assert all(np.array_equal(one, other) for one, other in zip(*untimed, strict=True))
    for batch_size in (1, 100):
        other, kept_other, _ = attacked(member, norm, batch_size=batch_size, classifier=classifier, samples=samples)
        assert np.array_equal(first.fooled, other.fooled)
        assert np.array_equal(first.forwards, other.forwards)
        assert np.array_equal(first.backwards, other.backwards)
        assert all(
            torch.allclose(kept.x_adv[position], kept_other.x_adv[position], rtol=0, atol=1e-6)
            for position in kept.x_adv
        )


@combinations
def test_the_input_is_untouched(member: type[Attack], norm: Norm) -> None:
    _, kept, classifier, _, data, (before, weights) = ran(member, norm)
    assert np.array_equal(before, data._images)
    assert all(torch.equal(value, weights[name]) for name, value in classifier.state_dict().items())
    assert all(torch.equal(kept.x[position], data.images([position])[0]) for position in kept.x)


@combinations
def test_a_targeted_attack_reaches_its_class(member: type[Attack], norm: Norm) -> None:
    classifier = small_classifier()
    data = labelled(classifier, wrong=0)
    targets = torch.from_numpy((data.labels + 1) % 5)
    for epsilon in (EPSILON[norm], 3 * EPSILON[norm]):  # a weak attack may need a larger one
        outcome, _, _ = attacked(member, norm, epsilon=epsilon, criterion=TargetedMisclassification(targets))
        if outcome.fooled.any():
            break
    assert np.array_equal(np.isfinite(outcome.closest), outcome.prediction == targets[: len(outcome.closest)].numpy())
    assert np.array_equal(outcome.fooled, outcome.closest <= epsilon * (1 + 1e-5) + 1e-6)
    assert outcome.fooled.any() or member.control, "a control has no target"


def thorough(member: type[Attack], norm: Norm) -> Attack:
    """In L1 a step moves a few entries, so that a random start takes many steps to undo. A loss that is an expectation over
    rotations has a boundary of its own, so they are left out."""
    many = {"steps": 100, "step_size": 0.1} if norm is Norm.L1 and "step_size" in member.model_fields else {}
    upright = {"degrees": 0.0} if "degrees" in member.model_fields else {}
    return default(member, **many, **upright)


def fewest_pixels(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """How many pixels must change to cross the plane, (B,): those first whose channels, moved to 0 or 1, gain most."""
    helpful = weight.view(SHAPE).sign() * (1 - 2 * labels).view(-1, 1, 1, 1)
    gain = torch.where(helpful > 0, 1 - x, x).sum(1).flatten(1).sort(1, descending=True).values
    return 1 + (gain.cumsum(1) <= (x.flatten(1) @ weight).abs()[:, None]).sum(1)


@combinations
def test_success_begins_just_past_the_boundary_of_a_linear_model(member: type[Attack], norm: Norm) -> None:
    """Distance to the plane: |w.x + b| / (dual norm of w), exactly; w is equal in size everywhere, so the box stays idle.

    An L2 run from a random start needs some room past the boundary: ten steps do not align it with w perfectly. An attack
    that learns from other samples has none here to learn from, and fools nobody.
    """
    room = CONTROL_ROOM if member.control else ROOM.get(norm, 1.05) if member.uses_gradients else SEARCH_ROOM
    torch.manual_seed(0)
    weight = torch.randint(0, 2, (int(np.prod(SHAPE)),)).float() * 2 - 1
    classifier = Classifier(Linear(weight, 0.0), input_shape=SHAPE, num_classes=2)
    n = FEWER if quick(member) else FEWER // 2
    x = torch.from_numpy(np.random.default_rng(0).integers(100, 156, (n, *SHAPE), dtype=np.uint8)) / 255
    side = x.flatten(1) @ weight
    labels = (side > 0).long()
    if norm is Norm.L0:
        distances = fewest_pixels(x, weight, labels).double().numpy()
    else:
        # Moved along w, half of the images lie at one distance, half at another: one run attacks all of the same radius.
        wanted = torch.where(torch.arange(n) % 2 == 0, 4.5, 5.5)
        x = x + ((wanted - side) / weight.square().sum()).view(-1, 1, 1, 1) * weight.view(SHAPE)
        dual = float(np.linalg.norm(weight.numpy(), {Norm.LINF: 1, Norm.L2: 2, Norm.L1: np.inf}[norm]))
        distances = (wanted.double() / dual).numpy()
    data = ImageDataset(x.permute(0, 2, 3, 1).numpy(), np.zeros(n, np.int64))
    for factor, succeeds in ((room, not default(member).fitted_on), (0.99, False)):
        radii = distances * factor
        if norm is Norm.L0:
            radii = np.floor(radii)
        for radius in np.unique(radii[radii > 0]):  # in L0 one pixel may be enough
            at_it = np.flatnonzero(radii == radius)
            # One by one, where an attack learns from the others of its run.
            for ids in [at_it] if not default(member).fitted_on else at_it[:, None]:
                outcome = run_attack(
                    classifier,
                    thorough(member, norm),
                    ThreatModel(norm=norm, epsilon=float(radius)),
                    data,
                    ids,
                    Misclassification(labels[ids]),
                    seed=0,
                    batch_size=16,
                )
                assert (outcome.fooled == succeeds).all(), (ids, factor, distances[ids], outcome.fooled)


@combinations
def test_a_run_spends_at_most_its_passes_and_a_fooled_sample_no_more(member: type[Attack], norm: Norm) -> None:
    outcome, attack = ran(member, norm).outcome, default(member)
    assert (outcome.forwards + 2 * outcome.backwards).max() <= attack.runs * attack.cost + 1, (
        "one more to confirm a success"
    )
    assert (outcome.forwards[outcome.fooled] <= outcome.forwards[~outcome.fooled].max(initial=10**9)).all()


@pytest.mark.parametrize("member", list(ATTACKS), ids=lambda member: member.kind_name())
def test_a_bad_parameter_gets_a_clear_error(member: type[Attack]) -> None:
    with pytest.raises(SpecError, match=f"attack {member.kind_name()}: nonsense is not a parameter"):
        ATTACKS.parse(f"{member.kind_name()}:nonsense=1")
    for name, schema in member.model_json_schema()["properties"].items():
        if "minimum" in schema or "exclusiveMinimum" in schema:
            with pytest.raises(SpecError, match=f"{name}: expected .*greater than.*, got"):
                ATTACKS.build(member.kind_name(), {name: -1})


def test_rows_that_are_fooled_leave_and_others_take_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes are full: with batch size B the model is called about (total row passes) / B times, not once per straggler."""
    classifier = small_classifier()
    sizes: list[int] = []
    data = labelled(classifier, wrong=0)
    monkeypatch.setattr(
        "auditor.attacking.harness.attack_run.fast_copy", lambda classifier, images=None: classifier
    )  # all passes through one network
    classifier.network.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    outcome = run_attack(
        classifier, ATTACKS.parse("pgd:steps=20,step_size=0.05,random_start=false"), ThreatModel(epsilon=0.1), data,
        np.arange(len(data)), Misclassification(torch.from_numpy(data.labels)), seed=3, batch_size=8,
    )  # fmt: skip
    assert sum(sizes) == outcome.forwards.sum()
    spread = len(set(outcome.forwards.tolist()))
    assert spread > 3, "the samples must need different numbers of steps for this to show anything"
    full = [size for size in sizes if size == 8]
    assert 8 * len(full) >= 0.6 * sum(sizes)


def test_restarts_are_tried_until_one_succeeds_and_success_is_their_union() -> None:
    one, _, _ = attacked(ATTACKS.parse("pgd:steps=2,step_size=0.5"), Norm.LINF)
    four, _, _ = attacked(ATTACKS.parse("pgd:steps=2,step_size=0.5,restarts=4"), Norm.LINF)
    assert (four.fooled >= one.fooled).all()
    assert np.array_equal(four.forwards[one.fooled], one.forwards[one.fooled]), "fooled at once: no further run"
    assert (four.forwards[~four.fooled] == 4 * 3).all(), "four runs of two steps and a last look each"


def test_without_early_stop_every_sample_runs_all_steps_and_the_last_image_counts() -> None:
    outcome, kept, classifier = attacked(ATTACKS.parse("pgd:steps=6"), Norm.LINF, early_stop=False)
    assert (outcome.forwards == 7).all()
    assert (outcome.backwards == 6).all()
    data = labelled(classifier, wrong=0)
    for position, x_adv in kept.x_adv.items():
        assert outcome.fooled[position] == (int(classifier(x_adv[None]).argmax()) != data.labels[position])


def test_a_norm_that_the_attack_does_not_know_and_useless_restarts_are_refused() -> None:
    class OnlyL2(FGSM):
        norms = frozenset({Norm.L2})

    with pytest.raises(SpecError, match="works in L2, not in L∞"):
        attacked(OnlyL2(), Norm.LINF)
    with pytest.raises(SpecError, match="without random_start would repeat the same run"):
        ATTACKS.parse("pgd:restarts=3,random_start=false")
    with pytest.raises(SpecError, match="early stopping"):
        attacked(ATTACKS.parse("pgd:restarts=2"), Norm.LINF, early_stop=False)


def test_images_without_an_answer_are_fooled_but_reach_no_target() -> None:
    """An audit stops, or names them (test_unanswered); the attack itself takes NaN for what it is: no class."""
    classifier = small_classifier()
    data = labelled(classifier)
    labels = torch.from_numpy(data.labels[:4])
    sequence(classifier)[0].weight.data.fill_(torch.nan)
    for criterion, fooled in ((Misclassification(labels), True), (TargetedMisclassification((labels + 1) % 5), False)):
        outcome = run_attack(
            classifier, ATTACKS.parse("fgsm"), ThreatModel(), data, np.arange(4), criterion, seed=0, batch_size=4
        )
        assert (outcome.fooled == fooled).all()
        assert (outcome.prediction == NO_CLASS).all()


def test_an_attack_that_leaves_its_budget_is_stopped_by_the_harness() -> None:
    class Cheat(FGSM):
        def step(self, rows: Any, query: Any) -> Tensor:
            query.gradient()
            return rows.x + 100.0

    outcome, kept, _ = attacked(Cheat(), Norm.LINF)
    assert outcome.distance.max() <= EPSILON[Norm.LINF] * (1 + 1e-5)
    assert all((kept.x_adv[position] <= 1).all() for position in kept.x_adv)


def test_samples_without_a_gradient_are_counted_as_blind() -> None:
    classifier = small_classifier()
    with torch.no_grad():
        sequence(classifier)[5].weight *= 1e4  # float32 softmax saturates: the loss is exactly 0 and so is its gradient
    outcome, _, _ = attacked(ATTACKS.parse("pgd:random_start=false"), Norm.LINF, classifier=classifier)
    assert outcome.blind.mean() > 0.5


def test_progress_can_stop_an_attack() -> None:
    class Enough(Exception):
        pass

    def stop(share: float, what: str) -> None:
        raise Enough

    with pytest.raises(Enough):
        attacked(ATTACKS.parse("pgd"), Norm.LINF, on_progress=stop)


def test_an_empty_list_of_samples_is_no_error() -> None:
    classifier = small_classifier()
    outcome = run_attack(
        classifier, ATTACKS.parse("pgd"), ThreatModel(), labelled(classifier), np.zeros(0, np.int64),
        Misclassification(torch.zeros(0, dtype=torch.int64)), seed=0, batch_size=4,
    )  # fmt: skip
    assert len(outcome.fooled) == 0
    assert isinstance(EvaluationError("x"), AuditorError)
