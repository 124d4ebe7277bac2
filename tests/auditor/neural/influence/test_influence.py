"""Neuron influence against brute-force derivatives in float64; front, tail and template against plain sets."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.kit.errors import EvaluationError
from auditor.kit.randomness import RowRandom
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.neural.influence.influence import (
    confidence_slope,
    expected_jaccard,
    front_odds,
    head_influence,
    log_odds,
    neuron_slopes,
    predicted_odds,
    shuffled_front,
    split_parts,
    template,
)
from auditor.neural.probes.head import head_of, penultimate
from tests.narrow import sequence
from tests.nets import SHAPE, small_cnn


def exact(network: nn.Module, classes: int = 5) -> Classifier:
    return Classifier(network, input_shape=SHAPE, num_classes=classes, normalization=NORMALIZATIONS["half"]).double()


def images(n: int = 6, seed: int = 1) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head_case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, weight, bias and classes with one neuron dead on every image."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(4, 9, generator=generator, dtype=torch.float64)
    features[:, 3] = 0
    weight = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    return features, weight, bias, torch.tensor([0, 4, 2, 2])


def softmax_influence(features: Tensor, weight: Tensor, bias: Tensor, classes: Tensor) -> Tensor:
    """Eq. 2 as printed, one image and one class at a time, by autograd."""
    rows = []
    for row, label in zip(features, classes.tolist(), strict=True):
        leaf = row.clone().requires_grad_()
        confidence = (weight @ leaf + bias).softmax(0)[label]
        (slope,) = torch.autograd.grad(confidence, leaf)
        rows.append(slope * row)
    return torch.stack(rows)


def test_the_closed_form_is_the_derivative_of_the_log_odds() -> None:
    features, weight, bias, classes = head_case()
    leaf = features.clone().requires_grad_()
    confidence = (leaf @ weight.T + bias).softmax(1)[torch.arange(4), classes]
    (slope,) = torch.autograd.grad((confidence / (1 - confidence)).log().sum(), leaf)
    found = head_influence(features, features @ weight.T + bias, weight, classes)
    assert torch.allclose(found, slope * features, rtol=1e-10, atol=1e-14)
    assert not found[:, 3].any()


def test_the_order_is_that_of_the_softmax_confidence_and_the_slope_turns_one_into_the_other() -> None:
    features, weight, bias, classes = head_case()
    logits = features @ weight.T + bias
    found = head_influence(features, logits, weight, classes)
    paper = softmax_influence(features, weight, bias, classes)
    assert torch.equal(found.argsort(1, descending=True), paper.argsort(1, descending=True))
    assert torch.allclose(found * confidence_slope(logits, classes)[:, None], paper, rtol=1e-10, atol=1e-14)


def test_nothing_underflows_where_the_confidence_is_one() -> None:
    features, weight, bias, classes = (part if part.dtype == torch.int64 else part.float() for part in head_case())
    bias = bias + 200 * nn.functional.one_hot(torch.tensor(2), 5)
    classes = torch.full_like(classes, 2)
    assert not softmax_influence(features, weight, bias, classes).any()
    found = head_influence(features, features @ weight.T + bias, weight, classes)
    assert (found != 0).sum(1).tolist() == [8] * 4


def test_log_odds_by_hand() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]], dtype=torch.float64).log()
    # p / (1 - p): 0.5 / 0.5 = 1 and 0.2 / 0.8 = 1 / 4.
    assert log_odds(logits, torch.tensor([1, 2])).tolist() == pytest.approx([0, -np.log(4)], abs=1e-12)
    assert predicted_odds(logits).tolist() == pytest.approx([0, np.log(0.7 / 0.3)], abs=1e-12)


@pytest.mark.parametrize("inplace", [False, True])
def test_the_slopes_of_every_layer_equal_brute_force(inplace: bool) -> None:
    """Each layer's output taken as a leaf and run through the rest of the network, image by image."""
    network = sequence(small_cnn())
    network[2] = nn.ReLU(inplace=inplace)
    classifier, x = exact(network), images()
    found = neuron_slopes(classifier, x, predicted_odds)
    assert [layer.name for layer in found] == ["0", "1", "2"], "the layer that gives the logits is left out"
    plain = sequence(small_cnn().double().eval())
    for depth, layer in enumerate(found):
        for i in range(len(x)):
            leaf = plain[: depth + 1]((x[i : i + 1] - 0.5) / 0.5).detach().requires_grad_()
            logits = plain[depth + 1 :](leaf)
            confidence = logits.softmax(1).max()
            (slope,) = torch.autograd.grad((confidence / (1 - confidence)).log(), leaf)
            for m in range(leaf.shape[1]):
                output, shift = leaf[0, m].mean().item(), slope[0, m].sum().item()
                scale = (slope[0, m] * leaf[0, m]).sum().item()
                assert layer.output[i, m].item() == pytest.approx(output, rel=1e-10, abs=1e-13)
                assert layer.shift[i, m].item() == pytest.approx(shift, rel=1e-9, abs=1e-12)
                assert layer.scale[i, m].item() == pytest.approx(scale, rel=1e-9, abs=1e-12)
                assert layer.influence[i, m].item() == pytest.approx(shift * output, rel=1e-9, abs=1e-12)


