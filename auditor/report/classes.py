"""The match of the data's classes with the model's, as a table of a report."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.models.class_table import ClassTable
from auditor.models.classifier import named_class
from auditor.show.blocks import Column, Table


def class_match_table(classes: ClassTable | None, names: Sequence[str] | None) -> list[Table]:
    """What the data calls its classes, and what they counted as, by the ``names`` of the model's classes; empty where that is
    plain or not known."""
    if classes is None or not (classes.moved or classes.how == "hand"):
        return []
    return [
        Table(
            title="Classes of the data on the model's",
            columns=(
                Column(key="data", title="Class of the data"),
                Column(key="images", title="Images"),
                Column(key="model", title="Class of the model"),
                Column(key="how", title="Edited"),
            ),
            rows=tuple(
                {
                    "data": row.name,
                    "images": row.images,
                    "model": "left out" if row.place is None else named_class(names, row.place),
                    "how": "by hand" if row.changed else None,
                }
                for row in classes.rows
            ),
            caption="All images of the data set. An image is classified correctly if the model answers with the class on the "
            "right.",
        )
    ]
