"""Fixtures for the checks: the shipped networks and images."""

from __future__ import annotations

import pytest

from auditor.data.intake.datasets import take_dataset
from auditor.data.intake.weights import load_weights, take_model
from auditor.data.samples import ARCHITECTURE, IMAGES, WEIGHTS
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset


@pytest.fixture(scope="package", params=list(WEIGHTS))
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, ImageDataset]:
    """The shipped images with the plain, or the adversarially trained, network."""
    folder = tmp_path_factory.mktemp("sample")
    take_dataset(IMAGES, IMAGES.name, folder / "data")
    take_model(WEIGHTS[request.param], WEIGHTS[request.param].name, ARCHITECTURE, folder / "weights")
    network = ARCHITECTURE.build()
    load_weights(network, folder / "weights")
    return Classifier(network, input_shape=(1, 28, 28), num_classes=10), ImageDataset.open(
        folder / "data", sha256="f" * 64
    )
