"""The samples of a result, filtered by attack, outcome and class, each as clean image, adversarial image and difference."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.attacking.records import AttackRecord
from auditor.auditing.examples import Examples
from auditor.auditing.result import AuditResult, ModelFacts
from auditor.models.classifier import NO_CLASS
from auditor.models.dataset import ImageDataset
from auditor.show.blocks import ImageRow
from auditor.show.pictures import amplified, picture


class Fate(StrEnum):
    """What became of a sample under one attack."""

    FOOLED = "fooled"
    RESISTED = "resisted"
    WRONG_BEFORE = "misclassified without an attack"
    CORRECT_BEFORE = "not attacked here"


def fates(result: AuditResult, record: AttackRecord) -> list[Fate]:
    """One per entry of the sample table."""
    found = [Fate.CORRECT_BEFORE if correct else Fate.WRONG_BEFORE for correct in result.samples.correct]
    for position, fooled in zip(record.positions, record.fooled, strict=True):
        found[position] = Fate.FOOLED if fooled else Fate.RESISTED
    return found


def matching(
    result: AuditResult, record: AttackRecord, fate: Fate | None = None, label: int | None = None
) -> NDArray[np.int64]:
    """The entries of the sample table with this fate and this true class (any, where None), ascending."""
    chosen = [
        (fate is None or found is fate) and (label is None or true == label)
        for found, true in zip(fates(result, record), result.samples.labels, strict=True)
    ]
    return np.flatnonzero(chosen)


def pictures(examples: Examples, dataset: ImageDataset, positions: NDArray[np.int64]) -> tuple[ImageRow, ...]:
    """These samples under this attack; where the adversarial image was not kept, the clean one and words."""
    result, record = examples.result, examples.record
    place = {position: index for index, position in enumerate(record.positions)}
    found = fates(result, record)
    return tuple(
        _row(examples, dataset, position, place.get(position), found[position]) for position in positions.tolist()
    )


def _row(examples: Examples, dataset: ImageDataset, position: int, place: int | None, fate: Fate) -> ImageRow:
    result, record, samples = examples.result, examples.record, examples.result.samples
    model = result.provenance.model
    sample = samples.ids[position]
    name = dataset.sample_name(sample)
    x = dataset.images([sample])[0]
    images = [
        picture(
            x, f"clean: {_said(model, samples.predictions[position], samples.confidence[position])}", f"clean {name}"
        )
    ]
    title = f"{name}: {model.class_name(samples.labels[position])}, {fate}"
    kept = examples.image(position)
    if place is not None:
        title += f", distance {record.distance[place]:.4g}"
        said = _said(model, record.prediction[place], record.confidence[place])
        if kept is None:
            title += f"; the model then says {said} (this image was not kept)"
        else:
            x_adv = torch.from_numpy(kept)
            difference, factor = amplified(x_adv - x)
            images += [
                picture(x_adv, f"under attack: {said}", f"adversarial {name}"),
                picture(difference, f"difference × {factor}", f"amplified difference {name}"),
            ]
    return ImageRow(title=title, images=tuple(images))


def _said(model: ModelFacts, label: int, confidence: float) -> str:
    return model.class_name(label) + (f" ({100 * confidence:.0f} %)" if label != NO_CLASS else "")
