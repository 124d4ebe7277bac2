"""Fixtures for the core: real networks and data, where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.attacking.harness.fast import fast_copy
from auditor.data.intake.datasets import take_dataset
from auditor.models.dataset import ImageDataset
from tests.auditor.real import SAMPLES, Setting, load


@pytest.fixture(scope="session")
def cifar(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    stored = tmp_path_factory.mktemp("data") / "cifar.safetensors"
    take_dataset(shared / "data" / "cifar10-test.npz", "cifar10-test.npz", stored)
    return ImageDataset.open(stored)


@pytest.fixture(scope="session", params=[pytest.param("resnet20", marks=pytest.mark.thorough), "cnn-a"])
def setting(
    request: pytest.FixtureRequest, shared: Path, cifar: ImageDataset, tmp_path_factory: pytest.TempPathFactory
) -> Setting:
    """A plain network (ResNet-20) and an adversarially trained one, with the first samples of CIFAR's test part.

    The attacks of others get the same folded copy as ours: their loops take longer on the network itself. Its weights are
    contiguous: of channels-last gradients torchattacks cannot take views (see findings/).
    """
    classifier = fast_copy(load(request.param, shared, tmp_path_factory.mktemp("weights")))
    classifier.network.to(memory_format=torch.contiguous_format)
    ids = np.arange(SAMPLES)
    return Setting(classifier, cifar, ids, cifar.images(ids), torch.from_numpy(cifar.labels[ids]))
