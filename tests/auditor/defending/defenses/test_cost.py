"""What an evaluation says that it costs, beside the passes that the network is seen to make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from auditor.attacking.attack import ATTACKS
from auditor.attacking.harness.nominal import passes
from auditor.attacking.threat import ThreatModel
from auditor.defending.cost import answer, costs
from auditor.defending.defense import Defense
from auditor.defending.evaluation import EvaluationSpec, evaluation_cost
from auditor.defending.measuring import measure_table
from auditor.defending.nip.adaptive import paper_attacks
from auditor.defending.spec import TableSpec
from auditor.defending.sweep import Sweep
from auditor.models.classifier import Classifier
from auditor.models.defended import NOTHING, FittedState
from auditor.models.drawing import View
from tests.auditor.defending.defenses.small import default, fitted, images, network

SPEC: dict[str, Any] = {
    "steps": 6, "restarts": 2, "draws": 3, "nearest": 3, "queries": 30, "decision_steps": 20, "batch_size": 16,
    "static": (ATTACKS.build("pgd", {"steps": 3}), ATTACKS.build("fgsm", {})), "influence": paper_attacks(),
    "threat": ThreatModel(epsilon=1e-7),
}  # fmt: skip
STACKS = (
    ("jpeg",), ("gaussian-noise",), ("nip",), ("nip-n",),
    ("random-candidate",), ("random-candidate-n",), ("neuron-selecting",), ("sap",),
    ("jpeg", "nip"), ("gaussian-noise", "sap"),
)  # fmt: skip


class Counted:
    """The passes of single images that a network makes."""

    def __init__(self, seen: nn.Module) -> None:
        self.forwards = self.backwards = 0
        seen.register_forward_hook(self._forward)

    def _forward(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.forwards += len(output)
        if output.requires_grad:
            output.register_hook(self._backward)

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def fitted_stack(stack: tuple[str, ...]) -> tuple[Classifier, list[Defense], list[FittedState]]:
    classifier = network()
    defenses = [default(kind) for kind in stack]
    return classifier, defenses, [fitted(one, classifier) if one.learns else NOTHING for one in defenses]


@pytest.fixture(autouse=True)
def one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """All passes go through the network that is watched."""
    monkeypatch.setattr("auditor.attacking.harness.attack_run.fast_copy", lambda classifier, images=None: classifier)


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_an_evaluation_in_which_nobody_is_fooled_costs_about_what_is_said(stack: tuple[str, ...]) -> None:
    """At most that much, and a good part of it: only the attacks by decisions end early, and a gradient does not go back through
    the choice of a candidate."""
    classifier, defenses, states = fitted_stack(stack)
    data, spec = images(classifier), TableSpec(**SPEC)
    right = (classifier(data.images(np.arange(len(data)))).argmax(1).numpy() == data.labels).nonzero()[0][:6]
    counted = Counted(classifier.network)
    measure_table(classifier, defenses, states, data, right, spec)
    spent = (counted.forwards + 2 * counted.backwards) / len(right)
    said = costs(defenses, spec, classifier.num_classes)
    answers = 40 * answer(defenses, classifier.num_classes, View())  # those that judge what was found
    assert 0.4 * sum(said.values()) <= spent <= sum(said.values()) + answers


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
@pytest.mark.parametrize("view", [View(), View(True, draws=3), View(True, draws=3, nearest=2)], ids=str)
def test_an_answer_takes_as_many_passes_as_are_seen(stack: tuple[str, ...], view: View) -> None:
    classifier, defenses, states = fitted_stack(stack)
    model = classifier
    for one, state in zip(reversed(defenses), reversed(states), strict=True):
        model = one.wrap(model, state)
    x = images(classifier).images(np.arange(4))
    counted = Counted(classifier.network)
    model.seen(view)(x)
    assert counted.forwards == 4 * answer(defenses, classifier.num_classes, view)


def test_controls_and_sweeps_are_counted() -> None:
    nip, spec = default("nip"), TableSpec(**SPEC)
    whole = sum(costs([nip], spec, 5).values())
    plain = EvaluationSpec(evaluation=spec, controls=False)
    assert evaluation_cost(plain, [nip], 10, 5) == 10 * whole
    sweep = plain.model_copy(update={"sweeps": (Sweep.parse("k=1+2"),), "sweep_samples": 4})
    assert evaluation_cost(sweep, [nip], 10, 5) == 10 * whole + 4 * 2 * whole
    control = sum(costs([default("random-candidate")], spec, 5).values())
    direction, noise = (
        sum(costs([default(kind)], spec, 5).values()) for kind in ("random-direction", "gaussian-noise")
    )
    beside = evaluation_cost(plain.model_copy(update={"controls": True}), [nip], 10, 5)
    assert beside == 10 * (whole + control + 2 * direction + noise), "a random direction of two sizes"


def test_the_search_for_the_closest_image_of_one_that_is_never_fooled_tries_every_radius() -> None:
    """Up to 20 times a larger one, as foolbox 2.3 does; an attack that minimizes by itself searches once."""
    pgd = ATTACKS.build("pgd", {"steps": 5, "budget": "minimal"})
    assert passes(pgd) == 21 * passes(ATTACKS.build("pgd", {"steps": 5}))
    deepfool = ATTACKS.build("deepfool", {})
    assert passes(deepfool.model_copy(update={"budget": "minimal"})) == passes(deepfool)
