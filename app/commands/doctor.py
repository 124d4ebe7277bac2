"""``auditor doctor``: what works here, and what to do where it does not."""

from __future__ import annotations

import os
import shutil
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from app.commands.show import console, print_table
from auditor.kit.errors import AuditorError

if TYPE_CHECKING:
    from worker.settings import Settings


class HealthCheck(NamedTuple):
    """One thing that was looked at. ``ok``: True, False, or None for "works without"."""

    what: str
    ok: bool | None
    text: str


def doctor() -> None:
    """Check what works here: Python, home, database, broker, workers, GPU, sandbox, browser. Exits with 1 when
    something fails."""
    from worker.settings import load_settings

    settings = load_settings()
    findings = [_looked_at(name, check, settings) for name, check in _CHECKS.items()]
    marks = {True: "ok", False: "FAILS", None: "–"}
    print_table(("what", "", "found"), [(finding.what, marks[finding.ok], finding.text) for finding in findings])
    if any(finding.ok is False for finding in findings):
        console.print("Some checks failed; see above.")
        raise typer.Exit(1)


def _looked_at(name: str, check: Callable[[Settings], tuple[bool | None, str]], settings: Settings) -> HealthCheck:
    try:
        return HealthCheck(name, *check(settings))
    except AuditorError as error:
        return HealthCheck(name, False, str(error))
    except Exception as error:
        return HealthCheck(name, False, f"{type(error).__name__}: {error}")


def _python(_: Settings) -> tuple[bool | None, str]:
    from auditor.kit.provenance import versions

    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    return sys.version_info >= (3, 11), found


def _plugins(_: Settings) -> tuple[bool | None, str]:
    import auditor
    from auditor.kit.plugins import origin

    catalogues = [getattr(auditor, name) for name in auditor.__all__ if name.isupper()]
    faults = [fault.message for catalogue in catalogues for fault in catalogue.faults.values()]
    brought = [
        f"{catalogue.noun} {member.kind_name()} ({came})"
        for catalogue in catalogues
        for member in catalogue
        if (came := origin(member)) is not None
    ]
    return (False if faults else True if brought else None), " ".join(faults) or ", ".join(brought) or "none installed"


def _home(settings: Settings) -> tuple[bool | None, str]:
    from worker.private import mend, open_to_others

    mend(settings)
    probe = settings.home / ".probe"
    probe.write_bytes(b"x")
    probe.unlink()
    free = shutil.disk_usage(settings.home).free
    kind = _file_system(settings)
    text = f"{settings.home}, {free / 1e9:.0f} GB free, {kind}"
    if kind in ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs") and settings.resolved_database_url.startswith(
        "sqlite"
    ):
        return (
            False,
            f"{text}: SQLite loses data on a network file system. Set AUDITOR_HOME to a local folder, or use Postgres.",
        )
    if opened := open_to_others(settings):
        return (
            False,
            f"{text}: other users of this machine can read {opened[0]}. Set AUDITOR_HOME to a private folder.",
        )
    if free < 1e9:
        return False, f"{text}: less than 1 GB is free."
    return True, text


def _file_system(settings: Settings) -> str:
    """The type of the file system that holds the home, from the kernel's list of mounts."""
    best, kind = "", "unknown file system"
    try:
        with Path("/proc/mounts").open() as mounts:
            for line in mounts:
                _, point, found, *_ = line.split()
                if str(settings.home).startswith(point) and len(point) >= len(best):
                    best, kind = point, found
    except OSError:
        pass
    return kind


def _database(settings: Settings) -> tuple[bool | None, str]:
    from worker.db import connect, shown_url, upgrade
    from worker.ledger import Ledger

    upgrade(settings)
    Ledger(connect(settings)).clock()
    return True, shown_url(settings)


def _files(settings: Settings) -> tuple[bool | None, str]:
    from worker.db import connect
    from worker.store import Store

    store = Store(settings.blobs, connect(settings))
    store.establish()
    why = store.trouble()
    return not why, why or f"{settings.blobs} belongs to this database"


def _broker(settings: Settings) -> tuple[bool | None, str]:
    from worker.celery import make_app

    app = make_app(settings)
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=5)
        name = (
            connection.as_uri() if settings.broker_url.get_secret_value() else f"embedded, in {settings.broker_folder}"
        )
    return True, name


def _workers(settings: Settings) -> tuple[bool | None, str]:
    from worker.db import connect
    from worker.keeper import living_workers
    from worker.ledger import Ledger

    alive = living_workers(Ledger(connect(settings)))
    if not alive:
        return None, "none is running; `auditor up` or `auditor worker` starts one"
    said = "; ".join(
        f"{row.id} ({', '.join([*row.queues, *row.devices])}){f' takes no jobs: {row.trouble}' if row.trouble else ''}"
        for row in alive
    )
    return not any(row.trouble for row in alive), said


def _gpu(_: Settings) -> tuple[bool | None, str]:
    from auditor.kit.provenance import usable_gpus

    names = usable_gpus()
    return (
        (True, ", ".join(names))
        if names
        else (None, f"none that PyTorch can use; jobs run on {os.cpu_count()} CPU cores")
    )


def _sandbox(_: Settings) -> tuple[bool | None, str]:
    from worker.sandbox import capabilities, self_test

    walls = self_test()
    fallen = [wall for wall, held in walls if not held]
    report = capabilities()
    text = "; ".join(report.sentences)
    if fallen:
        return False, f"these sandbox checks fail: {', '.join(fallen)}. {text}"
    return True, f"{len(walls)} sandbox checks pass. {text}"


def _browser(_: Settings) -> tuple[bool | None, str]:
    for name in ("chromium", "chromium-browser", "google-chrome", "firefox"):
        path = shutil.which(name)
        if path:
            return True, path
    try:
        return True, webbrowser.get().__class__.__name__
    except webbrowser.Error:
        return None, "none on this machine; open the dashboard's address from one that has a browser" + (
            "" if os.environ.get("DISPLAY") else " (no screen here)"
        )


_CHECKS: dict[str, Callable[[Settings], tuple[bool | None, str]]] = {
    "Python": _python,
    "plug-ins": _plugins,
    "home": _home,
    "database": _database,
    "stored files": _files,
    "broker": _broker,
    "workers": _workers,
    "GPU": _gpu,
    "sandbox": _sandbox,
    "browser": _browser,
}
