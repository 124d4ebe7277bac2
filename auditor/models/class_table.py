"""The match of classes as a table: each class of the data, its images, and the model's class that it counts as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from auditor.kit.document import Data
from auditor.kit.wording import counted

How = Literal["name", "number", "hand"]


class ClassRow(Data):
    """A class of the data that has images. ``place``: the model's class, None where its images are left out; ``changed``: by
    hand, and not the class that was proposed."""

    label: int
    name: str
    images: int
    place: int | None
    changed: bool = False


class ClassTable(Data):
    """How the classes of the data were put on the model's: by name, by number, or as a match by hand says."""

    how: How
    rows: tuple[ClassRow, ...]

    @property
    def moved(self) -> bool:
        """Whether a label is another class of the model than its own number, or none."""
        return any(row.place != row.label for row in self.rows)

    def describe(self) -> str:
        """In a few words."""
        changed = sum(row.changed for row in self.rows)
        out = sum(row.images for row in self.rows if row.place is None)
        words = [f"by {self.how}"]
        words += [f"{changed} of {counted(len(self.rows), 'class')} edited"] if changed else []
        words += [f"{counted(out, 'image')} left out"] if out else []
        return ", ".join(words)


def class_table(
    how: How,
    place: NDArray[np.int64] | None,
    counts: NDArray[np.int64],
    data_names: Sequence[str] | None,
    changed: Sequence[int] = (),
) -> ClassTable:
    """``place``: the model's class of each label, -1 for none, (L,); None for labels as they are. ``counts``: images of each
    label, (L,). ``changed``: the labels that were put elsewhere than proposed, by hand."""
    rows = []
    for label in np.flatnonzero(counts).tolist():
        where = label if place is None else int(place[label])
        rows.append(
            ClassRow(
                label=label,
                name=data_names[label] if data_names is not None else str(label),
                images=int(counts[label]),
                place=where if where >= 0 else None,
                changed=label in changed,
            )
        )
    return ClassTable(how=how, rows=tuple(rows))
