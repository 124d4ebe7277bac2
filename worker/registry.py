"""Models and data sets that were added: all their SQL; ``worker.loading`` loads one for work."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import delete, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from auditor.kit.errors import MismatchError, NotFoundError, SpecError
from worker.db import Database
from worker.lineage import NAME_LENGTH, ModelLineage
from worker.models import DatasetRow, DefenseRow, JobRow, ModelRow, OriginRow, ResultFileRow, ResultRow

RowT = TypeVar("RowT", ModelRow, DatasetRow)
Named = TypeVar("Named", ModelRow, DatasetRow, DefenseRow)


class Registry:
    """The tables of models and data sets."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add_model(self, name: str, **values: Any) -> ModelRow:
        """A new model. Raises SpecError when the name is taken or unusable."""
        return self._add(ModelRow(id=uuid.uuid4().hex, name=usable_name(name), **values))

    def add_dataset(self, name: str, **values: Any) -> DatasetRow:
        """A new data set. Raises SpecError when the name is taken or unusable."""
        return self._add(DatasetRow(id=uuid.uuid4().hex, name=usable_name(name), **values))

    def models(self) -> Sequence[ModelRow]:
        return self._all(ModelRow)

    def datasets(self) -> Sequence[DatasetRow]:
        return self._all(DatasetRow)

    def model(self, key: str) -> ModelRow:
        """By id, name, or an unambiguous beginning of the id. Raises NotFoundError."""
        return self._one(ModelRow, key, "model")

    def dataset(self, key: str) -> DatasetRow:
        """By id, name, or an unambiguous beginning of the id. Raises NotFoundError."""
        return self._one(DatasetRow, key, "data set")

    def trained_on(self, model_id: str) -> list[str]:
        """See ModelLineage."""
        return ModelLineage(self.database).trained_on(model_id)

    def remove(self, row: ModelRow | DatasetRow) -> None:
        """Forget a model or data set. Raises MismatchError while a job, a child or a defense names it; its file is swept
        later."""
        table = type(row)
        column = JobRow.model_id if table is ModelRow else JobRow.dataset_id
        with self.database.write() as session:
            of_it = select(ModelRow.name).join(OriginRow, OriginRow.model_id == ModelRow.id)
            children = session.scalars(of_it.where(OriginRow.parent_id == row.id).order_by(ModelRow.created)).all()
            if children:
                raise MismatchError(
                    f"{row.name} is the parent of {', '.join(children[:3])}{' and others' * (len(children) > 3)} and "
                    "cannot be removed.",
                    "Remove the models that were trained from it first.",
                )
            if table is ModelRow:
                defenses = session.scalars(select(DefenseRow.name).where(DefenseRow.model_id == row.id)).all()
                if defenses:
                    raise MismatchError(
                        f"{row.name} has the defenses {', '.join(defenses[:3])}{' and others' * (len(defenses) > 3)} "
                        "and cannot be removed.",
                        "Remove these first, with `auditor defend delete`.",
                    )
            used = session.scalar(select(func.count()).select_from(JobRow).where(column == row.id))
            if used:
                raise MismatchError(
                    f"{row.name} is used by {used} job(s) and cannot be removed.", "Their results refer to it."
                )
            session.execute(delete(OriginRow).where(OriginRow.model_id == row.id))
            session.execute(delete(table).where(table.id == row.id))

    def referenced_blobs(self) -> set[str]:
        """The SHA-256 of every file that some row names."""
        with self.database.read() as session:
            columns = (
                ModelRow.weights,
                DatasetRow.content,
                DefenseRow.content,
                ResultRow.content,
                ResultFileRow.content,
            )
            return {sha256 for column in columns for sha256 in session.scalars(select(column))}

    def _add(self, row: RowT) -> RowT:
        try:
            with self.database.write() as session:
                row.created = session.scalar(select(self.database.now())) or 0.0
                session.add(row)
        except IntegrityError:
            raise SpecError(f"The name {row.name!r} is taken.", "Choose another name.") from None
        return row

    def _all(self, table: type[RowT]) -> Sequence[RowT]:
        with self.database.read() as session:
            return session.scalars(select(table).order_by(table.created.desc())).all()

    def _one(self, table: type[RowT], key: str, noun: str) -> RowT:
        with self.database.read() as session:
            return row_named(session, table, key, noun, f"auditor {noun.replace(' ', '')}s list")


def row_named(session: Session, table: type[Named], key: str, noun: str, command: str) -> Named:
    """The row with this id, name, or unambiguous beginning of the id. Raises NotFoundError, which names the ``command`` that
    lists them."""
    starts = table.id.startswith(key.lower(), autoescape=True) if len(key) >= 4 else table.id == key
    found = session.scalars(select(table).where(or_(table.name == key, starts))).all()
    exact = [row for row in found if key in (row.name, row.id)] or found
    if len(exact) != 1:
        problem = f"There is no {noun} {key!r}." if not exact else f"{key!r} matches {len(exact)} {noun}s."
        raise NotFoundError(problem, f"List them with `{command}`.")
    return exact[0]


def usable_name(name: str) -> str:
    """The name, its spaces made single. Raises SpecError for one that cannot be shown, or is too long."""
    name = " ".join(name.split())
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise SpecError(f"A name needs 1 to {NAME_LENGTH} printable characters, got {name[:40]!r}.")
    return name
