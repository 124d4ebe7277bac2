"""Defenses inside the network, beside closed forms and the same network edited by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.defending.defenses.neuron_selecting import NeuronSelecting
from auditor.defending.defenses.sap import SAP
from auditor.kit.errors import EvaluationError
from auditor.kit.randomness import RowRandom
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.drawing import View
from tests.narrow import sequence
from tests.nets import SHAPE, deeper_classifier, labelled

WITHOUT = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(108, 3)), input_shape=SHAPE, num_classes=3)


def draws(sap: SAP, h: Tensor, count: int) -> Tensor:
    """``count`` prunings of the same activations, (count, units)."""
    return sap.pruned(h.expand(count, -1), RowRandom(0, "test", [(index,) for index in range(count)]))


@pytest.mark.parametrize("sampling", ["multinomial", "bernoulli"])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_pruning_is_unbiased_and_keeps_units_as_often_as_it_should(sampling: str, share: float) -> None:
    h = torch.tensor([[3.0, 1.0, 0.0, 2.0, 0.5, 0.5, 1.0, 0.0]], dtype=torch.float64)
    chance = h / h.sum()
    expected = 1 - (1 - chance) ** round(8 * share)
    drawn = draws(SAP(share=share, sampling=sampling), h, 4000)
    kept = (drawn != 0).double().mean(0)
    assert torch.allclose(kept, expected[0], atol=4 * 0.5 / 4000**0.5), "four deviations of a share"
    assert torch.allclose(drawn.mean(0), h[0], atol=0.25)
    sure = drawn[drawn[:, 0] != 0, 0]
    assert torch.allclose(sure, h[0, 0] / expected[0, 0], atol=1e-12)


def test_drawing_with_replacement_never_keeps_more_units_than_draws() -> None:
    h = torch.rand(1, 20, dtype=torch.float64)
    assert int((draws(SAP(share=0.25), h, 200) != 0).sum(1).amax()) <= 5
    assert int((draws(SAP(share=0.25, sampling="bernoulli"), h, 200) != 0).sum(1).amax()) > 5


def test_a_layer_of_zeros_and_a_single_unit_stay() -> None:
    assert draws(SAP(), torch.zeros(1, 4), 3).abs().max() == 0
    only = torch.tensor([[0.0, 7.0, 0.0]])
    assert torch.allclose(draws(SAP(), only, 3), only.expand(3, -1))


def test_the_answer_is_the_mean_probability_and_every_activation_is_pruned() -> None:
    classifier = deeper_classifier()
    x = labelled(classifier, 6).images(np.arange(6))
    one, many = (SAP(passes=passes).wrap(classifier, seed=1) for passes in (1, 3))
    parts = [many.defense.logits(classifier, x, many.passing(x, draw)).softmax(1) for draw in range(3)]
    assert torch.allclose(many.logits(x).softmax(1), torch.stack(parts).mean(0), atol=1e-6)
    assert torch.allclose(one.logits(x).softmax(1), parts[0], atol=1e-6)
    assert many.seen(View(adaptive=True, draws=2)).draws == 2
    seen = []
    handles = [
        sequence(classifier)[index].register_forward_pre_hook(
            lambda _, inputs: seen.append((inputs[0] == 0).double().mean())
        )
        for index in (3, 7, 10)  # what the ReLUs before these layers put out
    ]
    with torch.no_grad():
        classifier(x)
        one(x)
    for handle in handles:
        handle.remove()
    assert all(pruned > plain + 0.05 for plain, pruned in zip(seen[:3], seen[3:], strict=True))


def test_more_draws_come_closer_to_the_network_where_it_is_linear() -> None:
    """Behind one ReLU and a linear layer the mean over draws is the undefended answer."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 30), nn.ReLU(), nn.Linear(30, 4))
    classifier = Classifier(network, input_shape=SHAPE, num_classes=4)
    x = torch.rand(1, *SHAPE)
    sap = SAP(sampling="bernoulli").wrap(classifier)
    with torch.no_grad():
        answers = torch.stack([sap.defense.logits(classifier, x, sap.passing(x, draw)) for draw in range(500)])
    assert torch.allclose(answers.mean(0), classifier.logits(x), atol=5 * float(answers.std(0).max()) / 500**0.5)


def test_selection_is_the_network_with_the_other_neurons_cut_by_hand() -> None:
    classifier = deeper_classifier()
    data = labelled(classifier, 60, wrong=10)
    defense = NeuronSelecting(share=0.5)
    state = defense.fit(classifier, data, np.arange(60), seed=0, batch_size=7)
    x = data.images(np.arange(60))
    right = classifier.logits(x).argmax(1).numpy() == data.labels
    model = defense.wrap(classifier, state)
    for label in sorted(set(data.labels.tolist())):
        own = x[torch.from_numpy(right & (data.labels == label))]
        values, scores = classifier.normalize(own), classifier.normalize(x[:8])
        for layer in sequence(classifier):
            values = layer(values)
            scores = layer(scores)
            if isinstance(layer, nn.ReLU):
                mean = values.flatten(2).mean(2).mean(0) if values.dim() > 2 else values.mean(0)
                cut = mean.argsort(descending=True, stable=True)[round(0.5 * len(mean)) :]
                scores = scores.clone()
                scores[:, cut] = 0
        if len(own):
            assert torch.allclose(model.logits(x[:8])[:, label], scores.log_softmax(1)[:, label], atol=1e-4)


def test_a_class_without_images_keeps_all_neurons_and_so_does_a_share_of_one() -> None:
    classifier = deeper_classifier()
    data = labelled(classifier, 20, wrong=0)
    missing = next(label for label in range(5) if label not in data.labels) if len(set(data.labels)) < 5 else None
    if missing is None:
        missing = int(data.labels[0])
        keep = data.labels != missing
        data = ImageDataset(data._images[keep], data.labels[keep], data.class_names)
    state = NeuronSelecting(share=0.5).fit(classifier, data, np.arange(len(data)), seed=0)
    assert state.facts["images"][missing] == 0
    assert all(mask[missing].all() for mask in state.tensors.values())
    x = data.images(np.arange(4))
    full = NeuronSelecting(share=1.0)
    model = full.wrap(classifier, full.fit(classifier, data, np.arange(len(data)), seed=0))
    assert torch.allclose(model.logits(x), classifier.logits(x).log_softmax(1), atol=1e-6)


def test_a_network_without_activations_is_declined() -> None:
    with pytest.raises(EvaluationError, match="no activation layer"):
        SAP().wrap(WITHOUT)
    data = labelled(WITHOUT, 8)
    with pytest.raises(EvaluationError, match="no activation layer"):
        NeuronSelecting().fit(WITHOUT, data, np.arange(8), seed=0)
