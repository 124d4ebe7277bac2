"""The database: engine, transactions and migrations, on SQLite or Postgres, with one meaning on both."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, inspect, literal_column, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

import migrations
from auditor.kit import disk
from auditor.kit.errors import DiskFullError, OutageError, ServiceError
from worker.private import mend, private_file, private_folder
from worker.settings import Settings

BUSY_MILLISECONDS = 30_000
"""How long a writer waits for another on SQLite before it gives up."""


class Database:
    """Transactions on one database. ``write()`` locks from its first statement on SQLite, so no writer fails halfway."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writing = engine.execution_options(auditor_write=True)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session to read with."""
        with _translated(), Session(self.engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are committed at the end, all or none."""
        with _translated(), Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session

    def now(self) -> ColumnElement[float]:
        """The server's clock, in seconds since 1970, as an SQL expression."""
        if self.engine.dialect.name == "sqlite":
            return literal_column("((julianday('now') - 2440587.5) * 86400.0)")
        return literal_column("extract(epoch from clock_timestamp())::double precision")


def connect(settings: Settings) -> Database:
    """The database of these settings; it is not touched until it is used."""
    url = settings.resolved_database_url
    if url.startswith("sqlite"):
        private_folder(settings.home)
        engine = create_engine(url, connect_args={"timeout": BUSY_MILLISECONDS / 1000})
        event.listen(engine, "do_connect", _make_private)
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", _begin)
    else:
        engine = create_engine(
            url, pool_pre_ping=True, connect_args={"connect_timeout": 10, "options": "-c statement_timeout=60000"}
        )
    return Database(engine)


def shown_url(settings: Settings) -> str:
    """The database's address for people, its password masked."""
    return make_url(settings.resolved_database_url).render_as_string(hide_password=True)


def upgrade(settings: Settings) -> None:
    """Bring the schema to the newest revision; a SQLite file is copied first. Two processes may call it at once.

    Raises ServiceError when the database was made by a newer version.
    """
    mend(settings)
    database = connect(settings)
    config = _alembic()
    with private_file(settings.home / ".upgrade.lock").open("w") as lock, _translated():
        fcntl.flock(lock, fcntl.LOCK_EX)
        head = ScriptDirectory.from_config(config).get_current_head()
        with database.engine.connect() as connection:
            current = _revision(connection)
        if current == head:
            return
        if current is not None:
            _back_up(settings, current)
        # Alembic opens its own transaction; on SQLite it must take the write lock at its start.
        with database.engine.execution_options(auditor_write=True).begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("select pg_advisory_xact_lock(727263)"))
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError:
                raise ServiceError(
                    f"The database is at revision {current}, which this version does not know.",
                    "It was made by a newer version of Neuron Auditor: install that one.",
                ) from None
    database.engine.dispose()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("select version_num from alembic_version")).scalar()


def _back_up(settings: Settings, revision: str) -> None:
    """Copy the SQLite file to the same folder. SQLite makes the copy itself, so it is complete."""
    url = settings.resolved_database_url
    if not url.startswith("sqlite:///"):
        return
    file = Path(url.removeprefix("sqlite:///"))
    copy = file.with_name(f"{file.stem}-before-{revision}.db")
    beside = copy.with_suffix(".tmp")
    try:
        with (
            disk.outages_named(copy.parent),
            closing(sqlite3.connect(file)) as source,
            closing(sqlite3.connect(private_file(beside))) as target,
        ):
            source.backup(target)
        beside.replace(copy)
    finally:
        beside.unlink(missing_ok=True)


def _make_private(_dialect: Any, _record: Any, arguments: list[Any], _options: dict[str, Any]) -> None:
    """SQLite creates its file with the umask, and the -wal and -shm files with the same mode; so we create the file
    first."""
    if arguments and not str(arguments[0]).startswith((":memory:", "file:")) and arguments[0]:
        private_file(Path(arguments[0]))


def _set_pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by us, see _begin
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", f"busy_timeout={BUSY_MILLISECONDS}", "foreign_keys=ON", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A deferred transaction that reads and then writes fails at once under WAL when another wrote in between, whatever
    # the busy timeout; an immediate one waits for its turn at the start.
    writing = connection.get_execution_options().get("auditor_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the database as errors that a user may see; SQL and addresses stay out of them."""
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).splitlines()[0] if str(error.orig) else "no reason given"
        operational = isinstance(error, OperationalError)
        if "UndefinedTable" in type(error.orig).__name__ or (
            operational and ("no such table" in reason or "does not exist" in reason)
        ):
            raise ServiceError("The database has no tables yet.", "Run `auditor up`, or `auditor migrate`.") from error
        if error.orig is not None and disk.is_full(error.orig):
            raise DiskFullError(
                "The database's disk is full.", "Free some space on it; nothing that was written before is lost."
            ) from error
        if "readonly" in reason or "read-only" in reason:
            raise OutageError(
                "The database accepts no changes at the moment.", "Check that it can be written to."
            ) from error
        if operational or error.connection_invalidated:
            raise OutageError(
                "The database does not answer.", "`auditor doctor` says which database is used and why."
            ) from error
        raise
