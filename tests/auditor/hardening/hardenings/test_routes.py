"""The penalties on the critical attacking route beside their formulas; the one with two derivatives beside differences, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.hardening.hardening import Hardening, TrainingStep
from auditor.hardening.hardenings.route_gradient import RouteGradient
from auditor.hardening.hardenings.route_weight import RouteWeight, links_of
from auditor.kit.errors import EvaluationError
from auditor.neural.routes.routes import RouteFinder
from tests.auditor.hardening.hardenings.given import data, ground_of, method, step_of, trainee_of
from tests.auditor.hardening.hardenings.plain import gradient, networks_output, nll
from tests.narrow import sequence, sum_of
from tests.nets import deeper_classifier, small_classifier


def of(kind: str, **more: Any) -> RouteGradient | RouteWeight:
    found = method(kind, **({"random_start": False} | more))
    assert isinstance(found, RouteGradient | RouteWeight)
    return found


def channels(step: TrainingStep) -> dict[str, list[int]]:
    return {name.removeprefix("channels of "): value.tolist() for name, value in step.memory.items()}


def gradient_penalty(step: TrainingStep, x: Tensor) -> float:
    """Sum over the channels of both convolutions of |dCE/dZ|, image by image, each image alone in a batch of its own."""
    network = step.trainee.network
    assert isinstance(network, nn.Sequential)
    total = 0.0
    for i in range(len(x)):
        first = network[0]((x[i : i + 1] - 0.5) / 0.5)
        second = network[1:5](first)
        loss = nll(network[5:](second)[0], step.labels[i])
        for layer, slope in zip(("0", "4"), torch.autograd.grad(loss, (first, second)), strict=True):
            for m in channels(step)[layer]:
                total += slope[0, m].abs().sum().item()
    return total / len(x)


@pytest.mark.parametrize("base", ["vanilla", "pat"])
def test_the_gradient_penalty_is_the_papers(base: str) -> None:
    hardening = of("route_gradient", base=base, penalty=0.01)
    step = step_of(hardening, rows=6, batch_norm="fixed")
    assert {layer: len(found) for layer, found in channels(step).items()} == {"0": 2, "4": 3}  # 30 % of 8 and of 10
    sides = [step.x] if base == "vanilla" else [step.x, hardening.adversarial(step)]
    penalty = sum(gradient_penalty(step, x) for x in sides)
    losses = [
        sum(
            nll(logits, label).item()
            for logits, label in zip(networks_output(step.trainee, x), step.labels, strict=True)
        )
        / 6
        for x in sides
    ]
    terms = hardening.loss(step)
    assert terms.parts["route gradient"].item() == pytest.approx(penalty, rel=1e-10)
    assert terms.loss.item() == pytest.approx(np.mean(losses) + 0.01 * penalty, rel=1e-10)


@pytest.mark.parametrize("batch_norm", ["learn", "fixed"])
def test_the_gradient_of_the_gradient_penalty_is_that_of_differences(batch_norm: Any) -> None:
    hardening = of("route_gradient", base="vanilla")
    step = step_of(hardening, rows=6, batch_norm=batch_norm)
    slopes = gradient(hardening.loss(step).parts["route gradient"], step)
    generator = np.random.default_rng(0)
    for (name, value), slope in zip(step.trainee.parameters.items(), slopes, strict=True):
        for place in generator.choice(value.numel(), min(3, value.numel()), replace=False):
            found = []
            for sign in (1, -1):
                with torch.no_grad():
                    value.view(-1)[place] += sign * 1e-7
                    # Only the batch counts in the mode "learn", so that moving statistics do not matter.
                found.append(hardening.loss(step).parts["route gradient"].item())
                with torch.no_grad():
                    value.view(-1)[place] -= sign * 1e-7
            expected = (found[0] - found[1]) / 2e-7
            assert slope.reshape(-1)[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-5), name


def test_a_kept_layer_still_counts_in_the_gradient_penalty() -> None:
    whole, part = (step_of(of("route_gradient", train_from=name), rows=6, batch_norm="fixed") for name in ("", "4"))
    expected, got = (of("route_gradient").loss(step).parts["route gradient"] for step in (whole, part))
    assert got.item() == pytest.approx(expected.item(), rel=1e-12)
    assert set(part.trainee.parameters) < set(whole.trainee.parameters)
    slopes = dict(zip(whole.trainee.parameters, gradient(expected, whole), strict=True))
    for name, slope in zip(part.trainee.parameters, gradient(got, part), strict=True):
        assert torch.allclose(slope, slopes[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fold_bn", [False, True])
@pytest.mark.parametrize("base", ["vanilla", "pat"])
def test_the_weight_penalty_is_the_papers(base: str, fold_bn: bool) -> None:
    hardening = of("route_weight", base=base, fold_bn=fold_bn, penalty=0.01)
    step = step_of(hardening, rows=6)
    with torch.no_grad():
        sequence(step.trainee.network)[5].weight.copy_(torch.linspace(-1, 2, 10))
    sides = [step.x] if base == "vanilla" else [step.x, hardening.adversarial(step)]
    losses = sum(
        nll(logits, label)
        for x in sides
        for logits, label in zip(networks_output(step.trainee, x), step.labels, strict=True)
    )
    terms = hardening.loss(step)
    network = sequence(step.trainee.network)
    conv, norm = network[4], network[5]
    penalty = torch.zeros((), dtype=torch.float64)
    for m in channels(step)["4"]:
        for n in channels(step)["0"]:
            size = sum_of(conv.weight[m, n, i, j].abs() for i in range(3) for j in range(3))
            factor = norm.weight[m].abs() / (norm.running_var[m] + 1e-5).sqrt() if fold_bn else 1.0
            penalty = penalty + factor * size
    expected = losses / 6 / len(sides) + 0.01 * penalty
    assert terms.parts["route weight"].item() == pytest.approx(penalty.item(), rel=1e-12)
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for one, other in zip(gradient(terms.loss, step), gradient(expected, step), strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-11)


def test_the_channels_are_those_most_often_on_a_route() -> None:
    classifier = deeper_classifier()
    dataset = data(classifier)
    hardening = of("route_gradient", images=40)
    ground = ground_of(trainee_of(hardening, classifier), dataset)
    memory = hardening.prepare(ground)
    found = RouteFinder(classifier)(dataset.images(np.arange(40)), torch.from_numpy(dataset.labels), width=0.2)
    for layer, members, count in zip(found.layers, found.members, (2, 3), strict=True):
        shares = members.double().mean(0).numpy()
        assert memory[f"channels of {layer}"].tolist() == sorted(np.argsort(-shares, kind="stable")[:count].tolist())
    assert ground.trainee.passes == (40, 40)


def test_the_controls_take_other_channels_as_many() -> None:
    classifier = deeper_classifier()
    ground = ground_of(trainee_of(method("route_weight"), classifier), data(classifier))
    found = {
        name: of("route_weight", channels=name).prepare(ground)["channels of 4"].tolist()
        for name in ("route", "outside", "random", "all")
    }
    assert [len(found[name]) for name in found] == [3, 3, 3, 10]
    assert not set(found["route"]) & set(found["outside"])
    assert found["all"] == list(range(10))
    assert found["random"] != found["route"]


def test_what_normalization_undoes_is_said() -> None:
    step = step_of(of("route_weight"))
    assert links_of(step.start) == (("0", "4", "5"),)
    assert [flag.name for flag in of("route_weight").flags(step.start, step.memory)] == ["undone by normalization"]
    assert of("route_weight", fold_bn=True).flags(step.start, step.memory) == ()


def test_the_weight_penalty_without_folding_does_not_see_what_normalization_undoes() -> None:
    """Filters a tenth the size behind a normalization: the same function, a tenth of the literal penalty, all of the folded."""
    sizes = {}
    for fold_bn in (False, True):
        hardening = of("route_weight", fold_bn=fold_bn)
        step = step_of(hardening, rows=6, batch_norm="fixed")
        before = hardening.loss(step)
        network: Any = step.trainee.network
        with torch.no_grad():
            network[4].weight /= 10
            network[4].bias /= 10
            network[5].running_mean /= 10
            network[5].running_var.copy_((network[5].running_var + 1e-5) / 100 - 1e-5)
        after = hardening.loss(step)
        assert after.parts["clean"].item() == pytest.approx(before.parts["clean"].item(), rel=1e-9)
        sizes[fold_bn] = after.parts["route weight"].item() / before.parts["route weight"].item()
    assert sizes[False] == pytest.approx(0.1)
    assert sizes[True] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["route_gradient", "route_weight"])
def test_a_network_without_two_convolutions_in_a_row_is_refused(kind: str) -> None:
    hardening: Hardening = method(kind)
    classifier = small_classifier()
    with pytest.raises(EvaluationError, match="closed form between no two layers"):
        hardening.prepare(ground_of(trainee_of(hardening, classifier), data(classifier)))
