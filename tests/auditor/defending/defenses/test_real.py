"""Defenses on real networks and images: what is known of them must show."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.attacking.attack import ATTACKS
from auditor.attacking.threat import ThreatModel
from auditor.data.intake.weights import load_weights
from auditor.data.samples import ARCHITECTURE, IMAGES, WEIGHTS
from auditor.defending.bench import Bench
from auditor.defending.defense import DEFENSES
from auditor.defending.nip.published import PublishedCode
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import NOTHING
from auditor.models.drawing import View
from tests.auditor.real import load

COUNT = 50


@cache
def fashion() -> tuple[Classifier, ImageDataset]:
    """The shipped plain network and its images."""
    network = ARCHITECTURE.build()
    load_weights(network, WEIGHTS["plain"])
    stored = np.load(IMAGES)
    data = ImageDataset(stored["images"].reshape(-1, 28, 28, 1), stored["labels"].astype(np.int64))
    return Classifier(network, input_shape=(1, 28, 28), num_classes=10), data


@pytest.mark.parametrize("text", ["jpeg", "bit-depth:bits=4", "bit-depth:bits=5"])
def test_an_attacker_who_ignores_the_rounding_backwards_breaks_it(
    text: str, shared: Path, cifar: ImageDataset, tmp_path: Path
) -> None:
    """BPDA brings the accuracy of a plain ResNet-20 back to within 3 points of the undefended one."""
    classifier = load("resnet20", shared, tmp_path)
    bench = Bench(cifar, np.arange(COUNT), ThreatModel(), 0, 50)
    attack = ATTACKS.build("apgd-ce", {"steps": 20})
    model = DEFENSES.parse(text).wrap(classifier, NOTHING)
    accuracy = []
    for judge, target in ((classifier, classifier), (model, model.seen(View(adaptive=True)))):
        right, _ = bench.timed(judge)
        found = bench.attacked(target, attack, np.flatnonzero(right.majority))
        accuracy.append(bench.held(judge, right, found).majority.mean())
        assert right.majority.mean() > 0.75
    assert accuracy[1] <= accuracy[0] + 0.03
    right, _ = bench.timed(model)
    blind = bench.held(model, right, bench.attacked(model, attack, np.flatnonzero(right.majority)))
    assert blind.majority.mean() > accuracy[1] + 0.3, "without the approximation the attack is blind"


def test_a_random_direction_restores_what_is_barely_misclassified() -> None:
    """As on digits: with the sign known, a random step of size 0.008 restores 99 % of the closest adversarial images, as many as
    the published code; without, one of size 0.008 restores nearly as many, and one of 0.05, which is too large, fewer; and
    none of those at a large epsilon."""
    classifier, data = fashion()
    positions = np.flatnonzero(Bench(data, np.arange(COUNT), ThreatModel(), 0, 50).timed(classifier)[0].majority)
    shares: dict[tuple[str, str | float], float] = {}
    for budget in ("minimal", "fixed"):
        attack = ATTACKS.build("pgd", {"steps": 10, "budget": budget})
        threat = ThreatModel(epsilon=1.0 if budget == "minimal" else 0.3)
        bench = Bench(data, np.arange(COUNT), threat, 0, 50)
        found = bench.attacked(classifier, attack, positions)
        twins, x, ids = found.x_adv, bench.clean(positions), torch.from_numpy(positions)
        for direction in ("influence", "random"):
            code = PublishedCode(size=0.008, direction=direction)
            shares[budget, direction] = float(code.restored(classifier, x, twins, ids, 0).double().mean())
        for size in (0.008, 0.05):
            control = DEFENSES.build("random-direction", {"size": size}).wrap(classifier)
            shares[budget, size] = float(bench.right(control, twins, positions).mean())
    assert shares["minimal", "random"] > 0.95
    assert shares["minimal", "influence"] <= shares["minimal", "random"] + 0.05
    assert shares["minimal", 0.05] > 0.6
    assert shares["minimal", 0.008] > shares["minimal", 0.05] + 0.1, shares
    assert shares["fixed", "random"] < 0.2


def test_choosing_the_candidate_restores_no_more_than_taking_any() -> None:
    """On the closest adversarial images NIP restores about what a random candidate and noise of its size do."""
    classifier, data = fashion()
    bench = Bench(data, np.arange(COUNT), ThreatModel(epsilon=1.0), 0, 50)
    right, _ = bench.timed(classifier)
    found = bench.attacked(
        classifier, ATTACKS.build("pgd", {"steps": 10, "budget": "minimal"}), np.flatnonzero(right.majority)
    )
    shares = []
    for text in ("nip:quorum=0.8,inputs=300", "random-candidate:quorum=0.8,inputs=300", "gaussian-noise:scale=nip"):
        defense = DEFENSES.parse(text)
        state = defense.fit(classifier, data, np.arange(500, 1000), seed=0)
        shares.append(float(bench.right(defense.wrap(classifier, state), found.x_adv, found.positions).mean()))
    assert shares[0] < max(shares[1:]) + 0.1
    assert min(shares) > 0.4
