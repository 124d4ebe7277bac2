"""The regularizer of One Neuron beside its formulas, written with loops, and on numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auditor.hardening.hardening import TrainingStep
from auditor.hardening.hardenings.sensitivity_regulariser import (
    SensitivityRegularizer,
    between_classes,
    smallest_change,
    weighed,
    widest,
)
from auditor.kit.errors import EvaluationError
from tests.auditor.hardening.hardenings.given import ground_of, method, step_of, trainee_of
from tests.auditor.hardening.hardenings.plain import gradient, networks_output, nll
from tests.narrow import sequence, sum_of
from tests.nets import SHAPE, deeper_classifier, labelled

WEIGHT = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 2.0], [-1.0, 1.0, 0.0]], dtype=torch.float64)
FEATURES = torch.tensor([[1.0, 0.5, 0.5], [0.0, 2.0, 2.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])


def regularizer(**more: Any) -> SensitivityRegularizer:
    found = method("sensitivity_regulariser", **({"k": 4} | more))
    assert isinstance(found, SensitivityRegularizer)
    return found


def test_the_terms_by_hand() -> None:
    """|W0-W1| = 1 3 0, |W0-W2| = 2 1 2, |W1-W2| = 1 2 2; the two largest of each: 2, 2, 2; the largest one: 3, 2, 2."""
    assert widest(WEIGHT, 1).item() == 3
    assert widest(WEIGHT, 2).item() == 2
    assert widest(WEIGHT, 3).item() == pytest.approx(5 / 3)
    # Label 0: (3 + 2) / 2, label 2: (2 + 2) / 2.
    assert between_classes(WEIGHT, LABELS, 1).item() == pytest.approx((2.5 + 2) / 2)
    # Image 0, y = 0, z = 1 .5 .5: |z (W0-W1)| = 1 1.5 0, |z (W0-W2)| = 2 .5 1; largest 1.5 and 2, sum of z 2.
    # Image 1, y = 2, z = 0 2 2: |z (W2-W0)| = 0 2 4, |z (W2-W1)| = 0 4 4; largest 4 and 4, sum of z 4. Three classes.
    expected = ((1.5 + 2) / 3 / 2 + (4 + 4) / 3 / 4) / 2
    assert weighed(FEATURES, WEIGHT, LABELS, 1).item() == pytest.approx(expected, rel=1e-5)


def test_the_widest_pair_is_found_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = max(
        (weight[a] - weight[b]).abs().sort(descending=True).values[:3].mean().item() for a in range(7) for b in range(7)
    )
    for piece in (1, 200, 10**9):
        monkeypatch.setattr("auditor.hardening.hardenings.sensitivity_regulariser.PIECE", piece)
        assert widest(weight, 3).item() == pytest.approx(expected, rel=1e-12)


def features_of(step: TrainingStep) -> Tensor:
    network: Any = step.trainee.network
    kept: list[Tensor] = []
    handle = network[10].register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
    networks_output(step.trainee, step.x)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("form", ["code", "eq5"])
def test_the_loss_is_the_papers(form: str) -> None:
    hardening = regularizer(form=form, first_weight=0.3, second_weight=2.0)
    step = step_of(hardening, rows=6)
    network: Any = step.trainee.network
    logits, z, w, y = networks_output(step.trainee, step.x), features_of(step), network[10].weight, step.labels
    n, classes = 6, 5

    def largest(values: Tensor) -> Tensor:
        return values.abs().sort(descending=True).values[:4].sum() / 4

    pairs = [largest(w[a] - w[b]) for a in range(classes) for b in range(classes) if a != b]
    if form == "code":
        first = max(pairs, key=lambda value: value.item())
    else:
        first = sum_of(largest(w[y[i]] - w[c]) for i in range(n) for c in range(classes) if c != y[i])
        first = first / n / (classes - 1)
    second = sum(
        largest(z[i] * (w[y[i]] - w[c])) / (z[i].sum() + 1e-6) for i in range(n) for c in range(classes) if c != y[i]
    ) / (n * (classes if form == "code" else classes - 1))
    expected = sum(nll(logits[i], y[i]) for i in range(n)) / n + 0.3 * first + 2.0 * second
    terms = hardening.loss(step)
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-10)
    for one, other in zip(gradient(terms.loss, step), gradient(expected, step), strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-11)


def test_equation_4_maximizes_the_smallest_scaled_delta() -> None:
    hardening = regularizer(form="eq4", delta_weight=0.7)
    step = step_of(hardening, rows=6)
    network: Any = step.trainee.network
    logits, z, w = networks_output(step.trainee, step.x), features_of(step), network[10].weight
    mean, deviation = z.detach().mean(0), ((z.detach() - z.detach().mean(0)) ** 2).mean(0).sqrt()
    total = torch.zeros((), dtype=torch.float64)
    for i in range(6):
        y = int(logits[i].argmax())
        nearest = []
        for c in range(5):
            found = []
            for j in range(12):
                delta = (logits[i, y] - logits[i, c]) / (w[c, j] - w[y, j]) if c != y else None
                if delta is not None and deviation[j] > 0 and (z[i, j] + delta).item() >= 0:
                    found.append(((delta - mean[j]) / deviation[j]).abs())
            if found:
                nearest.append(min(found, key=lambda value: value.item()))
        total = total + sum(nearest) / len(nearest) / 6
    expected = sum(nll(logits[i], step.labels[i]) for i in range(6)) / 6 - 0.7 * total
    terms = hardening.loss(step)
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for one, other in zip(gradient(terms.loss, step), gradient(expected, step), strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-10)


def test_features_of_zero_give_no_nan() -> None:
    features = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    for value in (
        weighed(features, weight, torch.tensor([0, 1, 2]), 2),
        smallest_change(features, features @ weight.T, weight),
    ):
        assert value.item() == 0
        slopes = torch.autograd.grad(value, (features, weight), allow_unused=True)
        assert all(slope is None or slope.isfinite().all() for slope in slopes)


def test_equation_4_and_negative_features_are_flagged() -> None:
    step = step_of(regularizer())
    assert regularizer().flags(step.start, step.memory) == ()
    assert [flag.name for flag in regularizer(form="eq4").flags(step.start, step.memory)] == ["equation 4 is unstable"]
    signed = deeper_classifier()
    sequence(signed)[9] = nn.Identity()
    memory = regularizer().prepare(ground_of(trainee_of(regularizer(), signed), labelled(signed)))
    assert [flag.name for flag in regularizer().flags(signed, memory)] == ["negative features"]


def test_a_network_without_a_linear_head_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 6), nn.Flatten())
    classifier = deeper_classifier().with_network(network)
    assert classifier(torch.rand(2, *SHAPE)).shape == (2, 5)
    with pytest.raises(EvaluationError, match="no linear layer"):
        regularizer().prepare(ground_of(trainee_of(regularizer(), classifier), labelled(classifier)))
