"""Stored defenses: all their SQL."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, delete, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from auditor.kit.errors import MismatchError, SpecError
from worker.db import Database
from worker.lineage import free_name
from worker.models import DatasetRow, DefenseJobRow, DefenseRow, ModelRow
from worker.registry import row_named, usable_name


class NewDefense(NamedTuple):
    """A fitted defense: the fields of its row. ``content`` names the stored file; ``name`` is what to call it where
    that is free.
    """

    name: str
    model_id: str
    dataset_id: str | None
    spec: dict[str, Any]
    content: str
    manifest: dict[str, Any]


def add_defense(session: Session, defense: NewDefense, job_id: str | None, now: ColumnElement[float]) -> str:
    """Register the defense within the transaction that ends its job, if there is one; returns its id."""
    defense_id = uuid.uuid4().hex
    values = defense._asdict() | {"name": free_name(session, DefenseRow.name, defense.name)}
    session.execute(insert(DefenseRow).values(id=defense_id, created=now, job_id=job_id, **values))
    return defense_id


class DefenseView(NamedTuple):
    """A stored defense with its lineage, as text. ``dataset`` is empty where it learns nothing; ``evaluations``: how
    many jobs name it."""

    row: DefenseRow
    model: str
    dataset: str
    evaluations: int


class Defenses:
    """The tables of stored defenses and of the jobs that evaluate them."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, defense: NewDefense) -> DefenseRow:
        """A new defense that no job made. Raises SpecError when its name is taken in the same moment."""
        try:
            with self.database.write() as session:
                defense_id = add_defense(session, defense, None, self.database.now())
        except IntegrityError:
            raise SpecError(f"The name {defense.name!r} is taken.", "Choose another name.") from None
        return self.get(defense_id)

    def get(self, key: str) -> DefenseRow:
        """By id, name, or an unambiguous beginning of the id. Raises NotFoundError."""
        with self.database.read() as session:
            return row_named(session, DefenseRow, key, "defense", "auditor defend list")

    def views(self, model_id: str | None = None) -> list[DefenseView]:
        """All of them, or those of one model, the newest first."""
        uses = select(func.count()).where(DefenseJobRow.defense_id == DefenseRow.id).scalar_subquery()
        statement = (
            select(DefenseRow, ModelRow.name, DatasetRow.name, uses)
            .join(ModelRow, ModelRow.id == DefenseRow.model_id)
            .outerjoin(DatasetRow, DatasetRow.id == DefenseRow.dataset_id)
            .order_by(DefenseRow.created.desc(), DefenseRow.id)
        )
        if model_id is not None:
            statement = statement.where(DefenseRow.model_id == model_id)
        with self.database.read() as session:
            return [
                DefenseView(row, model, dataset or "", count)
                for row, model, dataset, count in session.execute(statement)
            ]

    def made_by(self, job_id: str) -> DefenseRow | None:
        """The defense that a job fitted."""
        with self.database.read() as session:
            return session.scalar(select(DefenseRow).where(DefenseRow.job_id == job_id))

    def evaluated_by(self, job_ids: Sequence[str]) -> dict[str, str]:
        """The id of the defense that each of these jobs evaluates, by the job's."""
        statement = select(DefenseJobRow.job_id, DefenseJobRow.defense_id).where(DefenseJobRow.job_id.in_(job_ids))
        with self.database.read() as session:
            return {row.job_id: row.defense_id for row in session.execute(statement)}

    def rename(self, row: DefenseRow, name: str) -> None:
        """Raises SpecError when the name is taken or unusable."""
        name = usable_name(name)
        try:
            with self.database.write() as session:
                held = session.get(DefenseRow, row.id)
                if held is not None:
                    held.name = name
        except IntegrityError:
            raise SpecError(f"The name {name!r} is taken.", "Choose another name.") from None

    def remove(self, row: DefenseRow) -> None:
        """Forget a defense. Raises MismatchError while a job evaluates or evaluated it; its file is swept later."""
        with self.database.write() as session:
            used = session.scalar(select(func.count()).where(DefenseJobRow.defense_id == row.id))
            if not used:
                try:
                    session.execute(delete(DefenseRow).where(DefenseRow.id == row.id))
                except IntegrityError:  # an evaluation was queued in the same moment
                    used = 1
            if used:
                raise MismatchError(
                    f"{row.name} is used by {used} evaluation(s) and cannot be deleted.", "Their results refer to it."
                )
