"""Pruning curves against copies of the network whose weights are really set to zero."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.models.classifier import Classifier
from auditor.neural.analyses.neuron_pruning import NeuronPruning
from auditor.neural.analysis import Finding, Subject, measured, section_of
from auditor.show.blocks import Figure, Table
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import Given, subject_of
from tests.auditor.neural.delta.test_values import restated
from tests.narrow import sequence
from tests.nets import SHAPE, labelled, small_classifier


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Neurons 0 to 8 of the last layer are dead."""
    classifier = small_classifier()
    with torch.no_grad():
        sequence(classifier)[0].weight[0], sequence(classifier)[1].bias[0] = 0.0, -10.0
    return classifier


def given(classifier: Classifier, batch_size: int = 7, n: int = 30) -> Given:
    data = labelled(classifier, n=n, wrong=4)
    x = data.images(np.arange(n))
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 0.5
    return Given(x, (x + 0.5 * noise).clamp(0, 1), batch_size, labels=torch.from_numpy(data.labels))


def find(subject: Subject, **settings: Any) -> Finding:
    finding = NeuronPruning(**settings).run(subject)
    return Finding.model_validate_json(finding.model_dump_json())


def mean_scaled(classifier: Classifier, x: Tensor) -> np.ndarray:
    """Mean |Delta| / σ of each neuron where finite, from a loop over eq. 2; inf where there is none."""
    exact = copy.deepcopy(classifier).double()
    features = sequence(exact)[:5](exact.normalize(x.double()))
    delta, _ = restated(features, exact(x.double()), sequence(exact)[5].weight, 0.0)
    std = features.numpy().std(0)
    finite = np.isfinite(delta)
    with np.errstate(all="ignore"):
        mean = np.where(finite, np.abs(delta), 0).sum(0) / finite.sum(0) / std
    return np.where((std > 0) & finite.any(0), mean, np.inf)


def right(classifier: Classifier, x: Tensor, labels: Tensor, gone: np.ndarray) -> int:
    """Images that a copy without the weights of some neurons classifies as labelled."""
    pruned = copy.deepcopy(classifier)
    with torch.no_grad():
        sequence(pruned)[5].weight[:, torch.from_numpy(gone.copy())] = 0.0
    return int((pruned(x).argmax(1) == labels).sum())


def test_every_point_is_a_network_with_weights_set_to_zero(classifier: Classifier) -> None:
    pairs = given(classifier)
    data = find(subject_of(classifier, pairs), steps=6).data.model_dump(mode="json")
    mean = mean_scaled(classifier, pairs.x)
    order = mean.argsort(kind="stable")
    assert data["pruned"] == [0, 12, 24, 36, 48, 60, 72]
    assert data["unranked"] == np.isinf(mean).sum() >= 9
    ranked = len(mean) - data["unranked"]
    for images, x in (("clean", pairs.x), ("attacked", pairs.x_adv)):
        for name, kept in (("most", order), ("least", np.concatenate([order[:ranked][::-1], order[ranked:]]))):
            expected = [right(classifier, x, pairs.labels, kept[:count]) for count in data["pruned"]]
            assert data[images][name] == expected
            assert len(set(expected)) > 2, "the curve must say something"
    assert data["clean"]["most"][0] == 26
    # Without any neuron the bias decides: one class for every image.
    alone = int((pairs.labels == sequence(classifier)[5].bias.argmax()).sum())
    assert {hits[-1] for hits in data["clean"].values()} == {alone}


def test_random_orders_differ_are_the_seeds_and_nest(classifier: Classifier) -> None:
    subject = subject_of(classifier, given(classifier))
    data, again = (
        find(subject, draws=3).data.model_dump(mode="json"),
        find(subject, draws=4).data.model_dump(mode="json"),
    )
    names = ["random 1", "random 2", "random 3"]
    assert [name for name in data["clean"] if name.startswith("random")] == names
    assert [data["clean"][name] for name in names] == [again["clean"][name] for name in names]
    assert len({tuple(data["clean"][name] + data["attacked"][name]) for name in names}) > 1
    other = find(replace(subject, seed=1), draws=3).data.model_dump(mode="json")
    assert [other["clean"][name] for name in names] != [data["clean"][name] for name in names]
    assert other["clean"]["most"] == data["clean"]["most"]


@pytest.mark.parametrize("batch_size", [1, 30])
def test_the_batch_size_changes_nothing(classifier: Classifier, batch_size: int) -> None:
    exact = copy.deepcopy(classifier).double()
    one, other = (
        find(subject_of(exact, given(classifier, size))).data.model_dump(mode="json") for size in (7, batch_size)
    )
    assert one == other


