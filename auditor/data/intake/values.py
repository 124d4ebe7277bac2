"""Labels that come one by one, as numbers or texts: of a column, of a file for each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from auditor.data.intake.reading import Reading
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import counted, shown
from auditor.models.labels import Labels, read_labels

LabelsFrom = Literal["integers", "names", "numbers"]


def labels_of(
    values: Sequence[int | str], key: str, class_names: tuple[str, ...] | None, reading: Reading, limits: Limits
) -> tuple[Labels, LabelsFrom]:
    """The labels of these values, all numbers or all texts; and what they were made of. Raises IntakeError."""
    texts = sum(isinstance(value, str) for value in values)
    if 0 < texts < len(values):
        raise IntakeError(
            f"{shown(key)} holds {counted(len(values) - texts, 'number')} and {counted(texts, 'text')}; expected one kind "
            "of label.",
            "Write every label as a number, or every label as a name.",
        )
    array = np.array(values, str if texts else np.int64)
    read = read_labels(array, key, class_names, limits, reading.first_label)
    return read, "names" if texts else "integers"
