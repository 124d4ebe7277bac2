"""The store's identity: the same id in the database and in the folder of stored files, so neither is used without the other.

A process whose folder is not the database's (another home, a disk that is not mounted) would miss every file that others
stored, and store results where nobody finds them.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from auditor.kit.disk import outages_named
from auditor.kit.errors import OutageError
from worker.blobs import BlobStore
from worker.db import Database
from worker.models import DatasetRow, ModelRow, StoreRow
from worker.private import FILE

MARK = "store-id"
"""The file with the id, in the folder of stored files."""

PROOFS = 20
"""Stored files that must lie in a folder, of the newest that the database names, before it is taken for its store."""


class Store:
    """The folder of stored files and the database, as a pair."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.database = folder, database

    def establish(self) -> None:
        """At the start of a process: pair a new folder with a new database, or a known database with a folder that holds its
        files. Whatever else does not fit is left as it is; `trouble` says what is wrong.
        """
        known, here = self._known(), self._here()
        if known == here and known:
            return
        proofs = self._proofs()
        if (proofs and self._holds(proofs)) or not (known or here or proofs):
            self._pair(known or here or uuid.uuid4().hex)

    def adopt(self) -> None:
        """The operator's word that this folder is the store of this database, whatever either says."""
        self._pair(self._here() or uuid.uuid4().hex)

    def trouble(self) -> str:
        """Why this folder must not be used with this database, in sentences; empty when they belong together.

        Raises OutageError when the database does not answer.
        """
        known, here = self._known(), self._here()
        if known == here and (known or self._holds(self._proofs())):
            return ""
        remedy = (
            "Mount the store there, or set AUDITOR_HOME to the folder that the dashboard and the other workers use; or, if this "
            "is the right folder all the same, run `auditor migrate --adopt-store`."
        )
        if here:
            what = "belongs to another database" if known else "belongs to another database: this one is new"
            return f"The folder of stored files, {self.folder}, {what}. {remedy}"
        return f"The files of this database are not in {self.folder}: it is empty, not mounted, or another folder. {remedy}"

    def _pair(self, identity: str) -> None:
        # The database decides between two processes that do this at once; then the folder follows it.
        with suppress(IntegrityError), self.database.write() as session:
            if session.scalar(select(StoreRow.id)) is None:
                session.execute(insert(StoreRow).values(number=1, id=identity, created=self.database.now()))
        with outages_named(self.folder), BlobStore(self.folder).staging() as folder:
            (folder / MARK).write_text(f"{self._known()}\n")
            (folder / MARK).chmod(FILE)
            (folder / MARK).replace(self.folder / MARK)

    def _known(self) -> str:
        with self.database.read() as session:
            return session.scalar(select(StoreRow.id)) or ""

    def _here(self) -> str:
        try:
            return (self.folder / MARK).read_text().strip()
        except OSError:
            return ""

    def _holds(self, proofs: list[str]) -> bool:
        return all((self.folder / sha256[:2] / sha256).is_file() for sha256 in proofs)

    def _proofs(self) -> list[str]:
        """Files that the database names, the newest."""
        with self.database.read() as session:
            return [
                sha256
                for table, column in ((ModelRow, ModelRow.weights), (DatasetRow, DatasetRow.content))
                for sha256 in session.scalars(select(column).order_by(table.created.desc()).limit(PROOFS // 2))
            ]


def check_store(folder: Path, database: Database) -> None:
    """Raises OutageError when this folder is not the database's store, or not there now."""
    if why := Store(folder, database).trouble():
        raise OutageError(why)
