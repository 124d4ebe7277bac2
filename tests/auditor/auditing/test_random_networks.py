"""Networks that answer at random: known by preflight, attacked through the mean of draws, judged by fresh ones, repeatable."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from auditor.attacking.attack import ATTACKS, Attack
from auditor.attacking.attacks.auto_attack import STAGES
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.attack_run import AttackRun
from auditor.attacking.harness.jury import Jury
from auditor.attacking.records import AttackRecord, worst_case
from auditor.attacking.threat import Norm, ThreatModel
from auditor.auditing import audit
from auditor.auditing.check import CHECKS
from auditor.auditing.plan import plan
from auditor.auditing.result import AuditResult
from auditor.auditing.spec import AuditSpec
from auditor.auditing.vet import vet
from auditor.defending.defense import DEFENSES
from auditor.defending.measuring import measure_table
from auditor.defending.playground import PlaySpec, play
from auditor.defending.spec import TableSpec
from auditor.hardening.learning.validation import at_random, validate
from auditor.kit.statistics.estimate import Rate
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import FittedState
from auditor.models.drawing import Sampling, View
from auditor.models.preflight import drawn, fixed_draw, unrepeatable
from auditor.neural.analysis import ANALYSES
from auditor.report.comparison import compare
from auditor.report.html import render
from auditor.show.blocks import Table
from tests.narrow import sequence, sum_of, typed
from tests.nets import SHAPE, labelled, random_images, small_cnn

EPSILON = 0.1
FLIPS = 0.2


class Flipping(nn.Module):
    """Two classes, class 0 whatever the image; each answer is the other class with a probability of 0.2. Nothing an attacker does
    matters: accuracy on images of class 0 is 80 % in the mean, and 100 % by majority vote."""

    def __init__(self, source: str = "torch") -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.ones(1))
        self.source, self.generator = source, torch.Generator().manual_seed(1)

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        draws = {
            "torch": lambda: torch.rand(n),
            "numpy": lambda: torch.from_numpy(np.random.rand(n)),
            "python": lambda: torch.tensor([random.random() for _ in range(n)]),
            "its own": lambda: torch.rand(n, generator=self.generator),
        }
        sign = torch.where(draws[self.source]() < FLIPS, -1.0, 1.0).to(x)
        side = sign * (self.unit + 0.001 * x.flatten(1).sum(1))
        return torch.stack([side, -side], 1)


class Resized(nn.Module):
    """Shrinks the image to a random size and puts it at a random place."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        size = int(torch.randint(22, 29, ()))
        small = functional.interpolate(x, (size, size), mode="bilinear", align_corners=False)
        left, top = (int(torch.randint(0, 29 - size, ())) for _ in range(2))
        return self.network(functional.pad(small, (left, 28 - size - left, top, 28 - size - top)))


class Dropping(nn.Module):
    """Leaves its dropout in training mode of its own accord, as Monte Carlo dropout does."""

    def __init__(self, network: nn.Module, share: float = 0.1) -> None:
        super().__init__()
        self.network, self.drop = network, nn.Dropout(share)

    def forward(self, x: Tensor) -> Tensor:
        self.drop.train()
        *body, head = sequence(self.network)
        for layer in body:
            x = layer(x)
        return head(self.drop(x))


def flipping(source: str = "torch") -> Classifier:
    return Classifier(Flipping(source), input_shape=SHAPE, num_classes=2, name="flipping")


def zeros(n: int) -> ImageDataset:
    return ImageDataset(random_images(n), np.zeros(n, np.int64), sha256="e" * 64)


def spec(*attacks: Any, **more: Any) -> AuditSpec:
    values: dict[str, Any] = {
        "threats": (ThreatModel(epsilon=EPSILON),), "attacks": attacks or (ATTACKS.build("pgd", {"steps": 3}),), "analyses": (),
        "curve": (), "curve_to_zero": False, "checks": (), "gallery": 2, "examples": 0, "draws": 30, "device": "cpu",
    }  # fmt: skip
    return AuditSpec(**values | more)


