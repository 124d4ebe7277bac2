"""From stored rows to objects of the core: a Classifier with its weights, an ImageDataset."""

from __future__ import annotations

from auditor.architecture import ARCHITECTURES, Architecture
from auditor.classifier import Classifier, Normalization
from auditor.dataset import ImageDataset
from worker.blobs import BlobStore
from worker.models import DatasetRow, ModelRow


def architecture_of(row: ModelRow) -> Architecture:
    """The architecture that a model names. Raises SpecError when it is no longer installed."""
    values = {name: value for name, value in row.architecture.items() if name != "kind"}
    return ARCHITECTURES.build(row.architecture["kind"], values)


def load_classifier(row: ModelRow, blobs: BlobStore) -> Classifier:
    """The model, its file checked against its hash."""
    import torch

    from auditor.intake.weights import load_weights

    architecture = architecture_of(row)
    with torch.device("meta"):
        network = architecture.build()
    load_weights(network, blobs.path(row.weights))
    return Classifier(
        network,
        input_shape=architecture.input_shape,
        num_classes=architecture.num_classes,
        normalization=Normalization.model_validate(row.normalization),
        class_names=row.class_names,
        name=row.name,
        declared_accuracy=row.declared_accuracy,
    )


def load_dataset(row: DatasetRow, blobs: BlobStore) -> ImageDataset:
    """The data set, its file checked against its hash."""
    return ImageDataset.open(blobs.path(row.content), sha256=row.content, name=row.name)
