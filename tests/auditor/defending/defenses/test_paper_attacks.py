"""The adaptive attacks of the NIP paper beside their formulas, by double backpropagation in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.attacking.attack import ATTACKS
from auditor.attacking.threat import ThreatModel
from auditor.defending.bench import Bench
from auditor.defending.nip.adaptive import InfluenceAttack, paper_attacks
from auditor.defending.nip.published import PublishedCode
from auditor.models.classifier import Classifier
from auditor.neural.probes.head import head_of
from tests.narrow import sequence
from tests.nets import deeper_classifier, labelled

K = 2


def influence(classifier: Classifier, x: Tensor) -> Tensor:
    """Equation 2 by autograd: derivative of the confidence by each feature, times the feature, with a graph."""
    z = torch.nn.Sequential(*list(sequence(classifier))[:10])(classifier.normalize(x))
    confidence = sequence(classifier)[10](z).softmax(1).amax(1)
    (slope,) = torch.autograd.grad(confidence.sum(), z, create_graph=True)
    return slope * z


def by_hand(classifier: Classifier, kind: str, x: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    before = influence(classifier, x.clone().requires_grad_()).detach()
    order = before.sort(dim=1, descending=True, stable=True).indices
    front, rest, tail = order[:, :K], order[:, K:-K], order[:, -K:]
    if kind in ("ala", "i-ala"):
        z = torch.nn.Sequential(*list(sequence(classifier))[:10])(classifier.normalize(points))
        return (z.gather(1, tail).sum(1) - z.gather(1, front).sum(1)).sum()
    change = (influence(classifier, points) - before).square()
    loss = 0.7 * cross_entropy(classifier(points), labels, reduction="none")
    return (loss - change.mean(1) if kind == "s-ala" else loss + change.gather(1, rest).mean(1)).sum()


@pytest.mark.parametrize("kind", ["ala", "i-ala", "s-ala", "r-ala"])
def test_the_printed_steps_are_those_of_the_formula(kind: str) -> None:
    classifier = deeper_classifier().double()
    data = labelled(classifier, 8)
    x, labels = 0.25 + 0.5 * data.images(np.arange(8)).double(), torch.from_numpy(data.labels)
    step = (
        1.0 if kind in ("s-ala", "r-ala") else 0.01
    )  # where the influence has not changed, its change has no gradient
    attack = InfluenceAttack(kind=kind, literal=True, step=step, steps=3, weight=0.7, front=K, tail=K)
    expected = x
    for _ in range(1 if kind == "ala" else 3):
        points = expected.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(by_hand(classifier, kind, x, points, labels), points)
        expected = (expected + step * gradient).clamp(0, 1)
    assert not torch.equal(expected, x)
    assert torch.allclose(attack.attack(classifier, x, labels, ThreatModel().ball(x)), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("attack", paper_attacks(), ids=lambda item: f"{item.kind}-{item.literal}")
def test_images_stay_in_the_box_and_within_epsilon_unless_printed_otherwise(attack: InfluenceAttack) -> None:
    classifier = deeper_classifier()
    data = labelled(classifier, 8)
    x, ball = data.images(np.arange(8)), ThreatModel(epsilon=0.03).ball(data.images(np.arange(8)))
    x_adv = attack.attack(classifier, x, torch.from_numpy(data.labels), ball)
    assert x_adv.amin() >= 0
    assert x_adv.amax() <= 1
    assert not x_adv.requires_grad
    if not attack.literal:
        assert ball.distance(x_adv, x).amax() <= 0.03 + 1e-6


def test_i_ala_raises_tail_minus_front() -> None:
    classifier = deeper_classifier()
    data = labelled(classifier, 8)
    x, labels = data.images(np.arange(8)), torch.from_numpy(data.labels)
    attack = InfluenceAttack(kind="i-ala", steps=10)
    x_adv = attack.attack(classifier, x, labels, ThreatModel(epsilon=0.03).ball(x))
    before = by_hand(classifier, "ala", x, x, labels)
    assert by_hand(classifier, "ala", x, x_adv, labels) > before
    head_of(classifier)  # the hooks are off again


def test_the_published_code_knows_what_no_defense_can() -> None:
    """Minimal adversarial images: with the sign oracle both signs are tried, so that it restores at least as many; a step of no
    size restores none."""
    classifier = deeper_classifier()
    data = labelled(classifier, 40, wrong=0)
    bench = Bench(data, np.arange(40), ThreatModel(epsilon=1.0), 0, 16)
    found = bench.attacked(classifier, ATTACKS.build("pgd", {"budget": "minimal"}), np.arange(40))
    x, twins = bench.x, found.x_adv
    samples = torch.arange(40)
    assert found.adversarial.all()
    shares = {}
    for pair in (True, False):
        for sign in (True, False):
            code = PublishedCode(front=2, tail=2, size=0.02, pair_oracle=pair, sign_oracle=sign)
            shares[pair, sign] = code.restored(classifier, x, twins, samples, 0)
    assert (shares[True, True] >= shares[True, False]).all()
    assert (shares[False, True] >= shares[False, False]).all()
    control = PublishedCode(size=0.02, direction="random").restored(classifier, x, twins, samples, 0)
    assert control.double().mean() > 0.5, "a random direction restores most of what is barely misclassified"
    assert not PublishedCode(front=2, tail=2, size=0.0).restored(classifier, x, twins, samples, 0).any()
