"""Delta-values against a loop over eq. 2, a grid search over eq. 1 and the head itself; orderings by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.models.classifier import Classifier
from auditor.neural.delta.values import (
    Activations,
    activations_of,
    delta_values,
    head_logits,
    leaves_prediction,
    order_agreement,
    ordered,
    scores,
)
from auditor.neural.probes.head import Head, head_of
from tests.auditor.neural.analyses.given import Given
from tests.narrow import sequence
from tests.nets import SHAPE, random_images, small_classifier


def case(seed: int, images: int = 12, neurons: int = 14, classes: int = 5) -> tuple[Head, Tensor, Tensor]:
    """A float32 head with equal weights here and there, and features behind a ReLU, some of them zero."""
    torch.manual_seed(seed)
    layer = nn.Linear(neurons, classes).requires_grad_(False)
    with torch.no_grad():
        layer.weight[:, 0] = 0.3  # neuron 0 cannot tell the classes apart
        layer.weight[2, 1:4] = layer.weight[1, 1:4]
    features = torch.randn(images, neurons).relu()
    head = Head("head", layer)
    return head, features, head_logits(head, features)


def restated(features: Tensor, logits: Tensor, weight: Tensor, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 2 with the nearest feasible class (eq. 1), one number at a time, in Python floats."""
    z, scores_, w = features.double().tolist(), logits.tolist(), weight.double().tolist()
    delta, target = np.full(features.shape, math.inf), np.full(features.shape, -1)
    for b, row in enumerate(scores_):
        y = row.index(max(row))
        for i in range(features.shape[1]):
            for c in range(len(w)):
                if c == y or w[c][i] == w[y][i]:
                    continue
                change = (row[y] - row[c]) / (w[c][i] - w[y][i])
                if z[b][i] + change >= floor and abs(change) < abs(delta[b, i]):
                    delta[b, i], target[b, i] = change, c
    return delta, target


@pytest.mark.parametrize("floor", [0.0, -math.inf])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_a_loop_over_the_equation(seed: int, floor: float) -> None:
    head, features, logits = case(seed)
    found = delta_values(features, logits, head.weight, floor=floor)
    delta, target = restated(features, logits, head.weight, floor)
    assert np.array_equal(found.value.numpy(), delta)
    assert np.array_equal(found.target.numpy(), target)
    assert not found.tied.any()
    assert np.isinf(delta[:, 0]).all(), "equal weights: no change of that neuron matters"
    assert 0 < np.isinf(delta).mean() < 1 or floor < 0


def test_equal_to_a_grid_search_over_all_changes() -> None:
    """Definition 2.1 itself: the nearest of 40,001 changes, feasible ones only, at which the head answers otherwise."""
    head, features, logits = case(1, images=6)
    exact = nn.Linear(14, 5).double()
    exact.load_state_dict(head.layer.state_dict())
    found = delta_values(features, logits, head.weight)
    step = 1e-3
    grid = torch.arange(-20_000, 20_001, dtype=torch.float64) * step
    grid = grid[grid.abs().argsort(stable=True)]
    compared = 0
    for b in range(len(features)):
        for i in range(features.shape[1]):
            moved = features[b].double().repeat(len(grid), 1)
            moved[:, i] += grid
            feasible = moved[:, i] >= 0
            flips = (exact(moved).argmax(1) != logits[b].argmax()) & feasible
            delta = float(found.value[b, i])
            if abs(delta) < 19:
                first = float(grid[flips.nonzero()[0, 0]])
                assert abs(delta) <= abs(first) <= abs(delta) + step
                compared += 1
            else:
                assert not flips.any() or abs(float(grid[flips.nonzero()[0, 0]])) >= 19
    assert compared > 40


@pytest.mark.parametrize("floor", [0.0, -math.inf])
def test_just_beyond_delta_the_head_answers_otherwise_and_just_before_it_does_not(floor: float) -> None:
    """Every finite value of 60 images, by the head as a module in float64; what is feasible stays so."""
    head, features, logits = case(2, images=60, neurons=40, classes=10)
    exact = nn.Linear(40, 10).double()
    exact.load_state_dict(head.layer.state_dict())
    delta = delta_values(features, logits, head.weight, floor=floor).value
    known = delta.isfinite()
    assert known.sum() > 1000
    assert ((features.double() + delta)[known] >= floor).all()
    for factor, leaves in ((1 + 1e-4, True), (1 - 1e-4, False)):
        change = torch.where(known, delta * factor, 0.0)
        moved = features.double()[:, None, :] + torch.diag_embed(change)  # (B, M, M): one neuron moved in each row
        flipped = exact(moved).argmax(2) != logits.argmax(1)[:, None]
        assert (flipped[known] == leaves).all()
        assert torch.equal(leaves_prediction(logits, head.weight, change), flipped)