# -- what is right is known -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attack",
    [
        ATTACKS.build("pgd", {"steps": 2, "restarts": 2}),
        ATTACKS.build("apgd-ce", {"steps": 3, "eot": 10}),
        ATTACKS.build("square", {"queries": 10}),
        ATTACKS.build("deepfool", {"steps": 3, "budget": "minimal"}),
        ATTACKS.build("pgd", {"steps": 2, "budget": "minimal"}),
        ATTACKS.build("hop-skip-jump", {"steps": 1, "most_samples": 20, "first_samples": 5}),
    ],
    ids=lambda attack: f"{attack.kind} {attack.budget}",
)
def test_an_attack_that_cannot_do_anything_lowers_nothing(attack: Attack) -> None:
    """Among the answers asked some are wrong: that used to count as fooled, on every sample."""
    result = audit.run(spec(attack), flipping(), zeros(40))
    threat = result.spec.threats[0]
    for rate in (result.clean_accuracy, result.robust_accuracy(threat), result.attack_accuracy(result.records[0])):
        assert rate.value == pytest.approx(1 - FLIPS, abs=0.04)
        assert rate.n == 40
    headline = result.headlines[0]
    assert headline.majority == Rate.count(40, 40)
    assert (
        headline.said
        == f"at most {result.robust_accuracy(threat)} on average over 30 draws; {headline.majority} by majority vote"
    )
    assert not any(result.records[0].fooled)


