"""From stored rows to objects of the core: a Classifier with its weights, an ImageDataset."""

from __future__ import annotations

import numpy as np

from auditor.kit.errors import MismatchError
from auditor.models.architecture import Architecture
from auditor.models.class_match import AUTOMATIC, ClassMatch, Sides, check_shape
from auditor.models.class_numbers import class_numbers, number_names
from auditor.models.classifier import Classifier, Normalization
from auditor.models.dataset import ImageDataset
from auditor.models.hand_match import HandMatch
from auditor.models.own_code import OwnCode, stored_code
from worker.blobs import BlobStore
from worker.models import DatasetRow, ModelRow
from worker.reading import architecture_from


def architecture_of(row: ModelRow) -> Architecture:
    """The architecture that a model names. Raises SpecError when it is no longer installed."""
    return stored_code(row.architecture) or architecture_from(row.architecture)


def load_classifier(row: ModelRow, blobs: BlobStore) -> Classifier:
    """The model, its file checked against its hash. Raises SpecError for one of its owner's code, outside of the sandbox."""
    import torch

    from auditor.data.intake.weights import load_weights

    architecture = architecture_of(row)
    # Code of others may need values while it makes its network, and keep tensors that are not stored.
    with torch.device("cpu" if isinstance(architecture, OwnCode) else "meta"):
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
        output=row.manifest.get("output") or None,
        copy=False,
    )


def load_dataset(row: DatasetRow, blobs: BlobStore) -> ImageDataset:
    """The data set, its file checked against its hash."""
    data = ImageDataset.open(blobs.path(row.content), sha256=row.content, name=row.name)
    return data.by_number() if _sorted_as_text(row) else data


def check_compatible(model: ModelRow, dataset: DatasetRow, by_hand: HandMatch = AUTOMATIC) -> ClassMatch:
    """The same rule as the core's, from the manifests, so the form can say it at once. Raises MismatchError."""
    channels, height, width = dataset.manifest["shape"]
    check_shape(architecture_of(model).input_shape, (channels, height, width), dataset.name)
    return class_sides(model, dataset).match(by_hand)


def class_sides(model: ModelRow, dataset: DatasetRow) -> Sides:
    """The classes of both, from the manifests."""
    manifest = dataset.manifest
    names, counts = manifest["class_names"], np.asarray(manifest["class_counts"], np.int64)
    numbers = class_numbers(names or ()) if _sorted_as_text(dataset) else None
    if numbers is not None:
        names, counts = number_names(numbers), np.bincount(numbers, counts).astype(np.int64)
    return Sides(model.class_names, architecture_of(model).num_classes, names, counts, dataset.name)


def left_out(sides: Sides, by_hand: HandMatch) -> int:
    """Images that the match leaves out; none where it will be refused."""
    try:
        place = sides.match(by_hand).place
    except MismatchError:
        place = None
    return 0 if place is None else int(sides.counts[place < 0].sum())


def _sorted_as_text(row: DatasetRow) -> bool:
    """Whether a data set is of the time when class folders called by numbers were sorted as text: 0, 1, 10, 2."""
    return row.manifest.get("format") == "image folders" and not row.manifest.get("labels_from")
