"""Models that jobs made from other models: a child's registration, and the tree that it stands in."""

from __future__ import annotations

import uuid
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, insert, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from worker.db import Database
from worker.models import DatasetRow, JobRow, ModelRow, OriginRow

NAME_LENGTH = 200


class ChildModel(NamedTuple):
    """A model that a job made: the fields of its row, and its parent. ``weights`` names the stored file; ``name`` is what to
    call it where that is free.
    """

    parent_id: str
    name: str
    architecture: dict[str, Any]
    normalization: dict[str, Any]
    class_names: list[str] | None
    weights: str
    manifest: dict[str, Any]


def add_child(session: Session, child: ChildModel, job_id: str, now: ColumnElement[float]) -> str:
    """Register the model within the transaction that ends its job; returns its id. The job's id stands once at most."""
    model_id = uuid.uuid4().hex
    values = child._asdict()
    parent_id = values.pop("parent_id")
    values["name"] = free_name(session, ModelRow.name, child.name)
    session.execute(insert(ModelRow).values(id=model_id, created=now, **values))
    session.execute(insert(OriginRow).values(model_id=model_id, parent_id=parent_id, job_id=job_id))
    return model_id


def free_name(session: Session, column: InstrumentedAttribute[str], wanted: str) -> str:
    """``wanted``, or ``wanted (2)``, ``wanted (3)``, ..., that no row has in this column."""
    wanted = wanted[: NAME_LENGTH - 8]
    taken = set(session.scalars(select(column).where(column.startswith(wanted, autoescape=True))))
    number, name = 1, wanted
    while name in taken:
        number += 1
        name = f"{wanted} ({number})"
    return name


class ModelOrigin(NamedTuple):
    """Where a model comes from."""

    model_id: str
    parent_id: str
    job_id: str


class Relative(NamedTuple):
    """A model in its tree: how deep, from whom and how it was made (empty for one that was added), and the summary of its newest
    finished audit.
    """

    model: ModelRow
    depth: int
    parent_id: str
    job_id: str
    method: str
    audit_id: str
    audit: dict[str, Any]


class ModelLineage:
    """Who was trained from whom."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def origins(self) -> dict[str, ModelOrigin]:
        """Every trained model's origin, by its id."""
        with self.database.read() as session:
            rows = session.execute(select(OriginRow.model_id, OriginRow.parent_id, OriginRow.job_id))
            return {model_id: ModelOrigin(model_id, parent_id, job_id) for model_id, parent_id, job_id in rows}

    def made_by(self, job_id: str) -> ModelRow | None:
        """The model that a job made."""
        statement = select(ModelRow).join(OriginRow, OriginRow.model_id == ModelRow.id)
        with self.database.read() as session:
            return session.scalar(statement.where(OriginRow.job_id == job_id))

    def trained_on(self, model_id: str) -> list[str]:
        """SHA-256 of the data sets on which a model, or one that it was trained from, was trained by us."""
        jobs = [step.job_id for step in self.ancestors(model_id)]
        of_them = select(DatasetRow.content).join(JobRow, JobRow.dataset_id == DatasetRow.id).where(JobRow.id.in_(jobs))
        with self.database.read() as session:
            return sorted(set(session.scalars(of_them)))

    def ancestors(self, model_id: str) -> list[ModelOrigin]:
        """The trainings that led to a model, its own first."""
        origins, steps = self.origins(), []
        while model_id in origins:
            steps.append(origins[model_id])
            model_id = origins[model_id].parent_id
        return steps

    def family(self, model_id: str) -> list[tuple[str, int]]:
        """Everybody in a model's tree with their depth, from the root on: each before its children."""
        root = ([step.parent_id for step in self.ancestors(model_id)] or [model_id])[-1]
        children: dict[str, list[str]] = {}
        for origin in self.origins().values():
            children.setdefault(origin.parent_id, []).append(origin.model_id)
        tree, open_ = [], [(root, 0)]
        while open_:
            one, depth = open_.pop()
            tree.append((one, depth))
            open_ += [(child, depth + 1) for child in reversed(children.get(one, []))]
        return tree