def test_of_two_classes_at_one_distance_the_lower_counts() -> None:
    weight = torch.tensor([[0.0], [1.0], [-1.0], [1.0]])
    # l = (2, 0, 0, 0): class 1 and 3 are reached at +2, class 2 at -2.
    found = delta_values(torch.tensor([[5.0]]), torch.tensor([[2.0, 0, 0, 0]]).double(), weight)
    assert (found.value.item(), found.target.item()) == (2, 1)
    # From z = 1 class 2 would need z = -1; with classes 1 and 3 out of reach nothing is left.
    alone = delta_values(torch.tensor([[1.0]]), torch.tensor([[2.0, 0]]).double(), weight[[0, 2]])
    assert (alone.value.item(), alone.target.item()) == (math.inf, -1)
    free = delta_values(torch.tensor([[1.0]]), torch.tensor([[2.0, 0]]).double(), weight[[0, 2]], floor=-math.inf)
    assert (free.value.item(), free.target.item()) == (-2, 1)
    exactly = delta_values(torch.tensor([[2.0]]), torch.tensor([[2.0, 0]]).double(), weight[[0, 2]])
    assert exactly.value.item() == -2, "moving to zero is feasible"


def test_two_equal_highest_logits_have_no_prediction_to_leave() -> None:
    head, features, logits = case(0, images=3)
    logits[1] = torch.tensor([1.0, 3.0, 0.0, 3.0, 2.0])
    found = delta_values(features, logits, head.weight)
    assert found.tied.tolist() == [False, True, False]
    assert found.value[1].isinf().all()
    assert (found.target[1] == -1).all()
    assert found.value[0].isfinite().any()


def test_each_image_by_itself_gives_the_same() -> None:
    head, features, logits = case(3)
    whole = delta_values(features, logits, head.weight).value
    single = [delta_values(features[b : b + 1], logits[b : b + 1], head.weight).value for b in range(len(features))]
    assert torch.equal(whole, torch.cat(single))


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_statistics_of_the_features_are_numpys(batch_size: int) -> None:
    classifier = small_classifier().double()
    head = head_of(classifier)
    x = torch.from_numpy(random_images(40)).permute(0, 3, 1, 2).double() / 255
    with torch.no_grad():
        head.weight[:, 0] = 0.0
        features = sequence(classifier)[:-1](classifier.normalize(x)).numpy()
    found = activations_of(classifier, head, Given(x, x, batch_size))
    assert found.images == 40
    assert np.allclose(found.mean, features.mean(0), rtol=1e-12, atol=1e-15)
    assert np.allclose(found.std, features.std(0), rtol=1e-9, atol=1e-15)
    assert np.array_equal(found.lowest, features.min(0))
    assert np.array_equal(found.highest, features.max(0))
    assert np.allclose(found.zeros, (features == 0).mean(0))
    assert found.floor("auto") == 0 == found.floor("nonnegative")
    assert found.floor("any") == -math.inf


def test_a_feature_that_is_ever_negative_may_be_moved_anywhere() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 6), nn.Linear(6, 3))
    classifier = Classifier(network, input_shape=SHAPE, num_classes=3)
    x = torch.rand(5, *SHAPE)
    found = activations_of(classifier, head_of(classifier), Given(x, x, 2))
    assert (found.lowest < 0).any()
    assert found.floor("auto") == -math.inf


def test_a_neuron_that_never_varies_has_no_deviation_at_all() -> None:
    """0.1 has no exact form: a mean of 30 of them may be off by rounding."""
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(108, 3), nn.ReLU(), nn.Linear(3, 2)))
    with torch.no_grad():
        network[1].weight[:2] = 0.0
        network[1].bias[:2] = torch.tensor([0.1, -1.0])
    classifier = Classifier(network, input_shape=SHAPE, num_classes=2)
    x = torch.rand(30, *SHAPE)
    std = activations_of(classifier, head_of(classifier), Given(x, x, 7)).std
    assert std[:2].tolist() == [0, 0]


def test_the_orderings_by_hand() -> None:
    one, two = torch.tensor([1.0, 0.0, 2.0, 0.5]).double(), torch.tensor([2.0, 0.0, 1.0, 0.5]).double()
    activations = Activations(9, one, two, one, one, one)
    delta = torch.tensor([[-4.0, -1.0, 3.0, math.inf]]).double()
    # |D|/s: 4/2, never varies, 3/1, infinite.   (D-m)/s: (-4-1)/2, -, (3-2)/1, -.   |(D-m)/s|: 2.5, -, 1, -.
    assert scores(delta, activations, "abs_scaled").tolist() == [[2, math.inf, 3, math.inf]]
    assert scores(delta, activations, "code").tolist() == [[-2.5, math.inf, 1, math.inf]]
    assert scores(delta, activations, "paper").tolist() == [[2.5, math.inf, 1, math.inf]]
    assert ordered(scores(delta, activations, "paper")).tolist() == [[2, 0, 1, 3]]


def test_agreement_by_hand() -> None:
    up, down = np.array([1.0, 2, 3, 4, np.inf]), np.array([9.0, 8, 7, 6, np.inf])
    # Four finite scores. The two lowest are {0, 1} and {3, 2}: nothing in common; by chance 2/4.
    assert order_agreement(up, down, top=2) == pytest.approx((-1, 0, 0.5))
    assert order_agreement(up, up * 2, top=2) == pytest.approx((1, 1, 0.5))
    # The three lowest: {0, 1, 2} and {3, 2, 1}. Two of three in common.
    assert order_agreement(up, down, top=3) == pytest.approx((-1, 2 / 3, 0.75))
    assert order_agreement(up, down, top=5) is None, "fewer finite scores than the list holds"
    assert order_agreement(np.ones(5), np.arange(5.0), top=2) is None, "all scores equal"