def test_one_neuron_that_carries_all() -> None:
    """Class 1 where neuron 1 is large; neurons 0 and 2 add noise too small to matter."""
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(108, 3), nn.ReLU(), nn.Linear(3, 2)))
    with torch.no_grad():
        network[1].weight[:], network[1].bias[:] = 1 / 108, 0.0
        network[3].weight[:] = torch.tensor([[0.01, -1.0, 0.0], [0.0, 1.0, 0.01]])
        network[3].bias[:] = torch.tensor([1.0, 0.0])
    classifier = Classifier(network, input_shape=SHAPE, num_classes=2)
    x = torch.cat([torch.full((10, *SHAPE), 0.2), torch.full((10, *SHAPE), 0.8)])
    labels = torch.arange(20) // 10
    finding = find(subject_of(classifier, Given(x, x, 8, labels=labels)), steps=3, draws=20)
    # z is 0.2 or 0.8 in every neuron: class 1 where 2 z > 1. Without neuron 1 the bias gives class 0: half are right.
    assert finding.data.model_dump(mode="json")["clean"]["most"] == [20, 10, 10, 10]
    assert finding.data.model_dump(mode="json")["clean"]["least"] == [20, 20, 20, 10]
    assert {
        hits[1] for name, hits in finding.data.model_dump(mode="json")["clean"].items() if name.startswith("random")
    } == {
        10,
        20,
    }
    first, *_ = [block for block in section_of(finding).blocks if isinstance(block, Figure)]
    point = next(row for row in first.rows if row["series"] == "random order" and row["x"] == 1 / 3)
    share = (
        np.mean(
            [
                hits[1]
                for name, hits in finding.data.model_dump(mode="json")["clean"].items()
                if name.startswith("random")
            ]
        )
        / 20
    )
    assert point["value"] == pytest.approx(share)
    assert (point["low"], point["high"]) == (0.5, 1), "the worst and the best order"


def test_random_orders_leave_neurons_without_a_delta_to_the_last() -> None:
    """Neuron 3 is 1 on every image, so that it has no score; without it all answers are class 1, without neuron 1 class 0."""
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.ReLU(), nn.Linear(4, 2)))
    with torch.no_grad():
        network[1].weight[:], network[1].bias[:] = 1 / 108, 0.0
        network[1].weight[3], network[1].bias[3] = 0.0, 1.0
        network[3].weight[:] = torch.tensor([[0.01, -1.0, 0.0, 1.0], [0.0, 1.0, 0.01, 0.0]])
        network[3].bias[:] = 0.0
    classifier = Classifier(network, input_shape=SHAPE, num_classes=2)
    x = torch.cat([torch.full((5, *SHAPE), 0.2), torch.full((15, *SHAPE), 0.8)])
    labels = (torch.arange(20) >= 5).long()
    data = find(subject_of(classifier, Given(x, x, 8, labels=labels)), steps=4, draws=40).data.model_dump(mode="json")
    assert data["unranked"] == 1
    assert data["clean"]["most"] == [20, 5, 5, 5, 5]
    # In the fourth place neuron 3 alone is left: class 0. With it drawn like any other, ten orders would begin with 15 right.
    random = [hits for name, hits in data["clean"].items() if name.startswith("random")]
    assert {hits[1] for hits in random} == {5, 20}
    assert {hits[3] for hits in random} == {5}
    assert data["clean"]["least"][3] == 5


def test_an_order_that_does_not_matter_is_flagged_and_one_that_does_is_not(classifier: Classifier) -> None:
    constant, heavy = copy.deepcopy(classifier), copy.deepcopy(classifier)
    with torch.no_grad():
        sequence(constant)[5].weight *= 1e-6  # the bias alone decides
        sequence(heavy)[5].weight[:, 27:36] *= 200  # the nine neurons of one channel decide
    (flag,) = find(subject_of(constant, given(constant))).flags
    assert flag.name == "pruning order does not matter"
    assert "20 of 20 random orders cost as much (p = 1.00)" in flag.evidence
    assert not find(subject_of(heavy, given(heavy))).flags


def test_one_image_and_the_section_from_the_data(classifier: Classifier) -> None:
    for pairs in (given(classifier), given(classifier, n=5)):
        finding = find(subject_of(classifier, pairs), draws=2)
        section = section_of(finding)
        figures = [block for block in section.blocks if isinstance(block, Figure)]
        for figure in figures:
            draw(figure).to_dict()
            assert all(row["low"] <= row["value"] <= row["high"] for row in figure.rows)
        (table,) = [block for block in section.blocks if isinstance(block, Table)]
        assert len(table.rows) == 11
    x = torch.rand(1, *SHAPE)
    finding = find(subject_of(classifier, Given(x, x, 1)), steps=1, draws=1)
    assert finding.data.model_dump(mode="json")["unranked"] == 72, "one image: nothing varies"


def test_a_network_with_another_ending_is_declined() -> None:
    x = torch.rand(2, *SHAPE)
    network = nn.Sequential(nn.Conv2d(3, 4, 6), nn.Flatten())
    finding = measured(
        NeuronPruning(), subject_of(Classifier(network, input_shape=SHAPE, num_classes=4), Given(x, x, 2))
    )
    assert "no linear layer" in finding.declined
