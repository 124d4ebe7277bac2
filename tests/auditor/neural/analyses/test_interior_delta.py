"""Interior Delta-values against a plain search in a network taken apart, and against the closed form where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import Classifier
from auditor.neural.analyses.interior_delta import InteriorDelta
from auditor.neural.analysis import Finding, detail_of, measured, section_of
from auditor.neural.delta.search import InteriorDeltas
from auditor.neural.delta.values import delta_values
from auditor.show.blocks import Figure, Measures, Table
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import Given, subject_of
from tests.auditor.real import Setting
from tests.narrow import sequence, typed
from tests.nets import SHAPE, small_classifier


def find(classifier: Classifier, x: Tensor, batch_size: int = 4, **settings: Any) -> Finding:
    finding = InteriorDelta(**settings).run(subject_of(classifier, Given(x, x, batch_size)))
    return Finding.model_validate_json(finding.model_dump_json())


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(3)).double()


def searched(classifier: Classifier, place: int, image: Tensor, neuron: int, reach: float) -> float:
    """The nearest of 2,001 evenly spaced changes within the reach that changes the prediction, all of them tried."""
    with torch.no_grad():
        features = sequence(classifier)[:place](classifier.normalize(image))
        changes = torch.linspace(-reach, reach, 2_001, dtype=torch.float64)
        moved = features.repeat(len(changes), *[1] * (features.dim() - 1))
        moved[:, neuron] += changes.view(-1, *[1] * (features.dim() - 2))
        flips = sequence(classifier)[place:](moved).argmax(1) != classifier(image).argmax(1)
    places = changes[flips]
    return float(places[places.abs().argmin()]) if len(places) else np.inf


@pytest.mark.parametrize("layer", ["0", "2"], ids=["conv", "relu"])
def test_every_value_is_what_a_plain_search_finds(x: Tensor, layer: str) -> None:
    classifier, x = small_classifier().double(), x[:5]
    analysis = InteriorDelta(layers=layer, points=400)
    (found,) = find(classifier, x, layers=layer, points=400).data.model_dump()["layers"]
    place = int(layer) + 1
    with torch.no_grad():
        std = sequence(classifier)[:place](classifier.normalize(x)).numpy().std((0, 2, 3))
    expected = np.array(
        [[searched(classifier, place, image, m, analysis.bound * std[m]) for m in range(8)] for image in x.split(1)]
    )
    finite = np.isfinite(expected)
    scaled = np.abs(expected) / std
    step = 2 * analysis.bound / 2_000
    assert found["pairs"] == 40
    assert found["infinite"] == (~finite).sum()
    assert found["raised"] == (expected[finite] > 0).sum()
    assert [row["infinite"] for row in found["chosen"]] == (~finite).sum(0).tolist()
    assert [row["std"] for row in found["chosen"]] == pytest.approx(std.tolist(), rel=1e-9)
    for name, share in (("q25", 0.25), ("median", 0.5), ("q75", 0.75)):
        quantile = np.quantile(scaled, share, method="inverted_cdf")
        assert found[name] == (None if np.isinf(quantile) else pytest.approx(quantile, abs=step))
    for m, row in enumerate(found["chosen"]):
        assert row["neuron"] == m
        for name, share in (("lowest", 0.0), ("median", 0.5)):
            quantile = np.quantile(scaled[:, m], share, method="inverted_cdf")
            assert row[name] == (None if np.isinf(quantile) else pytest.approx(quantile, abs=step))
    assert found["nearest"] == pytest.approx(np.quantile(scaled.min(1), 0.5, method="inverted_cdf"), abs=step)


def test_behind_the_last_activation_it_is_the_closed_form(x: Tensor) -> None:
    """Where a linear layer alone follows, the search finds eq. 2 (without the rule that outputs stay positive)."""
    torch.manual_seed(1)
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(108, 12), nn.ReLU(), nn.Linear(12, 5)))
    classifier = Classifier(network.double(), input_shape=SHAPE, num_classes=5, copy=False)
    (found,) = find(classifier, x, layers="2", neurons=12, bound=1e6, points=2000).data.model_dump()["layers"]
    features = network[:3](x)
    delta = delta_values(features, classifier(x), network[3].weight, floor=-np.inf).value.numpy()
    std = features.numpy().std(0)
    alive = np.flatnonzero(std)
    assert (found["still"], found["infinite"]) == (12 - len(alive), 0)
    assert (found["failed_beyond"], found["failed_before"]) == (0, 0)
    scaled = np.abs(delta[:, alive]) / std[alive]
    for row, values, neuron in zip(found["chosen"], scaled.T, alive, strict=True):
        assert row["neuron"] == neuron
        assert row["lowest"] == pytest.approx(values.min(), rel=1e-6)
        assert row["median"] == pytest.approx(np.quantile(values, 0.5, method="inverted_cdf"), rel=1e-6)
        # The function is linear there: the gradient alone says the same.
        assert row["first_order"] == pytest.approx(row["median"], rel=1e-6)
    assert found["within_factor_2"] == found["compared"] == found["pairs"] == delta[:, alive].size
    assert found["spearman"] == pytest.approx(1)


def test_on_a_network_with_shortcuts_every_value_is_verified() -> None:
    """ResNet-20 in float32 with statistics of its own, both sides of every finite Delta, at three depths."""
    torch.manual_seed(0)
    network = ARCHITECTURES.build("resnet-cifar", {"depth": 20}).build()
    with torch.no_grad():
        network.train()(torch.rand(16, 3, 32, 32))
    classifier = Classifier(network.eval(), input_shape=(3, 32, 32), num_classes=10)
    finding = find(classifier, torch.rand(2, 3, 32, 32), 32, neurons=2, points=12, bound=1000)
    layers = typed(finding.data, InteriorDeltas).layers
    assert len(layers) == 3
    for layer in layers:
        assert layer.cut
        assert layer.pairs - layer.infinite >= 1
        assert (layer.failed_beyond, layer.failed_before) == (0, 0)


def test_on_real_networks_every_value_is_verified(setting: Setting) -> None:
    finding = find(setting.classifier, setting.x[:4], 64, neurons=2, images=2, points=20)
    layers = typed(finding.data, InteriorDeltas).layers
    found = sum(layer.pairs - layer.infinite for layer in layers)
    assert found > 0
    assert not finding.flags
    assert all(layer.failed_beyond == layer.failed_before == 0 for layer in layers)


@pytest.mark.parametrize("choose", ["evenly", "gradient"])
def test_the_batch_size_changes_nothing(x: Tensor, choose: str) -> None:
    classifier = small_classifier().double()
    one, other = (find(classifier, x, size, choose=choose, neurons=3).data.model_dump() for size in (1, 8))
    for mine, theirs in zip(one["layers"], other["layers"], strict=True):
        assert [row["neuron"] for row in mine["chosen"]] == [row["neuron"] for row in theirs["chosen"]]
        for row, twin in zip(mine["chosen"], theirs["chosen"], strict=True):
            for name, value in row.items():
                assert value == (None if twin[name] is None else pytest.approx(twin[name], rel=1e-9))


def test_which_neurons_are_searched(x: Tensor) -> None:
    classifier = small_classifier().double()
    with torch.no_grad():
        sequence(classifier)[0].weight[0], sequence(classifier)[1].bias[0] = (
            0.0,
            -10.0,
        )  # neuron 0 is dead behind the ReLU
        sequence(classifier)[5].weight[:, 5 * 9 : 6 * 9] *= 100  # neuron 5 is 100 times as strong as the others
    (evenly,) = find(classifier, x, neurons=3, points=5).data.model_dump()["layers"]
    # Seven of eight vary: neurons 1 to 7; three evenly spaced ones.
    assert [row["neuron"] for row in evenly["chosen"]] == [1, 4, 7]
    assert (evenly["layer"], evenly["still"]) == ("2", 1)
    (strongest,) = find(classifier, x, neurons=1, points=5, choose="gradient").data.model_dump()["layers"]
    assert [row["neuron"] for row in strongest["chosen"]] == [5]
    (conv,) = find(classifier, x, layers="0", neurons=1, images=3, points=5).data.model_dump()["layers"]
    assert conv["pairs"] == 3


def test_a_layer_in_which_nothing_varies_and_an_image_without_a_prediction() -> None:
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(108, 2), nn.ReLU(), nn.Linear(2, 2)))
    with torch.no_grad():
        network[1].weight[:], network[1].bias[:] = 1.0, -54.0
        network[3].weight[:], network[3].bias[:] = torch.tensor([[1.0, 0.0], [0.0, 0.5]]), 0.0
    classifier = Classifier(network, input_shape=SHAPE, num_classes=2)
    dark, light = torch.full((1, *SHAPE), 0.1), torch.full((1, *SHAPE), 0.9)
    finding = find(classifier, torch.cat([dark, light, dark]))  # dark: both logits are 0
    found = typed(finding.data, InteriorDeltas)
    assert (found.images, found.tied) == (1, 2)
    (layer,) = finding.data.model_dump()["layers"]
    # z = 43.2 each, logits (43.2, 21.6): neuron 0 must fall by 21.6, neuron 1 rise by 43.2. σ = 43.2 sqrt(2) / 3.
    sigma = 43.2 * 2**0.5 / 3
    assert [row["lowest"] for row in layer["chosen"]] == pytest.approx([21.6 / sigma, 43.2 / sigma], rel=1e-5)
    assert [row["raised"] for row in layer["chosen"]] == [0, 1]
    still = find(classifier, light)
    (motionless,) = typed(still.data, InteriorDeltas).layers
    assert motionless.still == 2
    assert motionless.chosen == ()
    drawn(still)
    nothing = measured(InteriorDelta(), subject_of(classifier, Given(dark, dark, 1)))
    assert "two equal highest logits" in nothing.declined


def test_a_layer_that_is_not_there_is_named(x: Tensor) -> None:
    finding = measured(InteriorDelta(layers="2+nine"), subject_of(small_classifier(), Given(x, x, 4)))
    assert "no layer nine" in finding.declined


def drawn(finding: Finding) -> None:
    for block in section_of(finding).blocks:
        if isinstance(block, Figure):
            draw(block).to_dict()


def test_the_section_and_what_opens_behind_it_come_from_the_data(x: Tensor, tmp_path: Path) -> None:
    finding = find(small_classifier(), x.float(), layers="0+2", points=20)
    drawn(finding)
    _, figure, table = section_of(finding).blocks
    assert isinstance(figure, Figure)
    assert [row["layer"] for row in figure.rows] == ["0", "2"]
    assert isinstance(table, Table)
    assert [row["failed"] for row in table.rows] == [0, 0]
    _, bars = detail_of(finding, ("2",))
    assert isinstance(bars, Figure)
    draw(bars).to_dict()
    values = [row["value"] for row in bars.rows]
    assert values == sorted(values)
    (numbers,) = detail_of(finding, ("2", str(bars.rows[0]["neuron"])))
    assert isinstance(numbers, Measures)
    assert numbers.items[0].value == values[0]
    assert detail_of(finding, ("nowhere",)) == detail_of(finding, ("2", "99")) == ()
