"""What an analysis gets to look at, made by a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification
from auditor.attacking.threat import ThreatModel
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.neural.analysis import Finding, Pair, Pairs, Subject
from auditor.neural.twins.stored import make_pairs

M = TypeVar("M", bound=BaseModel)


class Given:
    """Pairs that a test made, in batches of a size of its choice; labels are 0 unless given."""

    def __init__(
        self,
        x: Tensor,
        x_adv: Tensor,
        batch_size: int,
        fooled: np.ndarray | None = None,
        labels: Tensor | None = None,
    ) -> None:
        self.x, self.x_adv, self.batch_size = x, x_adv, batch_size
        self.fooled = np.ones(len(x), bool) if fooled is None else fooled
        self.labels = torch.zeros(len(x), dtype=torch.int64) if labels is None else labels

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self) -> Iterator[Pair]:
        for start in range(0, len(self.x), self.batch_size):
            part = slice(start, start + self.batch_size)
            ids = np.arange(len(self.x))[part]
            yield Pair(ids, self.x[part], self.x_adv[part], self.labels[part], self.fooled[part])


def subject_of(
    classifier: Classifier, pairs: Pairs, dataset: ImageDataset | None = None, folder: Path | None = None
) -> Subject:
    """``dataset`` and ``folder`` only for analyses that make twins of their own."""
    if dataset is None:
        channels, height, width = classifier.input_shape
        dataset = ImageDataset(
            np.zeros((len(pairs), height, width, channels), np.uint8), np.zeros(len(pairs), np.int64)
        )
    return Subject(
        classifier, pairs, dataset, np.arange(len(pairs)), ThreatModel(), (ATTACKS.build("pgd", {}),), "made by the test",
        0, 16, folder or Path("/nonexistent"),
    )  # fmt: skip


def attacked(
    classifier: Classifier, dataset: ImageDataset, folder: Path, attack: str = "pgd", epsilon: float = 8 / 255
) -> Subject:
    """The whole of a small data set with the twins that an attack of ours makes, as an audit has it."""
    threat, ids = ThreatModel(epsilon=epsilon), np.arange(len(dataset))
    maker, criterion = ATTACKS.parse(attack), Misclassification(torch.from_numpy(dataset.labels))
    pairs = make_pairs(classifier, maker, threat, dataset, ids, criterion, folder, seed=0, batch_size=16)
    return Subject(classifier, pairs, dataset, ids, threat, (maker,), f"{attack} of the test", 0, 16, folder)


def images_of(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """All images and all twins, (N, C, H, W)."""
    return torch.cat([pair.x for pair in pairs]), torch.cat([pair.x_adv for pair in pairs])


def only(model: type[M], /, **values: Any) -> M:
    """Numbers of which these alone are there, unchecked: what the function under test reads of them."""
    return model.model_construct(**values)


def plain(finding: Finding) -> dict[str, Any]:
    """Its numbers under the names by which they are stored."""
    data: dict[str, Any] = finding.data.model_dump(mode="json")
    return data
