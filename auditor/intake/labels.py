"""Labels and class names: what may be one, and a sentence with the places of those that may not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.errors import IntakeError
from auditor.intake.limits import MIB, Limits
from auditor.intake.wording import shown, size_text

NAMES_BYTES = 16 * MIB
"""All class names as JSON: they lie in the header of the stored file, which is read whole."""

_PLACES = 5


def check_labels(
    labels: NDArray[Any], key: str, class_names: Sequence[str] | None, limits: Limits
) -> NDArray[np.int64]:
    """Labels (N,) as int64 in [0, K); K is the number of class names, where there are some.

    ``key`` is what errors call the array. Raises IntakeError with the number of bad labels and the first places.
    """
    if labels.dtype.kind not in "iu":
        raise IntakeError(
            f"The array {shown(key)} has the type {labels.dtype.name} ({_first(labels)}); expected integers.",
            "Save labels.astype('int64').",
        )
    highest = len(class_names) if class_names is not None else limits.classes
    for bad, what in ((labels < 0, "negative"), (labels >= highest, f"{highest:,} or more")):
        if bad.any():
            expected = f"0 to {highest - 1:,}" if class_names is None else f"0 to {highest - 1:,} (the class names)"
            raise IntakeError(
                f"The array {shown(key)} has {int(bad.sum()):,} labels that are {what} ({_first(labels, bad)}); "
                f"expected {expected}.",
                "Number the classes from 0." if class_names is None else "Give a name for every class.",
            )
    return labels.astype(np.int64)


def check_class_names(names: Sequence[str], limits: Limits) -> tuple[str, ...]:
    """Class names as they may be shown: printable, not empty, unique. Raises IntakeError."""
    if not names:
        raise IntakeError("The list of class names is empty; expected a name for every class.")
    if len(names) > limits.classes:
        raise IntakeError(f"There are {len(names):,} class names, the limit is {limits.classes:,}.")
    seen: set[str] = set()
    for name in names:
        if not name.strip() or len(name) > limits.name_length or not name.isprintable():
            raise IntakeError(
                f"The class name {shown(name)} is not supported: expected 1 to {limits.name_length} printable characters."
            )
        if name in seen:
            raise IntakeError(
                f"The class name {shown(name)} appears twice; expected a name of its own for every class."
            )
        seen.add(name)
    if (size := len(json.dumps(names))) > NAMES_BYTES:
        raise IntakeError(f"The class names have {size_text(size)} together, the limit is {size_text(NAMES_BYTES)}.")
    return tuple(names)


def _first(labels: NDArray[Any], bad: NDArray[np.bool_] | None = None) -> str:
    """``#3 is -1, #7 is -1``: the first bad labels with their positions."""
    places = np.arange(min(_PLACES, len(labels))) if bad is None else np.flatnonzero(bad)[:_PLACES]
    return ", ".join(f"#{place} is {str(labels[place])[:20]}" for place in places)
