"""Transactions and migrations, on SQLite and on Postgres."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text, update

from auditor.kit.errors import ServiceError
from tests.worker.rows import new_job
from worker.db import Database, _alembic, connect, shown_url, upgrade
from worker.ledger import Ledger
from worker.models import Base, DefenseJobRow, DefenseRow, JobRow, ModelRow, OriginRow, PointRow
from worker.settings import Settings, load_settings


def test_the_migrations_make_exactly_the_tables_of_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_every_revision_goes_down_and_up_again_with_data_in_it(both: Settings, database: Database) -> None:
    job = new_job(Ledger(database))
    with database.write() as session:
        for name in ("parent", "child"):
            values: dict[str, Any] = {"architecture": {}, "normalization": {}, "weights": "a" * 64, "manifest": {}}
            session.add(ModelRow(id=name, name=name, created=0.0, class_names=None, **values))
        session.flush()
        session.add(OriginRow(model_id="child", parent_id="parent", job_id=job))
        session.add(PointRow(job_id=job, number=0, content={"step": 0}))
        values = {"created": 0.0, "model_id": "parent", "spec": {}, "content": "a" * 64, "manifest": {}}
        session.add(DefenseRow(id="defense", name="defense", job_id=job, **values))
        session.flush()
        session.add(DefenseJobRow(job_id=job, defense_id="defense"))
    config = _alembic()
    revisions = [item.revision for item in ScriptDirectory.from_config(config).walk_revisions()]
    for revision in revisions:
        for direction in (command.downgrade, command.upgrade):
            with database.engine.execution_options(auditor_write=True).begin() as connection:
                config.attributes["connection"] = connection
                direction(config, f"{revision}-1" if direction is command.downgrade else "head")
    with database.engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) >= set(Base.metadata.tables)


def test_before_trainings_were_known_their_models_are_models_like_any_other(both: Settings, database: Database) -> None:
    job = new_job(Ledger(database))
    with database.write() as session:
        values = {"architecture": {}, "normalization": {}, "weights": "a" * 64, "manifest": {}}
        session.add(ModelRow(id="child", name="child", created=0.0, class_names=None, **values))
    config = _alembic()
    for direction, revision in ((command.downgrade, "0002"), (command.upgrade, "head")):
        with database.engine.execution_options(auditor_write=True).begin() as connection:
            config.attributes["connection"] = connection
            direction(config, revision)
    with database.read() as session:
        assert session.scalar(select(ModelRow.name)) == "child"
        row = session.get(JobRow, job)
        assert row is not None
        assert (row.fruitless, row.reached, row.resumed, row.grace) == (0, 0, 0.0, 0.0)


def test_upgrading_twice_or_from_two_processes_at_once_is_harmless(both: Settings) -> None:
    program = "from worker.db import upgrade; from worker.settings import load_settings; upgrade(load_settings())"
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    upgrade(both)


def test_a_database_of_a_newer_version_is_refused_and_a_copy_was_made(settings: Settings) -> None:
    upgrade(settings)
    database = connect(settings)
    with database.write() as session:
        session.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(ServiceError, match=r"revision 9999, which this version does not know.*install that one"):
        upgrade(settings)
    copy = sqlite3.connect(settings.home / "auditor-before-9999.db")
    assert copy.execute("select version_num from alembic_version").fetchone() == ("9999",)


def test_a_database_without_tables_says_what_to_do(both: Settings) -> None:
    with pytest.raises(ServiceError, match=r"has no tables yet.*auditor migrate"):
        Ledger(connect(both)).list()


def test_a_database_that_is_down_says_so_without_its_password(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITOR_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/none")
    settings = load_settings()
    with pytest.raises(ServiceError, match="does not answer") as caught:
        Ledger(connect(settings)).list()
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in shown_url(settings)
    assert "hunter2" not in repr(settings)


def test_the_clock_is_the_servers_and_right(database: Database) -> None:
    assert Ledger(database).clock() == pytest.approx(time.time(), abs=5)


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    job = new_job(Ledger(database))

    def half() -> None:
        with database.write() as session:
            session.execute(update(JobRow).where(JobRow.id == job).values(title="changed"))
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half()
    with database.read() as session:
        assert session.scalar(select(JobRow.title)) == "a job"


def test_writers_that_read_first_wait_for_each_other_and_none_fails(database: Database) -> None:
    """Read, then write, from several threads: on SQLite a deferred transaction fails most of these at once."""
    job = new_job(Ledger(database))
    failures: list[Exception] = []

    def work() -> None:
        for _ in range(25):
            try:
                with database.write() as session:
                    if database.engine.dialect.name == "postgresql":
                        seen = session.scalar(select(JobRow.attempts).where(JobRow.id == job).with_for_update())
                    else:
                        seen = session.scalar(select(JobRow.attempts).where(JobRow.id == job))
                    session.execute(update(JobRow).where(JobRow.id == job).values(attempts=(seen or 0) + 1))
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with database.read() as session:
        assert session.scalar(select(JobRow.attempts)) == 100
