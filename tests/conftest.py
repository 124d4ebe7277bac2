"""Fixtures for every test."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from app import processes
from tests.plugins import plugged
from tests.warm import Template
from worker import sandbox
from worker.db import Database, connect, upgrade
from worker.launch import launcher
from worker.settings import Settings, load_settings

POSTGRES = "postgresql+psycopg://postgres@127.0.0.1:5432"

BROWSER = "tests/app/browser"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """``--dist loadfile``, but the tests in a browser go to one process all together: they share a dashboard and a worker."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByDashboard(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return BROWSER if nodeid.startswith(f"{BROWSER}/") else super()._split_scope(nodeid)

    return ByDashboard(config, log)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real weights and data, beside the repository or named by AUDITOR_SHARED; skips when absent."""
    folder = Path(os.environ.get("AUDITOR_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared folder at {folder}")
    return folder


def missing(service: str) -> None:
    """Skip a test whose service is not here; in CI, where it must be, fail."""
    if os.environ.get("AUDITOR_CI"):
        pytest.fail(f"{service} must be there in CI")
    pytest.skip(f"no {service} on this machine")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and no setting of the developer's own."""
    for name in [
        name for name in os.environ if name.startswith("AUDITOR_") and name not in ("AUDITOR_CI", "AUDITOR_SHARED")
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AUDITOR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def settings(home: Path) -> Settings:
    """Settings of an empty home: SQLite and the embedded broker."""
    return load_settings()


@pytest.fixture(scope="session")
def odd_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH on which there is one more kind of job, ODD_JOBS; the same for all tests, which so share a job server."""
    from tests.worker.world import ODD_JOBS

    return plugged(tmp_path_factory.mktemp("odd"), "worker.jobs", "odd", ODD_JOBS)["PYTHONPATH"]


@pytest.fixture
def odd_jobs(odd_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the processes that the test starts, there are the jobs of ODD_JOBS."""
    monkeypatch.setenv("PYTHONPATH", odd_path)


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    template = Template(tmp_path_factory.mktemp("template"))
    yield template
    template.close()


@pytest.fixture
def warm_sandbox(_template: Template, monkeypatch: pytest.MonkeyPatch) -> Template:
    """Sandboxes have their imports behind them: for a test of what is read in them."""
    monkeypatch.setattr(sandbox, "subprocess", _template)
    return _template


@pytest.fixture
def shared_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that a command starts forks its jobs from the job server of the tests: for a test of what the job does."""

    def child(settings: Settings, *arguments: str, log: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return own(settings, *arguments, log=log, server=partial(launcher().prepare, settings))

    own = processes.child
    monkeypatch.setattr(processes, "child", child)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of a disk of its own, of eight megabytes; root alone may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk of its own: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill the disk of ``folder`` but for about so many bytes; returns the file that does."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 12))
    if leave:
        os.truncate(filler, max(filler.stat().st_size - leave, 0))
    return filler


@pytest.fixture
def postgres() -> Iterator[str]:
    """The address of an empty Postgres database of our own, dropped at the end."""
    admin = create_engine(f"{POSTGRES}/postgres", isolation_level="AUTOCOMMIT")
    name = f"auditor_test_{uuid.uuid4().hex[:12]}"
    try:
        with admin.connect() as connection:
            connection.execute(text(f"create database {name}"))
    except OperationalError:
        missing("PostgreSQL at 127.0.0.1:5432")
    yield f"postgresql://postgres@127.0.0.1:5432/{name}"
    with admin.connect() as connection:
        connection.execute(text(f"drop database {name} with (force)"))
    admin.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.service)])
def both(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of an empty home, on each kind of database."""
    if request.param == "postgres":
        monkeypatch.setenv("AUDITOR_DATABASE_URL", request.getfixturevalue("postgres"))
    return load_settings()


@pytest.fixture
def database(both: Settings) -> Iterator[Database]:
    """A database with its tables, of each kind."""
    upgrade(both)
    database = connect(both)
    yield database
    database.engine.dispose()