def test_stages_of_an_ensemble_and_further_attacks_do_not_add_up_wrong_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of many noisy shares would be too low: each image is chosen by other draws than those that judge it."""
    attacks = [
        ATTACKS.build("pgd", {"steps": 1, "restarts": 8}),
        ATTACKS.build("fgsm", {}),
        ATTACKS.build("random-noise", {}),
    ]
    result = audit.run(spec(*attacks, draws=10, curve=(0.5, 2.0)), flipping(), zeros(100))
    assert result.robust_accuracy(result.spec.threats[0]).value == pytest.approx(1 - FLIPS, abs=0.035)
    stages = (("apgd-ce", {"steps": 2, "eot": 5}), ("apgd-dlr", {"steps": 2, "eot": 5}))
    monkeypatch.setitem(STAGES, "rand", stages)
    classifier, data = drawn(flipping(), zeros(8).images(np.arange(8)), 0), zeros(30)
    shown: list[int] = []
    outcome = run_attack(
        classifier, ATTACKS.build("auto-attack", {"version": "rand"}), ThreatModel(epsilon=EPSILON), data, np.arange(6),
        Misclassification(torch.zeros(6, dtype=torch.int64)), seed=0, batch_size=6, draws=5,
        on_finished=lambda finished: shown.extend(finished.position.tolist()),
    )  # fmt: skip
    assert sorted(shown) == list(range(6))
    assert outcome.share is not None
    assert not outcome.fooled.any() or outcome.share.mean() < 0.6


@pytest.mark.parametrize("source", ["torch", "numpy", "python"])
def test_the_same_spec_gives_the_same_number_and_leaves_the_callers_generators_alone(source: str) -> None:
    found = []
    for run in range(3):
        torch.manual_seed(run), np.random.seed(run), random.seed(run)
        torch.rand(run)
        before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy(), random.getstate()
        found.append(audit.run(spec(draws=5), flipping(source), zeros(20)))
        assert torch.equal(before[0], torch.get_rng_state())
        assert np.array_equal(before[1], np.random.get_state(legacy=False)["state"]["key"])
        assert before[2] == random.getstate()
    assert found[0].samples == found[1].samples == found[2].samples
    first, *others = ([record.model_dump(exclude={"seconds"}) for record in result.records] for result in found)
    assert others == [first, first]
    assert found[0].clean_accuracy.value not in (0, 1)
    other = audit.run(spec(draws=5, seed=1), flipping(source), zeros(20))
    assert other.samples.right != found[0].samples.right


def test_numbers_that_follow_from_no_seed_are_withheld() -> None:
    result = audit.run(spec(), flipping("its own"), zeros(20))
    assert "the seed does not decide how" in result.headline_withheld
    assert result.headlines[0].robust_accuracy is None
    (flag,) = unrepeatable(drawn(flipping("its own"), zeros(8).images(np.arange(8)), 0), zeros(8).images(np.arange(8)))
    assert flag.severity == "severe"


# -- beside an attack that we did not write with the product ----------------------------------------------------------


def eot_pgd(network: nn.Module, x: Tensor, y: Tensor, steps: int, draws: int) -> Tensor:
    x_adv = (x + EPSILON * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        point = x_adv.clone().requires_grad_(True)
        loss = sum_of(functional.cross_entropy(network(point), y, reduction="sum") for _ in range(draws))
        (gradient,) = torch.autograd.grad(loss, point)
        x_adv = torch.max(torch.min(x_adv + EPSILON / 4 * gradient.sign(), x + EPSILON), x - EPSILON).clamp(0, 1)
    return x_adv


@pytest.fixture(scope="module")
def fashion(shared: Any) -> tuple[nn.Sequential, ImageDataset]:
    """A small network, trained for seconds, and test images."""
    training, test = (np.load(shared / "data" / f"fashion-mnist-{part}.npz") for part in ("train", "test"))
    x = torch.from_numpy(training["images"][:3000]).float().reshape(-1, 1, 28, 28) / 255
    y = torch.from_numpy(training["labels"][:3000]).long()
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    step = torch.optim.Adam(network.parameters(), 1e-3)
    for start in [*range(0, 3000, 100)] * 2:
        step.zero_grad()
        functional.cross_entropy(network(x[start : start + 100]), y[start : start + 100]).backward()
        step.step()
    images = test["images"][:40].reshape(40, 28, 28, 1)
    return network.eval(), ImageDataset(images, test["labels"][:40].astype(np.int64), sha256="f" * 64)


@pytest.mark.parametrize("kind", [Resized, Dropping])
def test_the_headline_is_that_of_an_independent_averaging_attack(
    kind: type[nn.Module], fashion: tuple[nn.Sequential, ImageDataset]
) -> None:
    plain, data = fashion
    network = kind(plain)
    x, y = data.images(np.arange(40)), torch.from_numpy(data.labels)
    torch.manual_seed(0)
    x_adv = eot_pgd(network, x, y, steps=10, draws=8)
    with torch.no_grad():
        clean, left = (torch.stack([network(images).argmax(1) for _ in range(200)]) for images in (x, x_adv))
    majority = float((left.mode(0).values == y).double().mean())
    names = ("determinism", "silent_success", "eval_mode", "unstable_predictions")
    checks = tuple(CHECKS.build(name, {}) for name in names)
    attack = ATTACKS.build("pgd", {"steps": 10})
    classifier = Classifier(network, input_shape=(1, 28, 28), num_classes=10)
    result = audit.run(spec(attack, draws=16, checks=checks), classifier, data)
    assert not result.headline_withheld
    headline = result.headlines[0]
    assert result.clean_accuracy.value == pytest.approx(float((clean == y).double().mean()), abs=0.06)
    assert headline.robust_accuracy is not None
    assert headline.majority is not None
    assert headline.robust_accuracy.value == pytest.approx(float((left == y).double().mean()), abs=0.06)
    assert headline.majority.value == pytest.approx(majority, abs=0.07)
    said = {flag.name: flag.severity for flag in result.flags}
    assert said["random output"] == "warning"
    assert "success not counted" not in said
    assert ("dropout at inference" in said) is (kind is Dropping)
    if kind is Resized:
        again = audit.run(spec(attack, draws=16), classifier, data)
        assert again.headlines[0] == headline


# -- a network without randomness -------------------------------------------------------------------------------------


def test_a_network_without_randomness_is_attacked_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judged run is not for it: no further pass, no further field, and its draws do not matter."""
    classifier = Classifier(small_cnn(), input_shape=SHAPE, num_classes=5)
    data = labelled(classifier, 20, wrong=3)
    assert drawn(classifier, data.images(np.arange(8)), 0) is classifier
    asked: list[type] = []
    once = AttackRun.outcome

    def noted(run: AttackRun) -> Any:
        asked.append(type(run))
        return once(run)

    monkeypatch.setattr(AttackRun, "outcome", noted)
    few, many = (audit.run(spec(draws=draws), classifier, data) for draws in (1, 50))
    assert set(asked) == {AttackRun}
    assert [record.model_dump(exclude={"seconds"}) for record in few.records] == [
        record.model_dump(exclude={"seconds"}) for record in many.records
    ]
    assert few.records[0].share is None
    assert few.samples.right is None
    assert not few.random
    assert few.headlines[0].majority is None
    x, y = data.images(np.arange(20)), torch.from_numpy(data.labels)
    right = classifier.logits(x).argmax(1) == y
    assert few.clean_accuracy == Rate.count(int(right.sum()), 20)
    most = 1 + 3  # one pass before each step and one at the end
    assert max(few.records[0].forwards) <= most + 1
    assert sum(plan(spec(draws=1), 20, SHAPE).values()) == sum(plan(spec(draws=50), 20, SHAPE).values())