def test_before_a_global_average_the_map_and_its_mean_have_the_same_influence() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 4))
    classifier, x = exact(network, 4), images()
    head = head_of(classifier)
    features, logits = penultimate(classifier, head, x)
    expected = head_influence(features, logits, head.weight, logits.argmax(1))
    relu = next(layer for layer in neuron_slopes(classifier, x, predicted_odds) if layer.name == "1")
    assert torch.allclose(relu.influence, expected, rtol=1e-10, atol=1e-14)


def test_a_layer_without_effect_has_slopes_of_zero() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.head = nn.Linear(108, 6), nn.Linear(108, 5)

        def forward(self, x: Tensor) -> Tensor:
            self.idle(x.flatten(1))
            return self.head(x.flatten(1))

    (idle,) = neuron_slopes(exact(Idle()), images(), predicted_odds)
    assert idle.name == "idle"
    assert not idle.shift.any()
    assert not idle.scale.any()


def test_front_tail_and_remaining_in_order_with_ties_by_the_lower_index() -> None:
    parts = split_parts(torch.tensor([[1.0, 5.0, 1.0, -2.0, 5.0, 0.0]]), 2, 2)
    assert parts.front.tolist() == [[1, 4]]
    assert parts.remaining.tolist() == [[0, 2]]
    assert parts.tail.tolist() == [[5, 3]]
    with pytest.raises(EvaluationError, match="6 neurons, too few for 3 front and 3 tail"):
        split_parts(torch.zeros(1, 6), 3, 3)


def test_the_template_is_the_intersection_and_only_shrinks() -> None:
    rng = np.random.default_rng(0)
    remaining = [set(rng.permutation(40)[6:].tolist()) for _ in range(12)]
    before = set(range(40))
    for t in range(1, 13):
        counts = np.array([sum(n in part for part in remaining[:t]) for n in range(40)])
        members = set(template(counts, t).tolist())
        assert members == set.intersection(*remaining[:t])
        assert members <= before
        before = members
    looser = set(template(counts, 12, quorum=0.75).tolist())
    assert looser == {n for n in range(40) if sum(n in part for part in remaining) >= 9}
    assert members < looser
    with pytest.raises(EvaluationError, match="no neuron remains in all 12 images"):
        template(np.minimum(counts, 11), 12)


@pytest.mark.parametrize(("first", "second"), [(2, 2), (1, 4), (3, 5), (6, 2)])
def test_the_expected_overlap_is_the_mean_over_all_sets(first: int, second: int) -> None:
    fixed = set(range(first))
    shares = [len(fixed & set(other)) / len(fixed | set(other)) for other in combinations(range(6), second)]
    assert expected_jaccard(first, second, 6) == pytest.approx(np.mean(shares), rel=1e-12)


def test_a_front_among_equals_is_left_to_chance() -> None:
    """Five of eight neurons have no influence; the front of four takes one of them."""
    values = torch.tensor([[3.0, 0, 0, 0, 2, 0, 0, 1], [1, 2, 3, 4, 5, 6, 7, 8]], dtype=torch.float64)
    assert front_odds(values, 4).tolist() == [[1, 0.2, 0.2, 0.2, 1, 0.2, 0.2, 1], [0, 0, 0, 0, 1, 1, 1, 1]]
    drawn = [shuffled_front(values, 4, RowRandom(0, "ties", [(draw,), (draw,)])) for draw in range(2000)]
    assert all(front[0, :3].tolist() == [0, 4, 7] and front[1].tolist() == [7, 6, 5, 4] for front in drawn)
    share = np.bincount([int(front[0, 3]) for front in drawn], minlength=8) / 2000
    assert share == pytest.approx([0, 0.2, 0.2, 0.2, 0, 0.2, 0.2, 0], abs=0.04)
