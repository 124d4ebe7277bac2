"""Which images excite a neuron: against a plain sort of every image's excitation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from auditor.models.classifier import Classifier
from auditor.neural.analyses.neuron_exemplars import LayerExemplars, NeuronExemplars
from auditor.neural.analysis import Finding, detail_of, measures_of, section_of
from auditor.show.blocks import Table
from auditor.show.charts import draw
from tests.auditor.neural.analyses.given import Given, subject_of
from tests.narrow import sequence, typed
from tests.nets import SHAPE, small_classifier


def excitations(x: torch.Tensor, how: str) -> np.ndarray:
    """The ReLU layer's, image by image and neuron by neuron, (N, M)."""
    network = sequence(small_classifier())
    with torch.no_grad():
        maps = network[2](network[1](network[0]((x - 0.5) / 0.5))).double().numpy()
    return np.array([[one.max() if how == "max" else one.mean() for one in image] for image in maps])


@pytest.mark.parametrize("how", ["max", "mean"])
@pytest.mark.parametrize("batch_size", [3, 20])
def test_the_samples_are_the_first_of_a_plain_sort(how: str, batch_size: int) -> None:
    torch.manual_seed(1)
    x = torch.rand(20, *SHAPE)
    x[7] = x[2]  # equals: the one that came first stands first
    x_adv = (x + 0.2 * torch.rand_like(x)).clamp(0, 1)
    analysis = NeuronExemplars(excitation=how, images=5, neurons=3)
    found = analysis.find(subject_of(small_classifier(), Given(x, x_adv, batch_size)))
    layer = next(one for one in found.layers if one.kind == "activation")
    clean, attacked = excitations(x, how), excitations(x_adv, how)
    change = np.abs(attacked - clean).mean(0)
    assert np.allclose(layer.change, change, atol=1e-6)
    assert np.allclose(layer.excitation, clean.mean(0), atol=1e-6)
    assert list(layer.neurons) == np.argsort(-change, kind="stable")[:3].tolist()
    for place, neuron in enumerate(layer.neurons):
        expected = np.argsort(-clean[:, neuron], kind="stable")[:5]
        assert list(layer.samples[place]) == expected.tolist()
        assert np.allclose(layer.clean[place], clean[expected, neuron], atol=1e-6)
        assert np.allclose(layer.attacked[place], attacked[expected, neuron], atol=1e-6)


def test_a_network_that_answers_nan_for_some_images_is_read_back_and_drawn() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
    classifier = Classifier(network, input_shape=SHAPE, num_classes=4)
    x = torch.rand(4, *SHAPE)
    x[1] = torch.nan
    finding = NeuronExemplars().run(subject_of(classifier, Given(x, x.clone(), 2)))
    stored = Finding.model_validate_json(finding.model_dump_json())
    assert [block.type for block in section_of(stored).blocks] == ["text", "figure"]
    (table,) = detail_of(stored, ("0",))
    assert [row["change"] for row in typed(table, Table).rows] == [None, None]
    assert stored.data == finding.data


def test_fewer_images_than_asked_for_are_all_kept_and_the_section_is_drawn_from_data() -> None:
    x = torch.rand(2, *SHAPE)
    found = NeuronExemplars(images=4).run(subject_of(small_classifier(), Given(x, 1 - x, 2)))
    finding = Finding.model_validate_json(found.model_dump_json())
    assert {len(samples) for layer in typed(finding.data, LayerExemplars).layers for samples in layer.samples} == {2}
    figures = [block for block in section_of(finding).blocks if block.type == "figure"]
    assert figures
    assert all(draw(figure).to_dict() for figure in figures)
    (table,) = detail_of(finding, ("2",))
    assert len(typed(table, Table).rows) == 8
    assert detail_of(finding, ("no such layer",)) == ()
    (measure,) = measures_of([finding]).values()
    assert measure.key == "neuron_exemplars.change"
    assert [len(layer.values) for layer in measure.layers] == [8, 8, 8, 5]
