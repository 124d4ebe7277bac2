"""Fitness: may this process take jobs now? One that may not leaves them in the queue, and says why."""

from __future__ import annotations

from auditor.kit.disk import disk_full, outage, room
from worker.db import Database
from worker.settings import Settings
from worker.store import Store


def trouble(settings: Settings, database: Database) -> str:
    """Why no job is to be started with this home now, in sentences; empty when all is well.

    Raises OutageError when the database does not answer.
    """
    try:
        free, files = room(settings.home)
    except OSError as error:
        return str(outage(error) or f"The data folder {settings.home} cannot be used ({error.strerror}).")
    if free < settings.disk_reserve or not files:
        full = disk_full(settings.home)
        return f"{full} Jobs start again by themselves when there is room."
    return Store(settings.blobs, database).trouble()
