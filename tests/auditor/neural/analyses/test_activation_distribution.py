"""Activation distribution against numpy's histogram of features computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from auditor.kit.statistics.estimate import Estimate
from auditor.models.classifier import Classifier
from auditor.neural.analyses.activation_distribution import ActivationDistribution
from auditor.neural.analysis import Finding, detail_of, section_of
from auditor.neural.delta.activation_spread import LayerActivations
from auditor.show.blocks import Figure, Measures
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import Given, subject_of
from tests.narrow import known, sequence, typed
from tests.nets import SHAPE, random_images, small_classifier


def find(classifier: Classifier, x: Tensor, x_adv: Tensor, batch_size: int = 8, **settings: Any) -> Finding:
    finding = ActivationDistribution(**settings).run(subject_of(classifier, Given(x, x_adv, batch_size)))
    return Finding.model_validate_json(finding.model_dump_json())


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    classifier = small_classifier().double()
    with torch.no_grad():
        sequence(classifier)[0].weight[0], sequence(classifier)[1].bias[0] = 0.0, -10.0  # neurons 0 to 8 are dead
    return classifier


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(random_images(20)).permute(0, 3, 1, 2).double() / 255
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)).double() - 0.5
    return x, (x + noise).clamp(0, 1)


@pytest.mark.parametrize("scale", ["layer", "neuron"])
def test_every_number_is_numpys(classifier: Classifier, pairs: tuple[Tensor, Tensor], scale: str) -> None:
    data = find(classifier, *pairs, scale=scale, bins=16).data.model_dump(mode="json")
    clean, moved = (sequence(classifier)[:5](classifier.normalize(x)).numpy() for x in pairs)
    axis = None if scale == "layer" else 0
    low, width = clean.min(axis), np.ptp(clean, axis)
    outside = 0
    for name, features in (("clean", clean), ("attacked", moved)):
        scaled = np.where(width > 0, (features - low) / np.where(width > 0, width, 1), 0)
        outside += int(((scaled < 0) | (scaled > 1)).sum())
        assert data["counts"][name] == np.histogram(scaled.clip(0, 1), 16, (0, 1))[0].tolist()
        zeros = (features == 0).mean(1)
        interval = stats.t.interval(0.95, 19, zeros.mean(), stats.sem(zeros))
        found = data["zeros"][name]
        assert (found["value"], found["low"], found["high"]) == pytest.approx((zeros.mean(), *interval))
        assert found["n"] == 20
    assert data["outside"] == outside > 0
    neuron = data["by_neuron"]
    assert neuron["mean"] == pytest.approx(clean.mean(0).tolist())
    assert neuron["std"] == pytest.approx(clean.std(0).tolist())
    assert neuron["zeros"] == pytest.approx((clean == 0).mean(0).tolist())
    assert neuron["zeros_attacked"] == pytest.approx((moved == 0).mean(0).tolist())
    assert neuron["zeros"][:9] == [1] * 9


def test_the_batch_size_changes_nothing(classifier: Classifier, pairs: tuple[Tensor, Tensor]) -> None:
    one, other = (find(classifier, *pairs, size).data.model_dump() for size in (1, 20))
    assert one["counts"] == other["counts"]
    assert one["zeros"]["attacked"] == pytest.approx(other["zeros"]["attacked"])
    assert one["by_neuron"]["std"] == pytest.approx(other["by_neuron"]["std"], rel=1e-9)


def test_one_image_and_a_layer_that_is_constant() -> None:
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(108, 3), nn.ReLU(), nn.Linear(3, 2)))
    with torch.no_grad():
        network[1].weight[:], network[1].bias[:] = 0.0, 0.1
    x = torch.rand(1, *SHAPE)
    finding = find(Classifier(network, input_shape=SHAPE, num_classes=2), x, x)
    numbers = typed(finding.data, LayerActivations)
    assert numbers.counts["clean"] == (3, *[0] * 49)
    assert numbers.zeros["clean"] == Estimate(value=0, low=None, high=None, n=1)
    assert [flag.name for flag in finding.flags] == ["constant features"]
    assert section_of(finding).blocks


def test_the_section_and_the_neurons_come_from_the_data(classifier: Classifier, pairs: tuple[Tensor, Tensor]) -> None:
    finding = find(classifier, *pairs)
    assert not finding.flags
    _, measures, histogram, neurons = section_of(finding).blocks
    assert isinstance(measures, Measures)
    assert measures.items[2].value == np.mean(
        np.array(known(typed(finding.data, LayerActivations).by_neuron).zeros) == 1
    )
    assert isinstance(histogram, Figure)
    assert isinstance(neurons, Figure)
    for figure in (histogram, neurons):
        draw(figure).to_dict()
    for title in ("clean images", "attacked images"):
        assert sum(row["share"] for row in histogram.rows if row["series"] == title) == pytest.approx(1)
    assert neurons.rows[-1]["value"] == 1
    assert sum(row["marked"] == "yes" for row in neurons.rows) == 7
    (numbers,) = detail_of(finding, ("3",))
    assert typed(numbers, Measures).items[2].value == 1
    assert detail_of(finding, ("72",)) == ()
