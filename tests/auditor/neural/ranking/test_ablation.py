"""An ablated network equals one whose weights were edited by hand."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from auditor.neural.probes.head import head_of
from auditor.neural.ranking.ablation import ablate_features, ablate_layer
from tests.narrow import sequence
from tests.nets import SHAPE, small_classifier, small_cnn

N = 60


def data() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(N, *SHAPE, generator=generator, dtype=torch.float64)
    x_adv = torch.rand(N, *SHAPE, generator=generator, dtype=torch.float64)
    return x, x_adv, small_classifier().double()(x).argmax(1)


def sets(neurons: int, *chosen: list[int]) -> Tensor:
    masks = torch.zeros(len(chosen), neurons, dtype=torch.bool)
    for row, members in enumerate(chosen):
        masks[row, members] = True
    return masks


def answers(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network((x - 0.5) / 0.5).argmax(1)


def test_silenced_features_are_columns_of_zeros_in_the_head() -> None:
    x, x_adv, labels = data()
    chosen = [list(range(0, 72, 3)), [5], list(range(72))]
    classifier = small_classifier().double()
    found = ablate_features(classifier, head_of(classifier), x, x_adv, labels, sets(72, *chosen))
    for row, members in enumerate(chosen):
        edited = sequence(small_cnn().double().eval())
        with torch.no_grad():
            edited[5].weight[:, members] = 0
        assert torch.equal(found.zero_clean[:, row], answers(edited, x) == labels)
        assert torch.equal(found.zero_twin[:, row], answers(edited, x_adv) == labels)
    assert 0 < found.zero_clean[:, 0].double().mean() < 1, "the case must be able to tell"


def test_silenced_channels_are_zeros_in_the_normalization() -> None:
    x, x_adv, labels = data()
    chosen = [[0, 3, 6], [1], [2, 4, 5, 7]]
    found = ablate_layer(small_classifier().double(), "2", x, x_adv, labels, sets(8, *chosen))
    for row, members in enumerate(chosen):
        edited = sequence(small_cnn().double().eval())
        with torch.no_grad():
            edited[1].weight[members] = 0
            edited[1].bias[members] = 0
        assert torch.equal(found.zero_clean[:, row], answers(edited, x) == labels)
        assert torch.equal(found.zero_twin[:, row], answers(edited, x_adv) == labels)
    assert 0 < found.zero_clean[:, 0].double().mean() < 1, "the case must be able to tell"


def test_a_transplant_puts_the_clean_channels_into_the_twin() -> None:
    x, x_adv, labels = data()
    chosen = [[0, 3, 6], [1], [2, 4, 5, 7]]
    found = ablate_layer(small_classifier().double(), "2", x, x_adv, labels, sets(8, *chosen))
    network = sequence(small_cnn().double().eval())
    for row, members in enumerate(chosen):
        for i in range(N):
            clean, twin = (network[:3]((part[i : i + 1] - 0.5) / 0.5) for part in (x, x_adv))
            twin[:, members] = clean[:, members]
            assert bool(found.transplant[i, row]) == bool(network[3:](twin).argmax() == labels[i])
    assert 0 < found.transplant[:, 0].double().mean() < 1, "the case must be able to tell"


def test_the_last_features_may_be_ablated_in_the_layer_that_makes_them() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 12), nn.ReLU(), nn.Linear(12, 5))
    classifier = copy.copy(small_classifier().double())
    classifier.network = network.double()
    x, x_adv, _ = data()
    labels = classifier(x).argmax(1)
    masks = torch.from_numpy(np.random.default_rng(0).random((10, 12)) < 0.4)
    fast = ablate_features(classifier, head_of(classifier), x, x_adv, labels, masks)
    slow = ablate_layer(classifier, "2", x, x_adv, labels, masks)
    assert all(torch.equal(one, other) for one, other in zip(fast, slow, strict=True))


def test_nothing_ablated_and_everything_transplanted() -> None:
    x, x_adv, labels = data()
    classifier = small_classifier().double()
    for found in (
        ablate_features(classifier, head_of(classifier), x, x_adv, labels, sets(72, [], list(range(72)))),
        ablate_layer(classifier, "0", x, x_adv, labels, sets(8, [], list(range(8)))),
    ):
        assert found.zero_clean[:, 0].all()
        assert torch.equal(found.zero_twin[:, 0], found.transplant[:, 0])
        assert torch.equal(found.transplant[:, 0], classifier(x_adv).argmax(1) == labels)
        assert found.transplant[:, 1].all()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in classifier.modules())
