"""Interventions against plain passes through a chain and against networks with edited weights, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from auditor.kit.errors import EvaluationError
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import Classifier
from auditor.neural.probes.intervention import (
    Connections,
    connects,
    filter_norms,
    layer_of,
    record,
    silenced,
    transplanted,
    weakened,
)
from tests.auditor.routed import CONVOLUTIONS, chain, classifier_of, images, one_by_one
from tests.narrow import sequence

X, X_ADV = images(6)


def mask(size: int, *members: int) -> Tensor:
    return torch.zeros(size, dtype=torch.bool).index_fill(0, torch.tensor(members), True)


def every(size: int) -> Tensor:
    return torch.ones(size, dtype=torch.bool)


@pytest.mark.parametrize("layer", CONVOLUTIONS)
def test_all_channels_of_a_layer_make_the_pass_clean_from_there_on(layer: str) -> None:
    classifier = classifier_of(chain())
    features = record(classifier, X, [layer])
    with transplanted(classifier.network, features, {layer: every(features[layer].shape[1])}):
        assert torch.equal(classifier(X_ADV), classifier(X))
    assert not torch.allclose(classifier(X_ADV), classifier(X))


def test_in_a_residual_network_too_the_first_layer_is_all_there_is() -> None:
    torch.manual_seed(0)
    network = ARCHITECTURES.build("resnet-cifar", {"depth": 20}).build()
    classifier = Classifier(network, input_shape=(3, 32, 32), num_classes=10, copy=False)
    x, x_adv = torch.rand(2, 2, 3, 32, 32)
    features = record(classifier, x, ["conv1", "layer2.0.conv1"])
    with transplanted(network, features, {"conv1": every(16)}):
        assert torch.equal(classifier(x_adv), classifier(x))
    with transplanted(network, features, {"layer2.0.conv1": every(32)}):  # the shortcut still carries the perturbation
        assert not torch.allclose(classifier(x_adv), classifier(x))


def test_some_channels_of_several_layers_are_overwritten_in_order() -> None:
    network = chain()
    classifier = classifier_of(network)
    masks = {"0": mask(10, 1, 4, 9), "7": mask(10, 0, 2)}
    clean = {"0": network[0](X), "7": network[:8](X)}

    def graft(layer: str) -> Callable[[Tensor], Tensor]:
        def edit(output: Tensor) -> Tensor:
            for channel in masks[layer].nonzero().flatten().tolist():
                output[:, channel] = clean[layer][:, channel]
            return output

        return edit

    with torch.no_grad():
        expected = one_by_one(network, X_ADV, {layer: graft(layer) for layer in masks})
        with transplanted(classifier.network, record(classifier, X, masks), masks):
            assert torch.allclose(classifier(X_ADV), expected, rtol=1e-12, atol=1e-12)


def test_each_image_may_have_its_own_channels() -> None:
    classifier = classifier_of(chain())
    own = torch.rand(6, 10, generator=torch.Generator().manual_seed(0)) < 0.4
    features = record(classifier, X, ["0"])
    with transplanted(classifier.network, features, {"0": own}):
        together = classifier(X_ADV)
    for row in range(6):
        one = {"0": features["0"][row : row + 1]}
        with transplanted(classifier.network, one, {"0": own[row]}):
            assert torch.allclose(classifier(X_ADV[row : row + 1])[0], together[row], rtol=1e-12)


def test_what_is_recorded_outlives_layers_that_work_in_place() -> None:
    network = chain()
    assert torch.equal(record(classifier_of(network), X, ["7"])["7"], network[:8](X))


def test_silenced_channels_are_those_of_a_network_without_their_filters() -> None:
    network = chain()
    masks = {"0": mask(10, 0, 5), "3": mask(12, 11)}
    edited = sequence(copy.deepcopy(network))
    for layer, chosen in masks.items():
        edited[int(layer)].weight[chosen] = 0
        edited[int(layer)].bias[chosen] = 0
    with silenced(network, masks):
        assert torch.allclose(classifier_of(network)(X), classifier_of(edited)(X), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(classifier_of(network)(X), classifier_of(edited)(X))


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_weakened_connections_are_those_of_a_network_with_edited_weights(beta: float) -> None:
    network = chain()
    connections = {
        "3": Connections(mask(10, 1, 2, 7), mask(12, 0, 3)),
        "7": Connections(mask(12, 0, 3), mask(10, 4, 5, 6)),
    }
    edited = sequence(copy.deepcopy(network))
    for layer, (sources, targets) in connections.items():
        for m in targets.nonzero().flatten().tolist():
            for n in sources.nonzero().flatten().tolist():
                edited[int(layer)].weight[m, n] *= beta
    with weakened(network, connections, beta):
        found = classifier_of(network)(X)
    assert torch.allclose(found, classifier_of(edited)(X), rtol=1e-10, atol=1e-10)
    assert torch.allclose(found, classifier_of(network)(X), rtol=1e-10) == (beta == 1)


def test_weakened_connections_of_grouped_and_of_linear_layers_after_flattened_maps() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2, padding=1, padding_mode="reflect"), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * 16, 4),
    ).double()  # fmt: skip
    network.requires_grad_(False)
    edited = sequence(copy.deepcopy(network))
    # Target channel 1 is in the first group (inputs 0-2), 3 in the second (inputs 3-5): of the sources 2 and 4 each has one.
    edited[2].weight[1, 2] *= 0.5
    edited[2].weight[3, 4 - 3] *= 0.5
    edited[5].weight.view(4, 4, 16)[2, 3] *= 0.5
    connections = {
        "2": Connections(mask(6, 2, 4), mask(4, 1, 3)),
        "5": Connections(mask(4, 3), mask(4, 2)),
    }
    with weakened(network, connections, 0.5):
        assert torch.allclose(network(X), edited(X), rtol=1e-12, atol=1e-12)


def test_each_image_may_have_its_own_connections() -> None:
    network = chain()
    generator = torch.Generator().manual_seed(1)
    sources, targets = (torch.rand(6, size, generator=generator) < 0.4 for size in (10, 12))
    with weakened(network, {"3": Connections(sources, targets)}, 0.2):
        together = network(X)
    for row in range(6):
        with weakened(network, {"3": Connections(sources[row], targets[row])}, 0.2):
            assert torch.allclose(network(X[row : row + 1])[0], together[row], rtol=1e-10)


def test_everything_comes_off_again_after_an_error_too() -> None:
    network = chain()
    before = network(X)
    for inside in (
        transplanted(network, {}, {}),
        silenced(network, {"0": every(10)}),
        weakened(network, {"3": Connections(every(10), every(12))}, 0.0),
    ):
        with pytest.raises(KeyboardInterrupt), inside:
            raise KeyboardInterrupt
        assert torch.equal(network(X), before)


def test_which_layers_take_their_input_channel_by_channel() -> None:
    network = chain()
    assert connects(network, "3", 10)
    assert not connects(network, "3", 12)
    assert connects(network, "10", 10)  # 90 inputs: 10 channels of 9 positions
    assert not connects(network, "10", 7)
    assert not connects(network, "5", 12)  # an activation has no weights
    assert not connects(network, "3#2", 10)  # run twice, weights shared


def test_norms_of_filters_and_layers_without_any() -> None:
    network = sequence(chain())
    norms = filter_norms(network, "3")
    for channel in range(12):
        assert norms[channel] == pytest.approx(
            sum(abs(value) for value in network[3].weight[channel].flatten().tolist())
        )
    assert layer_of(network[0], "conv2d") is network[0]  # the network is the layer itself
    with pytest.raises(EvaluationError, match="no filters"):
        filter_norms(network, "2")
    with pytest.raises(EvaluationError, match="no module"):
        filter_norms(network, "block.relu()")
