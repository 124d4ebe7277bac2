"""Each check after the attacks fires on a case made for it; the contract test shows that it keeps still on a sound audit."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.attacking.attack import ATTACKS, Query, Rows
from auditor.attacking.attacks.fgsm import FGSM
from auditor.attacking.attacks.pgd import PGD
from auditor.attacking.evaluation import run_attack
from auditor.auditing.check import CHECKS
from tests.auditor.auditing.checks.models import (
    EPSILON,
    Fickle,
    Noise,
    Quantized,
    Saturated,
    Sleepy,
    Timid,
    Unasked,
    examine,
    made,
    plain,
)
from tests.narrow import sequence

CASES: list[tuple[str, Any, tuple[Any, ...], str, str]] = [
    ("blind_gradients", Saturated, (PGD(),), "blind attacks", "severe"),
    ("blind_gradients", None, (Unasked(),), "no gradient asked for", "severe"),
    ("random_noise_weaker", None, (Noise(),), "no better than noise", "severe"),
    ("random_noise_weaker", Quantized, (PGD(),), "no better than noise", "severe"),
    ("incomplete_optimization", None, (PGD(steps=20, step_size=0.005, restarts=2),), "incomplete optimization", "warning"),
    ("unconstrained_attack_failure", Quantized, (PGD(),), "unconstrained attack failure", "severe"),
    ("more_steps", None, (PGD(steps=2, step_size=0.1, random_start=False),), "more steps find more", "severe"),
    ("more_steps", None, (FGSM(),), "more steps find more", "warning"),
    ("more_restarts", None, (Sleepy(),), "more restarts find more", "severe"),
    ("larger_epsilon", None, (Fickle(),), "larger epsilon is weaker", "severe"),
    ("huge_epsilon_reaches_chance", None, (Timid(),), "huge epsilon does not reach chance", "severe"),
    ("black_box_not_stronger", Quantized, (PGD(),), "black box is stronger", "severe"),
    ("one_step_not_stronger", None, (FGSM(), Noise()), "one step is stronger", "severe"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "wrapper", "attacks", "name", "severity"), CASES)
def test_it_finds_its_fault(kind: str, wrapper: Any, attacks: tuple[Any, ...], name: str, severity: str) -> None:
    found = examine(kind, made(wrapper(plain()) if wrapper else plain()), *attacks)
    assert found.said.get(name) == severity, (found.verdict, found.flags)
    assert found.verdict.status == ("severe" if severity == "severe" else "doubt")
    assert all(flag.evidence and flag.remedy for flag in found.flags)


def test_one_blind_attack_beside_one_that_sees_is_no_severe_doubt() -> None:
    """The cross-entropy of a very sure model has no gradient; the margin has one, and decides what stands."""
    sure = made(plain())
    with torch.no_grad():
        sequence(sure)[5].weight *= 1e5
        sequence(sure)[5].bias *= 1e5
    blind = PGD(random_start=False)
    assert examine("blind_gradients", sure, blind).said == {"blind attack": "severe", "blind attacks": "severe"}
    both = examine("blind_gradients", sure, blind, ATTACKS.parse("apgd-dlr:steps=5"))
    assert both.said == {"blind attack": "warning"}


def test_an_image_found_but_not_counted_is_an_error() -> None:
    class Shy(PGD):
        """Does nothing the first time, and its work the second."""

        seen: ClassVar[set[tuple[int, int]]] = set()

        def step(self, rows: Rows, query: Query) -> Tensor:
            keys = [(int(sample), int(step)) for sample, step in zip(rows.sample, rows.step, strict=True)]
            first = [key not in self.seen for key in keys]
            self.seen.update(keys)
            moved = super().step(rows, query)
            return torch.where(torch.tensor(first).view(-1, 1, 1, 1), rows.x, moved)

    found = examine("silent_success", made(plain()), Shy(random_start=False))
    assert found.said == {"success not counted": "severe"}


def test_what_succeeds_on_the_way_alone_is_counted_and_told() -> None:
    """An attack that goes back to the clean image at its last step: nothing is left at the end, and all counts."""

    class Returning(PGD):
        def step(self, rows: Rows, query: Query) -> Tensor:
            last = torch.from_numpy(rows.step == self.steps - 1).view(-1, 1, 1, 1)
            return torch.where(last, rows.x, super().step(rows, query))

    found = examine("silent_success", made(plain()), Returning())
    assert re.search(
        r"[1-9]\d* succeed on the way but not at the last image, and are counted; 0 ", found.verdict.evidence
    )
    assert found.verdict.status == "passed"


def test_a_copy_that_is_another_function_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    other = made(plain())
    with torch.no_grad():
        sequence(other)[5].weight.mul_(-1)
    monkeypatch.setattr("auditor.auditing.checks.transfer_failure.fast_copy", lambda classifier, images=None: other)
    assert examine("transfer_failure", made(plain())).said == {"transfer failure": "severe"}
    monkeypatch.setattr(
        "auditor.auditing.checks.transfer_failure.fast_copy", lambda classifier, images=None: classifier
    )
    assert "on the network itself" in examine("transfer_failure", made(plain())).verdict.evidence


def test_the_loss_path_is_the_attacks() -> None:
    """Of an attack with a fixed small step from the clean image, the path starts at the clean margin and ends at the last."""
    from auditor.attacking.criterion import Misclassification
    from auditor.attacking.harness.losses import margin
    from auditor.attacking.threat import ThreatModel
    from auditor.auditing.allowance import Allowance
    from auditor.auditing.checks.incomplete_optimization import _paths
    from auditor.auditing.inquiry import Inquiry
    from tests.nets import labelled

    classifier, attack, threat = (
        made(plain()),
        PGD(steps=4, step_size=0.01, random_start=False),
        ThreatModel(epsilon=EPSILON),
    )
    data = labelled(classifier, n=20, wrong=0)
    labels = torch.from_numpy(data.labels)
    inquiry = Inquiry(
        classifier, data, np.arange(20), labels, np.ones(20, bool), Misclassification(labels), targeted=False,
        threats=(threat,), records=[], seed=0, batch_size=7,
        allowance=Allowance({threat: (attack,)}, data.shape, 20, most=20, budget=1e9),
    )  # fmt: skip
    trial = inquiry.attack(attack, threat, np.arange(20))
    standing = np.flatnonzero(~trial.outcome.fooled)
    paths = _paths(inquiry, attack, threat, standing)
    assert paths.shape == (len(standing), 5)
    clean = margin(inquiry.wanted(standing), classifier.logits(inquiry.clean(standing)))
    final = margin(inquiry.wanted(standing), classifier.logits(trial.x_adv[torch.from_numpy(standing)]))
    assert np.allclose(paths[:, 0], clean, atol=1e-4)
    assert np.allclose(paths[:, -1], final, atol=1e-4)
    assert (np.diff(paths, axis=1) > 0).mean() > 0.9


def test_an_attack_of_the_audit_without_gradients_needs_no_other() -> None:
    found = examine("black_box_not_stronger", made(plain()), PGD(), ATTACKS.parse("square:queries=20"))
    assert found.verdict.evidence.startswith("Square fools 0 of 60 samples")


def test_without_gradients_there_is_nothing_to_compare() -> None:
    for kind in ("black_box_not_stronger", "blind_gradients", "unconstrained_attack_failure"):
        found = examine(kind, made(plain()), ATTACKS.parse("square:queries=20"))
        assert (found.verdict.status, found.said) == ("not applicable", {})


def test_every_threat_model_is_looked_at_and_named() -> None:
    threats = [{"epsilon": EPSILON}, {"norm": "l2", "epsilon": 0.4}]
    found = examine("random_noise_weaker", made(plain()), Noise(), threats=threats)
    assert "L∞ ε = 0.1: PGD beats it" in found.verdict.evidence
    assert "L2 ε = 0.4: PGD beats it" in found.verdict.evidence
    assert len(found.flags) == 2


def test_an_attack_runs_once_however_many_checks_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    from auditor.auditing import inquiry

    ran: list[str] = []

    def counted(classifier: Any, attack: Any, threat: Any, *rest: Any, **more: Any) -> Any:
        ran.append(f"{attack.describe()} {threat}")
        return run_attack(classifier, attack, threat, *rest, **more)

    monkeypatch.setattr(inquiry, "run_attack", counted)
    kinds = ("random_noise_weaker", "transfer_failure", "larger_epsilon")
    examine("silent_success", made(plain()), checks=[CHECKS.build(kind, {}) for kind in kinds])
    assert len(ran) == len(set(ran)) == 2  # PGD at epsilon, and at twice epsilon


def test_every_check_after_the_attacks_is_tried_here() -> None:
    tried = {case[0] for case in CASES} | {"silent_success", "transfer_failure"}
    assert tried == {member.kind_name() for member in CHECKS if not member.preflight}
