"""PAT, ALP, TRADES, MART and fast adversarial training, each beside its formula, and the attack that they share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.outcome import Finished
from auditor.attacking.threat import Norm, ThreatModel
from auditor.hardening.hardening import Hardening, TrainingStep
from auditor.hardening.learning.adversary import Adversarial
from auditor.models.dataset import ImageDataset
from tests.auditor.hardening.hardenings.given import data, method, step_of
from tests.auditor.hardening.hardenings.plain import gradient, networks_output, nll, probabilities
from tests.narrow import sequence, sum_of
from tests.nets import deeper_classifier

Formula = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
"""From the network, x, x' and the labels to the loss, image by image."""


def twins(hardening: Hardening, step: TrainingStep, **more: Any) -> Tensor:
    assert isinstance(hardening, Adversarial)
    return hardening.adversarial(step, **more)


def check(hardening: Hardening, formula: Formula, step: TrainingStep, x_adv: Tensor) -> None:
    """Value and gradient by every weight."""
    expected = formula(step.trainee, step.x, x_adv, step.labels)
    wanted = gradient(expected, step)
    got = hardening.loss(step).loss
    assert got.item() == pytest.approx(expected.item(), rel=1e-12)
    for one, other in zip(gradient(got, step), wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-12)


def pat(network: Any, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    clean, twin = networks_output(network, x), networks_output(network, x_adv)
    return sum_of(0.5 * nll(clean[i], y[i]) + 0.5 * nll(twin[i], y[i]) for i in range(len(x))) / len(x)


def alp(network: Any, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    clean, twin = networks_output(network, x), networks_output(network, x_adv)
    apart = sum((clean[i, k] - twin[i, k]) ** 2 for i in range(len(x)) for k in range(clean.shape[1]))
    return pat(network, x, x_adv, y) + 0.7 * apart / (len(x) * clean.shape[1])


def kl(p: Tensor, q: Tensor) -> Tensor:
    return sum_of(p[k] * (p[k].log() - q[k].log()) for k in range(len(p)))


def trades(network: Any, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    clean, twin = networks_output(network, x), networks_output(network, x_adv)
    p, q = probabilities(clean), probabilities(twin)
    return sum_of(nll(clean[i], y[i]) + 6.0 * kl(p[i], q[i]) for i in range(len(x))) / len(x)


def mart(network: Any, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    clean, twin = networks_output(network, x), networks_output(network, x_adv)
    p, q = probabilities(clean), probabilities(twin)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(x)):
        rival = max(q[i, k].item() for k in range(q.shape[1]) if k != int(y[i]))
        k = next(k for k in range(q.shape[1]) if k != int(y[i]) and q[i, k].item() == rival)
        bce = -q[i, y[i]].log() - (1.0001 - q[i, k]).log()
        total = total + bce + 5.0 * kl(p[i], q[i]) * (1 - p[i, y[i]])
    return total / len(x)


def fast(network: Any, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    twin = networks_output(network, x_adv)
    return sum_of(nll(twin[i], y[i]) for i in range(len(x))) / len(x)


@pytest.mark.parametrize("batch_norm", ["learn", "fixed"])
@pytest.mark.parametrize(
    ("hardening", "formula"),
    [
        (method("pat"), pat),
        (method("pat", mix=1.0), fast),
        (method("alp", pairing=0.7), alp),
        (method("mart"), mart),
        (method("fast_at"), fast),
        (method("fine_tune"), lambda network, x, x_adv, y: fast(network, x, x, y)),
    ],
    ids=lambda value: value.describe()[:12] if isinstance(value, Hardening) else "",
)
def test_the_loss_is_the_papers(hardening: Hardening, formula: Formula, batch_norm: Any) -> None:
    step = step_of(hardening, rows=6, batch_norm=batch_norm)
    check(hardening, formula, step, twins(hardening, step) if isinstance(hardening, Adversarial) else step.x)


def test_trades_moves_away_from_the_clean_answer_and_descends_the_divergence() -> None:
    hardening = method("trades", steps=10)
    assert isinstance(hardening, Adversarial)
    step = step_of(hardening, rows=6)
    before = probabilities(step.trainee.run(step.x)).detach()

    def away(points: Tensor) -> Tensor:
        q = probabilities(step.trainee.run(points))
        return sum_of(kl(before[i], q[i]) for i in range(len(points)))

    x_adv = twins(hardening, step, objective=away)
    check(hardening, trades, step, x_adv)
    start = hardening.start(step).clamp(0, 1)
    assert 0 < float((start - step.x).abs().max()) < 0.006, "noise of deviation 0.001"
    assert away(x_adv).item() > 10 * away(start).item()


def test_label_smoothing_gives_a_share_of_each_label_to_all_classes() -> None:
    hardening = method("fine_tune")
    step = step_of(hardening, rows=6, label_smoothing=0.2)
    logits = networks_output(step.trainee, step.x)
    targets = torch.full_like(logits, 0.2 / 5)
    targets[torch.arange(6), step.labels] += 0.8
    expected = -(targets * probabilities(logits).log()).sum() / 6
    assert hardening.loss(step).loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_attack_is_pgd_of_the_audits(norm: str) -> None:
    """The harness's PGD, step by step the same, from the clean image."""
    epsilon = {"linf": 0.05, "l2": 0.5}[norm]
    hardening = method("pat", norm=norm, epsilon=epsilon, steps=4, random_start=False, step_size=0.3)
    classifier = deeper_classifier().double()
    step = step_of(hardening, rows=6, classifier=classifier)
    kept: dict[int, Tensor] = {}

    def keep(finished: Finished) -> None:
        kept.update(zip(finished.position.tolist(), finished.x_adv, strict=True))

    dataset: ImageDataset = data(deeper_classifier())
    run_attack(
        classifier, ATTACKS.build("pgd", {"steps": 4, "step_size": 0.3, "random_start": False}),
        ThreatModel(norm=Norm(norm), epsilon=epsilon), dataset, np.arange(6), Misclassification(step.labels),
        seed=0, batch_size=6, early_stop=False, on_finished=keep,
    )  # fmt: skip
    x_adv = twins(hardening, step)
    assert torch.allclose(x_adv, torch.stack([kept[row] for row in range(6)]), atol=1e-9)
    assert float((x_adv - step.x).abs().max()) > 0.01


def test_the_random_start_fills_the_ball_by_the_seed_and_the_step() -> None:
    hardening = method("fast_at")
    assert isinstance(hardening, Adversarial)
    starts = [hardening.start(step_of(hardening, rows=40, number=number)) for number in (0, 0, 1)]
    step = step_of(hardening, rows=40)
    offsets = (starts[0] - step.x) / 0.1
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert float(offsets.abs().max()) <= 1
    # Uniform on [-1, 1], 4320 numbers: mean 0 +- 1/sqrt(3 n), mean square 1/3.
    assert abs(float(offsets.mean())) < 5 / math.sqrt(3 * offsets.numel())
    assert float(offsets.square().mean()) == pytest.approx(1 / 3, rel=0.05)


def test_one_step_of_fast_training_goes_beyond_the_ball_and_is_brought_back() -> None:
    hardening = method("fast_at")
    step = step_of(hardening)
    moved = (twins(hardening, step) - step.x).abs()
    assert float(moved.max()) == pytest.approx(0.1)
    assert float((moved > 0.0999).double().mean()) > 0.4


def test_the_attack_sees_the_running_statistics_and_leaves_them() -> None:
    hardening = method("pat")
    step = step_of(hardening)
    before = {name: value.clone() for name, value in step.trainee.network.state_dict().items()}
    modes: list[bool] = []
    sequence(step.trainee.network)[1].register_forward_hook(
        lambda module, _inputs, _output: modes.append(module.training)
    )
    twins(hardening, step)
    assert modes == [False] * 3
    assert all(torch.equal(before[name], value) for name, value in step.trainee.network.state_dict().items())
    assert all(value.grad is None for value in step.trainee.network.parameters())
    hardening.loss(step)
    assert modes == [False] * 6 + [True] * 2
