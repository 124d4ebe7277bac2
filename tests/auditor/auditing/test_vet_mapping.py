"""Vetting a model whose tensors fit in two ways: the accuracy of each is that of the network it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from auditor.auditing.mapping import compare_mappings
from auditor.auditing.vet import vet
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset

OTHER = {"3.weight": "5.weight", "3.bias": "5.bias", "5.weight": "3.weight", "5.bias": "3.bias"}


@pytest.fixture
def twins() -> nn.Sequential:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
        nn.Linear(16, 4),
    )  # fmt: skip
    for parameter in net.parameters():  # so that the classes differ
        nn.init.normal_(parameter, 0, 0.5)
    return net


def labelled(net: nn.Module) -> ImageDataset:
    """Images that the network classifies correctly, all of them."""
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3), np.uint8)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        labels = net(x).argmax(1).numpy()
    return ImageDataset(images, labels)


def swapped(net: nn.Sequential) -> nn.Sequential:
    torch.manual_seed(3)
    other = nn.Sequential(*(nn.Linear(m.in_features, m.out_features) if isinstance(m, nn.Linear) else m for m in net))
    state = net.state_dict()
    other.load_state_dict({key: state[OTHER.get(key, key)] for key in state})
    return other


def test_the_better_way_is_said_with_its_lead(twins: nn.Sequential) -> None:
    data = labelled(twins)
    right = Classifier(twins, input_shape=(3, 4, 4), num_classes=4)
    wrong = Classifier(swapped(twins), input_shape=(3, 4, 4), num_classes=4)
    x = data.images(list(range(200)))
    with torch.no_grad():
        hits = int((wrong(x).argmax(1).numpy() == data.labels).sum())
    assert hits < 180
    notes, flags = compare_mappings(right, data, np.arange(200), OTHER, 64)
    assert not flags
    assert f"leads by {100 * (200 - hits) / 200:.1f} points" in notes[0]
    notes, flags = compare_mappings(wrong, data, np.arange(200), OTHER, 64)
    assert not notes
    assert (flags[0].name, flags[0].severity) == ("mapping", "severe")
    assert f"the other way leads by {100 * (200 - hits) / 200:.1f} points" in flags[0].evidence
    assert "--mapping 2" in flags[0].remedy


def test_the_card_has_it(twins: nn.Sequential) -> None:
    data = labelled(twins)
    wrong = Classifier(swapped(twins), input_shape=(3, 4, 4), num_classes=4)
    assert "mapping" in [flag.name for flag in vet(wrong, data, other=OTHER).flags]
    assert "mapping" not in [flag.name for flag in vet(wrong, data).flags]
    assert any(
        "fit in two ways" in note
        for note in vet(Classifier(twins, input_shape=(3, 4, 4), num_classes=4), data, other=OTHER).notes
    )
