"""Delta-values as an analysis: its numbers against numpy on Delta-values from a loop over eq. 2."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.kit.statistics.estimate import Estimate
from auditor.models.classifier import Classifier
from auditor.neural.analyses.delta_values import DeltaValues
from auditor.neural.analysis import Finding, detail_of, measured, section_of
from auditor.neural.delta.log_bins import EDGES, LogBins
from auditor.neural.delta.tally import LastLayerDeltas
from auditor.neural.probes.head import head_of
from auditor.show.blocks import Figure, Measures, Table, Text
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import Given, subject_of
from tests.auditor.neural.delta.test_values import restated
from tests.auditor.real import Setting
from tests.narrow import known, sequence, typed
from tests.nets import SHAPE, random_images, small_classifier


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Neuron 0 of the last layer is dead, neuron 1 sees the classes alike."""
    classifier = small_classifier().double()
    with torch.no_grad():
        sequence(classifier)[0].weight[0], sequence(classifier)[1].bias[0] = 0.0, -10.0
        sequence(classifier)[5].weight[:, 9] = 0.25
    return classifier


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.from_numpy(random_images(25)).permute(0, 3, 1, 2).double() / 255


def expected(classifier: Classifier, x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, Delta and the class reached."""
    with torch.no_grad():
        features = sequence(classifier)[:-1](classifier.normalize(x))
        return features.numpy(), *restated(features, classifier(x), sequence(classifier)[5].weight, 0.0)


def find(classifier: Classifier, x: Tensor, batch_size: int = 8, **settings: Any) -> Finding:
    finding = DeltaValues(**settings).run(subject_of(classifier, Given(x, x, batch_size)))
    return Finding.model_validate_json(finding.model_dump_json())


def test_every_number_is_numpys(classifier: Classifier, x: Tensor) -> None:
    features, delta, target = expected(classifier, x)
    data = find(classifier, x).data.model_dump(mode="json")
    std, finite = features.std(0), np.isfinite(delta)
    assert (std[:9] == 0).all()
    assert not finite[:, 9].any()
    assert (data["images"], data["neurons"], data["classes"], data["tied"], data["floor"]) == (25, 72, 5, 0, 0)
    assert data["infinite"] == (~finite).sum()
    assert data["unverified"] == 0
    neuron = data["by_neuron"]
    assert neuron["finite"] == finite.sum(0).tolist()
    assert neuron["raised"] == (finite & (delta > 0)).sum(0).tolist()
    with np.errstate(all="ignore"):
        raw = np.where(finite, np.abs(delta), 0).sum(0) / finite.sum(0)
        scaled = np.where(finite & (std > 0), np.abs(delta) / std, np.inf)
    for name, values in (("raw", raw), ("scaled", raw / np.where(std > 0, std, np.nan))):
        found = np.array(neuron[name], np.float64)
        assert np.array_equal(np.isnan(found), np.isnan(values))
        assert np.allclose(found, values, rtol=1e-9, equal_nan=True)
    counts = np.array([[(target[:, i] == c).sum() for c in range(5)] for i in range(72)])
    assert neuron["reached"] == counts.max(1).tolist()
    assert neuron["target"] == np.where(counts.max(1) > 0, counts.argmax(1), -1).tolist()
    assert neuron["nearest"] == np.bincount(scaled.argmin(1), minlength=72).tolist()
    assert np.allclose(neuron["mean"], features.mean(0))
    lowest = np.sort(scaled.min(1))
    assert data["median"]["value"] == pytest.approx(np.median(lowest), rel=1e-9)
    # The exact interval of the median of 25: order statistics 8 and 18 (binomial 25, 1/2 puts 0.9567 between them).
    assert (data["median"]["low"], data["median"]["high"]) == pytest.approx((lowest[7], lowest[17]), rel=1e-9)
    quantiles = {row["what"]: row for row in data["quantiles"]}
    assert quantiles["lowest |Δ| of each image"]["0.25"] == pytest.approx(
        np.quantile(np.abs(delta).min(1), 0.25), rel=1e-9
    )
    for scale, values in (("raw", np.abs(delta)), ("scaled", scaled)):
        every, nearest = data["bins"][scale].values()
        full = np.histogram(values[np.isfinite(values)], EDGES)[0]
        assert full[every["first"] : every["first"] + len(every["counts"])].tolist() == every["counts"]
        assert (sum(every["counts"]), every["total"]) == (np.isfinite(values).sum(), values.size)
        assert (sum(nearest["counts"]), nearest["total"]) == (25, 25)


def test_the_orderings_are_compared_image_by_image(classifier: Classifier, x: Tensor) -> None:
    features, delta, _ = expected(classifier, x)
    mean, std = features.mean(0), features.std(0)
    data = find(classifier, x).data.model_dump(mode="json")
    correlations, overlaps = [], []
    for row in delta:
        known = np.flatnonzero(np.isfinite(row) & (std > 0))
        if len(known) < 16:
            continue
        one, other = np.abs(row[known]) / std[known], np.abs((row[known] - mean[known]) / std[known])
        place, place_other = one.argsort().argsort(), other.argsort().argsort()
        n = len(known)
        correlations.append(1 - 6 * ((place - place_other) ** 2).sum() / (n**3 - n))
        overlaps.append(len(set(one.argsort()[:16]) & set(other.argsort()[:16])) / 16)
    found = next(item for item in data["orderings"] if (item["one"], item["other"]) == ("abs_scaled", "paper"))
    assert found["n"] == len(correlations) > 5
    assert found["spearman"] == pytest.approx(np.mean(correlations), rel=1e-9)
    assert found["spearman_std"] == pytest.approx(np.std(correlations), rel=1e-9)
    assert found["overlap"] == pytest.approx(np.mean(overlaps))
    assert len(data["orderings"]) == 3


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == pytest.approx(other, rel=1e-9) if isinstance(one, float) else one == other


def test_the_batch_size_changes_nothing(classifier: Classifier, x: Tensor) -> None:
    assert same(*(find(classifier, x, size).data.model_dump(mode="json") for size in (25, 3)))


def test_on_real_networks_every_finite_value_is_verified(setting: Setting) -> None:
    """In float32, ResNet-20 and cnn-a: all neurons of 100 images, both sides of Delta."""
    x = setting.x[:100]
    data = typed(find(setting.classifier, x, 50).data, LastLayerDeltas)
    assert data.unverified == 0
    assert sum(known(data.by_neuron).finite) > 1000
    assert known(data.median.value) > 0


def test_images_without_a_prediction_are_counted_and_left_out() -> None:
    """Logits (0, w.x, w.x, -1): two are equal where w.x > 0."""
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(108, 1), nn.Linear(1, 4)))
    with torch.no_grad():
        network[1].weight[:], network[1].bias[:] = 1.0, -20.0
        network[2].weight[:, 0], network[2].bias[:] = torch.tensor([0.0, 1, 1, 0]), torch.tensor([0.0, 0, 0, -1])
    classifier = Classifier(network, input_shape=SHAPE, num_classes=4)
    x = torch.stack([torch.full(SHAPE, 0.1), torch.full(SHAPE, 0.9), torch.full(SHAPE, 0.15)])
    finding = find(classifier, x, 2)
    found = typed(finding.data, LastLayerDeltas)
    assert (found.tied, found.images) == (1, 2)
    assert found.floor is None
    # w.x - 20 = -9.2 and -3.8: it must rise by as much.
    assert known(found.by_neuron).raw == pytest.approx((6.5,), rel=1e-5)
    assert known(found.by_neuron).raised == (2,)
    assert [flag.name for flag in finding.flags] == ["tied predictions"]
    check_drawing(finding)


def test_one_image_and_nothing_finite() -> None:
    """A head whose classes differ by their bias alone: no neuron changes anything."""
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.ReLU(), nn.Linear(4, 2)))
    with torch.no_grad():
        network[3].weight[:] = 0.5
    finding = find(Classifier(network, input_shape=SHAPE, num_classes=2), torch.rand(1, *SHAPE))
    found = typed(finding.data, LastLayerDeltas)
    assert found.infinite == 4
    assert found.median == Estimate(value=None, low=None, high=None, n=0)
    check_drawing(finding)


def check_drawing(finding: Finding) -> None:
    for block in section_of(finding).blocks:
        if isinstance(block, Figure):
            draw(block).to_dict()


def test_the_section_and_the_neurons_come_from_the_data(classifier: Classifier, x: Tensor) -> None:
    finding = find(classifier, x)
    section = section_of(finding)
    check_drawing(finding)
    figures = [block for block in section.blocks if isinstance(block, Figure)]
    assert [figure.select for figure in figures] == ["", "", "neuron"]
    values = [row["value"] for row in figures[2].rows]
    assert values == sorted(values)
    assert sum(row["marked"] == "yes" for row in figures[2].rows) == 16
    assert len([block for block in section.blocks if isinstance(block, Table)]) == 2
    (measures,) = [block for block in section.blocks if isinstance(block, Measures)]
    assert measures.items[1].n == 25 * 72
    chosen = figures[2].rows[0]["neuron"]
    text, numbers = detail_of(finding, (str(chosen),))
    assert f"Neuron {chosen} of 72" in typed(text, Text).text
    assert typed(numbers, Measures).items[0].value == values[0]
    assert detail_of(finding, ("72",)) == detail_of(finding, ("no neuron",)) == ()
    text, _ = detail_of(finding, ("9",))
    assert "class" not in typed(text, Text).text, "nothing is reached"


def test_a_network_with_another_ending_is_declined() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 6), nn.Flatten())
    x = torch.rand(2, *SHAPE)
    finding = measured(DeltaValues(), subject_of(Classifier(network, input_shape=SHAPE, num_classes=4), Given(x, x, 2)))
    assert "no linear layer" in finding.declined


def test_bins_count_everything_once() -> None:
    bins = LogBins()
    values = torch.tensor([0.0, 1e-12, 1.0, 1.1, 1.3, 1e12, math.inf])
    bins.add(values[:3])
    bins.add(values[3:])
    found = bins.found()
    # 1.0 and 1.1 share a bin (its edges are 1 and 1.2589), 1.3 has the next; 0 and 1e-12 the first, 1e12 the last.
    assert (found.first, found.total, len(found.counts)) == (0, 7, 160)
    assert [found.counts[place] for place in (0, 80, 81, 159)] == [2, 2, 1, 1]
    assert sum(found.counts) == 6
    rows = found.rows("all")
    assert (rows[80]["low"], rows[80]["share"]) == (1.0, 2 / 7)
    assert rows[-1]["share"] == 0
    assert LogBins().found().rows("none") == ({"low": 1e-8, "high": EDGES[1], "share": 0.0, "series": "none"},)


def test_the_head_that_is_analysed_is_the_last_layer(classifier: Classifier, x: Tensor) -> None:
    assert typed(find(classifier, x).data, LastLayerDeltas).layer == head_of(classifier).name == "5"
