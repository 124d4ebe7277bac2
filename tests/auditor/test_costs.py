"""What every member says that it costs, beside the passes that the network is seen to make: a contract over the catalogues.

Costs are what estimates, progress and the budgets of checks are made of. Those of hardenings are counted in
``test_hardening_contract``, those of defenses in ``test_cost``: both watch the network itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from auditor.attacking.attack import Attack
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness import fast
from auditor.attacking.harness.nominal import passes
from auditor.attacking.threat import Norm, ThreatModel
from auditor.auditing import audit
from auditor.auditing.check import CHECKS, Check
from auditor.auditing.inquiry import Inquiry
from auditor.auditing.plan import plan
from auditor.auditing.spec import AuditSpec
from auditor.kit.progress import no_progress
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.likeness import stands_in
from auditor.neural.analysis import ANALYSES, measured
from tests.auditor.attacking.test_attack_contract import combinations, default
from tests.auditor.auditing.test_random_networks import Dropping
from tests.auditor.neural.analyses.given import attacked
from tests.narrow import sequence
from tests.nets import SHAPE, deeper_classifier, labelled, small_cnn
from tests.passes import PassCounter

COPY = 70
"""Passes of single images that prove that a fast copy of the network is one: once an attack, whatever the samples."""

ENDS_EARLY = {
    "apgd-t", "boundary", "deepfool", "fab", "fab-t", "hop-skip-jump", "jsma", "pointwise", "uap",
}  # fmt: skip
"""Attacks that end by themselves, or whose cost counts classes that this network does not have."""

AT_MOST = {
    "feature_transplant": "this network has two convolutions, and few images that the attack fooled",
    "interior_delta": "this network has two layers to search, and passes begin in their midst",
    "k_ns": "the search ends where it succeeds",
    "layer_sharing": "this network has five classes, not ten",
    "neuron_importance": "this network has five classes, not ten, and few images are driven to them",
}
"""Analyses whose cost on this network is far less than what is said: it says what they take at most."""


@pytest.fixture(autouse=True)
def cheaper_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auditor.attacking.attacks.auto_attack.STAGES", {"standard": (("apgd-ce", {"steps": 20}),)})


def test_passes_are_counted() -> None:
    """Seven images once, three of them with their gradient: 10 forward passes and 3 backward ones; half a network is half."""
    classifier = deeper_classifier()
    x = torch.rand(7, *classifier.input_shape)
    with PassCounter(classifier, x) as counted:
        with torch.no_grad():
            classifier(x)
        some = x[:3].clone().requires_grad_()
        classifier(some).sum().backward()
    assert (counted.forwards, counted.backwards, counted.cost) == (10, 3, 16)
    with PassCounter(classifier, x) as part, torch.no_grad():
        sequence(classifier)[:1](classifier.normalize(x))
    assert 0 < part.forwards < 7


@combinations
def test_an_attack_that_fools_nobody_costs_what_is_said_and_records_it(member: type[Attack], norm: Norm) -> None:
    classifier, samples = deeper_classifier(), 8
    data = labelled(classifier, n=samples, wrong=0)
    attack, ids = default(member), np.arange(samples)
    threat = ThreatModel(norm=norm, epsilon=1.0 if norm is Norm.L0 else 1e-5)
    goal = Misclassification(torch.from_numpy(data.labels))
    with PassCounter(classifier, data.images(ids)) as counted:
        outcome = run_attack(classifier, attack, threat, data, ids, goal, seed=0, batch_size=samples)
    assert not outcome.fooled.any()
    said, recorded = samples * passes(attack), float((outcome.forwards + 2 * outcome.backwards).sum())
    copies = COPY * max(1, len(getattr(attack, "stages", ())))
    assert recorded <= counted.cost + 1e-6
    assert counted.cost <= recorded + copies
    assert recorded <= said
    if attack.kind not in ENDS_EARLY:
        assert recorded >= 0.98 * said


@pytest.mark.parametrize("epsilon", [0.0005, 0.5], ids=["nobody is fooled", "many are fooled"])
@pytest.mark.parametrize("kind", list(ANALYSES.members))
def test_an_analysis_costs_about_what_is_said(
    kind: str, epsilon: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    classifier, samples = deeper_classifier(), 40
    subject = attacked(classifier, labelled(classifier, n=samples), tmp_path_factory.mktemp("pairs"), epsilon=epsilon)
    analysis = ANALYSES.build(kind, {})
    with PassCounter(classifier, subject.dataset.images(subject.ids)) as counted:
        finding = measured(analysis, replace(subject, batch_size=128))
    said = analysis.cost(samples)
    assert counted.cost <= 1.04 * said + 10
    if not finding.declined and kind not in AT_MOST:
        assert counted.cost >= 0.6 * said


def constant_classifier() -> Classifier:
    """The same logits for every image: no attack ever succeeds, and no normalization is better than another."""
    classifier = deeper_classifier()
    head = sequence(classifier)[-1]
    assert isinstance(head, nn.Linear)
    head.weight.zero_()
    return classifier


def random_classifier() -> Classifier:
    return Classifier(Dropping(small_cnn()), input_shape=SHAPE, num_classes=5)


class Setting(NamedTuple):
    """Where checks are counted, after FGSM and PGD of so many ``steps``; they may take ``above`` times what is said."""

    made: Callable[[], Classifier]
    epsilon: float
    steps: int = 20
    random: bool = False
    above: float = 1.05


SETTINGS = {
    "many are fooled": Setting(deeper_classifier, 0.1),
    "nobody is ever fooled": Setting(constant_classifier, 0.1),
    # A gradient through the mean of several draws passes forward once more, on its way back: four passes, not three.
    "answers at random": Setting(random_classifier, 0.1, steps=4, random=True, above=1.05 * 4 / 3),
}
AUDITED = 60
SPARED = {"larger_epsilon": "only images that were fooled are attacked, and soon fooled again"}
"""Checks that cost far less than what is said in every setting."""


@dataclass
class Count:
    """Passes made, and copies proven, inside ``counting``."""

    passes: float = 0.0
    copies: int = 0


@contextmanager
def counting(classifier: Classifier, data: ImageDataset) -> Iterator[Count]:
    count, proven = Count(), stands_in

    def noted(*args: Any) -> bool:
        count.copies += 1
        return proven(*args)

    with mock.patch.object(fast, "stands_in", noted), PassCounter(classifier, data.images(np.arange(4))) as counter:
        yield count
    count.passes = counter.cost


class Ran(NamedTuple):
    """An audit, what its plan says of each of its checks, what it took, and what a check would be given."""

    checks: tuple[Check, ...]
    said: dict[Hashable, float]
    counted: Count
    inquiry: Inquiry


@cache
def ran(name: str, kinds: tuple[str, ...]) -> Ran:
    made, epsilon, steps, random, _ = SETTINGS[name]
    classifier = made()
    data = labelled(classifier, n=AUDITED, wrong=2)
    spec = AuditSpec.load({
        "threats": [{"epsilon": epsilon}], "attacks": [{"kind": "fgsm"}, {"kind": "pgd", "steps": steps}],
        "analyses": [], "curve": [], "curve_to_zero": False, "checks": [{"kind": kind} for kind in kinds],
        "samples": AUDITED, "gallery": 0, "examples": 0, "draws": 2,
    })  # fmt: skip
    with mock.patch.object(audit, "Inquiry", wraps=Inquiry) as asked, counting(classifier, data) as count:
        audit.run(spec, classifier, data)
    values = asked.call_args
    return Ran(spec.checks, plan(spec, AUDITED, SHAPE, random=random), count, Inquiry(*values.args, **values.kwargs))


@pytest.mark.parametrize("kind", list(CHECKS.members))
def test_a_check_costs_what_the_plan_says(kind: str) -> None:
    """Never more, and in some setting about as much."""
    shares = []
    for name, setting in SETTINGS.items():
        whole = ran(name, tuple(CHECKS.members))
        check = next(item for item in whole.checks if item.kind == kind)
        inquiry = replace(whole.inquiry, on_progress=no_progress, _trials={})
        with counting(inquiry.classifier, inquiry.dataset) as count:
            check.run(inquiry)
        said = whole.said[check]
        assert count.passes <= setting.above * said + COPY * count.copies + 1e-6, name
        if not setting.random:
            shares.append(count.passes / said if said else 1.0)
    assert max(shares) >= (0.01 if kind in SPARED else 0.8)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_all_checks_together_cost_no_more(name: str) -> None:
    """The passes of an audit with every check, without those of the same audit. What several checks ask for runs once."""
    whole, without = ran(name, tuple(CHECKS.members)), ran(name, ())
    said = sum(whole.said[check] for check in whole.checks)
    counted, copies = whole.counted.passes - without.counted.passes, whole.counted.copies - without.counted.copies
    assert counted <= SETTINGS[name].above * said + COPY * copies
    if not SETTINGS[name].random:
        assert counted >= 0.3 * said