def test_an_audit_of_a_random_model_is_known_to_take_longer() -> None:
    cost = [sum(plan(spec(draws=20), 20, SHAPE, random=known).values()) for known in (False, True)]
    assert cost[1] > 15 * cost[0]


# -- the parts --------------------------------------------------------------------------------------------------------


def test_the_worst_case_is_chosen_by_first_draws_and_counted_by_fresh_ones() -> None:
    def record(chosen: list[float], share: list[float], distance: float, epsilon: float) -> AttackRecord:
        n = len(chosen)
        return AttackRecord(
            attack=ATTACKS.build("fgsm", {}), threat=ThreatModel(epsilon=epsilon), role="headline", positions=list(range(n)),
            fooled=[value > 0.5 for value in share], prediction=[0] * n, confidence=[1.0] * n, distance=[distance] * n,
            closest=[distance if value > 0.5 else None for value in share], forwards=[1] * n, backwards=[1] * n,
            blind=[False] * n, seconds=0.0, share=share, chosen=chosen,
        )  # fmt: skip

    records = [record([0.9, 0.2, 0.4], [0.7, 0.9, 0.1], 0.1, 0.1), record([0.5, 0.6, 0.1], [1.0, 0.3, 0.9], 0.2, 0.2)]
    right, chosen = np.array([1.0, 1.0, 0.5]), np.array([1.0, 1.0, 0.3])
    small = worst_case(records, ThreatModel(epsilon=0.1), right, chosen)
    assert small.right.tolist() == pytest.approx(
        [0.3, 0.1, 0.5]
    )  # the last: the clean image does worse by its first draws
    assert small.fooled.tolist() == [True, True, False]
    large = worst_case(records, ThreatModel(epsilon=0.2), right, chosen)
    assert large.right.tolist() == pytest.approx([0.3, 0.7, 0.5])
    assert large.fooled.tolist() == [True, False, False]
    assert worst_case(records, ThreatModel(norm=Norm.L2, epsilon=9), right, chosen).right.tolist() == right.tolist()


def test_a_mean_of_shares_has_the_interval_of_its_rate() -> None:
    hits = np.arange(40) < 13
    same = Rate.mean(hits.astype(np.float64))
    expected = stats.binomtest(13, 40).proportion_ci(method="wilson")
    assert (same.hits, same.n, same.value) == (13, 40, 13 / 40)
    assert (same.low, same.high) == pytest.approx((expected.low, expected.high))
    assert Rate.mean(np.zeros(0)).value is None


def test_several_answers_are_averaged_with_their_gradient() -> None:
    """The mean probability of four draws, and its gradient, restated with the seeds of the draws."""
    network = Dropping(small_cnn(), share=0.5)
    classifier = Classifier(network, input_shape=SHAPE, num_classes=5).sampled(Sampling(3))
    view = classifier.seen(View(adaptive=True, draws=4))
    x = torch.from_numpy(random_images(6)).permute(0, 3, 1, 2).float() / 255
    point = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(view(point).logsumexp(1).sum() + view(point)[:, 0].sum(), point)
    assert torch.equal(view.logits(x), view.logits(x))
    assert not torch.equal(view.logits(x), classifier.seen(View(draws=4)).logits(x))
    with torch.no_grad():
        assert torch.allclose(view(x).exp().sum(1), torch.ones(6), atol=1e-5)
    moved = x + 1e-3 * gradient.sign()
    assert not torch.equal(view.logits(moved), view.logits(x)), "another image has other random numbers"
    fixed = fixed_draw(classifier)
    one, other = fixed.logits(x), fixed.logits(x + 1e-6)
    assert float((one - other).abs().amax()) < 1e-3
    jury = Jury(classifier, 7, 4)
    hearing = jury.hear(x, "judge")
    assert hearing.votes.sum(1).tolist() == [7.0] * 6
    assert torch.equal(jury.hear(x, "judge").votes, hearing.votes)
    assert hearing.share(hearing.prediction).mul(7).round().tolist() == hearing.votes.amax(1).tolist()


