"""From stored rows to objects of the core: a Classifier with its weights, an ImageDataset."""

from __future__ import annotations

import numpy as np

from auditor.architecture import ARCHITECTURES, Architecture
from auditor.class_match import check_shape, match_classes
from auditor.class_numbers import class_numbers, number_names
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
        copy=False,
    )


def load_dataset(row: DatasetRow, blobs: BlobStore) -> ImageDataset:
    """The data set, its file checked against its hash."""
    data = ImageDataset.open(blobs.path(row.content), sha256=row.content, name=row.name)
    return data.by_number() if _sorted_as_text(row) else data


def check_fit(model: ModelRow, dataset: DatasetRow) -> None:
    """The same rule as the core's, from the manifests, so that the form can say it at once. Raises MismatchError."""
    architecture, manifest = architecture_of(model), dataset.manifest
    channels, height, width = manifest["shape"]
    check_shape(architecture.input_shape, (channels, height, width), dataset.name)
    names, counts = manifest["class_names"], np.asarray(manifest["class_counts"], np.int64)
    numbers = class_numbers(names or ()) if _sorted_as_text(dataset) else None
    if numbers is not None:
        names, counts = number_names(numbers), np.bincount(numbers, counts).astype(np.int64)
    match_classes(model.class_names, architecture.num_classes, names, counts, dataset.name)


def _sorted_as_text(row: DatasetRow) -> bool:
    """Whether a data set is of the time when class folders called by numbers were sorted as text: 0, 1, 10, 2."""
    return row.manifest.get("format") == "image folders" and not row.manifest.get("labels_from")
