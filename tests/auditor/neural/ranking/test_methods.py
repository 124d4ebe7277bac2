"""Every ranking against its formula, neuron by neuron in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.neural.probes.head import head_of
from auditor.neural.ranking.methods import Ranking, closest_flips, inner_layers, rank_features, rank_layers
from tests.auditor.neural.analyses.given import Given
from tests.narrow import sequence
from tests.nets import SHAPE, small_classifier, small_cnn

N = 9


def data() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(N, *SHAPE, generator=generator, dtype=torch.float64)
    noise = torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.5
    return x, (x + 0.3 * noise).clamp(0, 1), torch.randint(5, (N,), generator=generator)


def pairs(batch_size: int = 4, fooled: np.ndarray | None = None) -> Given:
    x, x_adv, labels = data()
    return Given(x, x_adv, batch_size, fooled, labels)


def features(x: Tensor) -> np.ndarray:
    network = sequence(small_cnn().double().eval())
    with torch.no_grad():
        return network[:5]((x - 0.5) / 0.5).numpy()


def odds_slope(weight: np.ndarray, logits: np.ndarray, label: int) -> np.ndarray:
    """Derivative of log p / (1 - p) of a class by the features, by autograd."""
    leaf = torch.zeros(weight.shape[1], dtype=torch.float64, requires_grad=True)
    p = (torch.from_numpy(logits) + torch.from_numpy(weight) @ leaf).softmax(0)[label]
    (slope,) = torch.autograd.grad((p / (1 - p)).log(), leaf)
    return slope.numpy()


def smallest_flip(z: np.ndarray, weight: np.ndarray, logits: np.ndarray, neuron: int) -> float:
    """Eq. 1-2 of Suri and Evans, class by class."""
    y = int(logits.argmax())
    able = [np.inf]
    for c in range(len(logits)):
        if c != y and weight[c, neuron] != weight[y, neuron]:
            delta = (logits[y] - logits[c]) / (weight[c, neuron] - weight[y, neuron])
            if z[neuron] + delta >= 0:
                able.append(abs(delta))
    return min(able)


def test_the_rankings_of_the_last_features_equal_their_formulas() -> None:
    classifier = small_classifier().double()
    head = head_of(classifier)
    weight, bias = head.weight.numpy(), head.bias.numpy()
    fooled = np.arange(N) % 2 == 1
    found = {item.method: item.values for item in rank_features(classifier, head, pairs(fooled=fooled))}
    x, x_adv, labels = data()
    clean, twin = features(x), features(x_adv)
    expected = {name: np.zeros(clean.shape[1]) for name in found}
    flips = np.zeros_like(clean)
    for i in range(N):
        logits, wrong = weight @ clean[i] + bias, weight @ twin[i] + bias
        own = odds_slope(weight, logits, int(logits.argmax()))
        true = odds_slope(weight, logits, int(labels[i]))
        for m in range(clean.shape[1]):
            expected["sensitivity"][m] += abs(clean[i, m] - twin[i, m]) / N
            expected["influence"][m] += own[m] * clean[i, m] / N
            expected["gradient"][m] += abs(true[m] * clean[i, m]) / N
            expected["activation"][m] += abs(clean[i, m]) / N
            if fooled[i]:
                expected["importance"][m] += twin[i, m] * weight[wrong.argmax(), m] / fooled.sum()
            flips[i, m] = smallest_flip(clean[i], weight, logits, m)
    for m in range(clean.shape[1]):
        spread, flip = clean[:, m].std(), np.median(flips[:, m])
        expected["delta"][m] = spread / flip if spread > 0 and np.isfinite(flip) else 0
        expected["weight"][m] = np.abs(weight[:, m]).sum()
    assert set(found) == {"sensitivity", "influence", "delta", "gradient", "importance", "activation", "weight"}
    for name, values in found.items():
        # The changes of the Delta-values are kept in float32 for their median.
        tolerance = 1e-6 if name == "delta" else 1e-9
        assert np.allclose(values, expected[name], rtol=tolerance, atol=1e-13), name


def test_a_delta_value_just_flips_the_prediction() -> None:
    classifier = small_classifier().double()
    head = head_of(classifier)
    z = torch.from_numpy(features(data()[0]))
    logits = z @ head.weight.T + head.bias
    sizes = closest_flips(z, logits, head.weight)
    flips = 0
    for i, m in torch.isfinite(sizes).nonzero().tolist():
        answers = []
        for factor in (1 - 1e-4, 1 + 1e-4):
            changed = [z[i].clone(), z[i].clone()]
            changed[0][m] += factor * sizes[i, m]
            changed[1][m] -= factor * sizes[i, m]
            able = [item for item in changed if item[m] >= -1e-4 * sizes[i, m]]
            predicted = [int((head.weight @ item + head.bias).argmax()) for item in able]
            answers.append(any(other != int(logits[i].argmax()) for other in predicted))
        assert answers == [False, True], (i, m)
        flips += 1
    assert flips > 100


def test_features_below_zero_may_be_lowered_further() -> None:
    z, weight = torch.tensor([[1.0, -1.0], [1.0, 0.5]]), torch.tensor([[1.0, 1.0], [0.0, 0.5]])
    # Image 0: logits (0, -0.5), gap 0.5: Delta = 0.5 / (0 - 1) = -0.5 and 0.5 / (0.5 - 1) = -1, both allowed.
    # Image 1: logits (1.5, 0.25), gap 1.25: Delta = -1.25 and -2.5, both below zero, not allowed after a ReLU.
    assert closest_flips(z, z @ weight.T, weight).tolist() == [[0.5, 1.0], [torch.inf, torch.inf]]


def test_a_dead_neuron_and_a_constant_one_come_last_by_delta() -> None:
    torch.manual_seed(0)
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(108, 6), nn.ReLU(), nn.Linear(6, 5)))
    with torch.no_grad():
        network[1].bias += 2
        network[1].weight[2], network[1].bias[2] = 0, -1  # never above zero
        network[1].weight[4], network[1].bias[4] = 0, 0.3  # always 0.3
    classifier = Classifier(network, input_shape=SHAPE, num_classes=5, normalization=NORMALIZATIONS["half"]).double()
    ranking = next(item for item in rank_features(classifier, head_of(classifier), pairs()) if item.method == "delta")
    assert ranking.values[[2, 4]].tolist() == [0, 0]
    assert (np.delete(ranking.values, [2, 4]) > 0).all()
    assert ranking.order[-2:].tolist() == [2, 4]


def test_without_a_fooled_twin_there_is_no_importance() -> None:
    classifier = small_classifier().double()
    rankings = rank_features(classifier, head_of(classifier), pairs(fooled=np.zeros(N, bool)))
    assert "importance" not in {item.method for item in rankings}
    assert len(rankings) == 6


@pytest.mark.parametrize("batch_size", [1, 9])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    classifier = small_classifier().double()
    head = head_of(classifier)
    for one, other in zip(
        rank_features(classifier, head, pairs(4)), rank_features(classifier, head, pairs(batch_size)), strict=True
    ):
        assert np.allclose(one.values, other.values, rtol=1e-6 if one.method == "delta" else 1e-10, atol=1e-14)
    for one, other in zip(
        rank_layers(classifier, pairs(4), ["0"])["0"], rank_layers(classifier, pairs(batch_size), ["0"])["0"], strict=True
    ):  # fmt: skip
        assert np.allclose(one.values, other.values, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_rankings_of_an_inner_layer_equal_their_formulas(depth: int) -> None:
    classifier, network = small_classifier().double(), sequence(small_cnn().double().eval())
    found = {item.method: item.values for item in rank_layers(classifier, pairs(), [str(depth)])[str(depth)]}
    x, x_adv, labels = data()
    expected = {name: np.zeros(8) for name in ("sensitivity", "influence", "gradient", "activation")}
    for i in range(N):
        clean, twin = (network[: depth + 1]((part[i : i + 1] - 0.5) / 0.5)[0].detach() for part in (x, x_adv))
        slope = {}
        for name, label in (("own", None), ("true", int(labels[i]))):
            leaf = clean.clone().requires_grad_()
            p = network[depth + 1 :](leaf[None])[0].softmax(0)
            p = p.max() if label is None else p[label]
            (slope[name],) = torch.autograd.grad((p / (1 - p)).log(), leaf)
        for m in range(8):
            expected["sensitivity"][m] += float((clean[m] - twin[m]).abs().mean()) / N
            expected["activation"][m] += float(clean[m].abs().mean()) / N
            expected["gradient"][m] += abs(float((slope["true"][m] * clean[m]).sum())) / N
            expected["influence"][m] += float(slope["own"][m].sum() * clean[m].mean()) / N
    assert set(found) == set(expected)
    for name, values in found.items():
        assert np.allclose(values, expected[name], rtol=1e-9, atol=1e-13), name


def test_inner_layers_are_spread_over_the_activations_and_not_the_head() -> None:
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(108, 6)]
    for _ in range(6):
        layers += [nn.Tanh(), nn.Linear(6, 6)]
    classifier = Classifier(nn.Sequential(*layers, nn.Linear(6, 5)), input_shape=SHAPE, num_classes=5)
    head = head_of(classifier)
    assert inner_layers(classifier, head, 2) == ["4", "10"]  # of 2, 4, 6, 8, 10, 12
    assert inner_layers(classifier, head, 99) == ["2", "4", "6", "8", "10", "12"]
    assert inner_layers(classifier, head, 0) == []
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 5))
    classifier = Classifier(convolutions, input_shape=SHAPE, num_classes=5)
    assert inner_layers(classifier, head_of(classifier), 9) == ["0", "1"]


def test_ties_go_to_the_lower_index() -> None:
    assert Ranking("weight", np.array([1.0, 3.0, 3.0, 2.0])).order.tolist() == [1, 2, 3, 0]