# -- what else measures a model ---------------------------------------------------------------------------------------


def test_vetting_validation_the_playground_and_defenses_know_it_too() -> None:
    classifier, data = flipping(), zeros(60)
    card = vet(classifier, data)
    assert card.random
    assert {flag.name: flag.severity for flag in card.flags}["random output"] == "warning"
    assert card.accuracy is not None
    assert card.accuracy == vet(classifier, data).accuracy
    found = validate(classifier, data, np.arange(60), ThreatModel(epsilon=EPSILON), steps=3, seed=0, batch_size=30)
    for rate in (found.clean, found.robust):
        assert rate.value == pytest.approx(1 - FLIPS, abs=0.07)
    same = validate(classifier, data, np.arange(60), ThreatModel(epsilon=EPSILON), steps=3, seed=0, batch_size=30)
    assert same == found
    (said,) = at_random(classifier, data, np.arange(60), 0)
    assert "means over draws" in said.message
    assert not at_random(Classifier(small_cnn(), input_shape=SHAPE, num_classes=5), data, np.arange(60), 0)
    defense = DEFENSES.build("bit-depth", {"bits": 8})
    played = [
        play(defense.wrap(flipping()), data, 0, PlaySpec(attack=ATTACKS.build("pgd", {"steps": 2}))) for _ in range(2)
    ]
    assert played[0].stages == played[1].stages
    values = {
        "steps": 3,
        "restarts": 1,
        "draws": 30,
        "queries": 10,
        "decision_steps": 20,
        "threat": ThreatModel(epsilon=EPSILON),
    }
    table = measure_table(
        flipping(),
        [defense],
        [FittedState()],
        data,
        np.arange(30),
        TableSpec(**values, static=(ATTACKS.build("fgsm", {}),)),
    )
    assert table.random
    for rate in (table.benign, table.headline.accuracy, table.worst):
        assert rate.value == pytest.approx(1 - FLIPS, abs=0.05)
    assert table.headline.majority == Rate.count(30, 30)
    assert "random defense" in {flag.name for flag in table.flags}


def test_the_report_and_a_comparison_name_mean_and_majority() -> None:
    result = audit.run(spec(draws=10, analyses=()), flipping(), zeros(20))
    page = render(result)
    assert "mean over 10 draws" in page
    assert "majority vote" in page
    assert "at random" in page
    again = AuditResult.model_validate_json(result.model_dump_json())
    assert again.headlines == result.headlines
    threat = result.spec.threats[0]
    rows = typed(compare(result, result)[0].blocks[-1], Table).rows
    assert [row["what"] for row in rows] == [
        "clean accuracy, majority vote", "clean accuracy, mean over draws",
        f"robust accuracy, {threat}, majority vote", f"robust accuracy, {threat}, mean over draws",
    ]  # fmt: skip


def test_analyses_look_at_one_draw_and_say_so() -> None:
    network = Dropping(small_cnn(), share=0.3)
    classifier = Classifier(network, input_shape=SHAPE, num_classes=5)
    data = labelled(Classifier(small_cnn(), input_shape=SHAPE, num_classes=5), 20, wrong=0)
    analyses = (ANALYSES.build("neuron_sensitivity", {}),)
    runs = [audit.run(spec(analyses=analyses, draws=3), classifier, data) for _ in range(2)]
    assert runs[0].findings == runs[1].findings
    assert "neurons of one draw" in {flag.name for flag in runs[0].flags}
