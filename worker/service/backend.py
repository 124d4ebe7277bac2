"""Backend: one database, one folder of files and one broker, which every part of the client shares."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from auditor.kit.errors import NotFoundError
from worker.blobs import BlobStore
from worker.db import connect
from worker.job import JOBS
from worker.ledger import Ledger
from worker.lineage import ModelLineage
from worker.models import JobRow
from worker.registry import Registry
from worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from celery import Celery


class Backend:
    """One database, one folder of files and one broker."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        self.database = connect(self.settings)
        self.ledger = Ledger(self.database)
        self.registry = Registry(self.database)
        self.lineages = ModelLineage(self.database)
        self.blobs = BlobStore(self.settings.blobs)

    @cached_property
    def celery(self) -> Celery:
        from worker.celery import make_app

        return make_app(self.settings)

    def publish(self, job_id: str, queue: str) -> bool:
        from worker.celery import publish

        return publish(self.celery, self.ledger, job_id, queue)

    def job_row(self, key: str) -> JobRow:
        """By id, or an unambiguous beginning of it. Raises NotFoundError."""
        rows = self.ledger.find(key)
        if len(rows) != 1:
            problem = f"There is no job {key!r}." if not rows else f"{key!r} matches {len(rows)} jobs."
            raise NotFoundError(problem, "List them with `auditor jobs list`.")
        return rows[0]

    def content(self, key: str, kind: str) -> bytes:
        """The stored result of a job of this kind. Raises NotFoundError when it is of another one or has none (yet)."""
        row = self.job_row(key)
        result = self.ledger.result(row.id)
        noun = JOBS[kind].noun
        if row.kind != kind:
            raise NotFoundError(f"Job {row.id[:8]} is no {noun}.")
        if result is None:
            raise NotFoundError(f"The {noun} {row.id[:8]} has no result: it is {row.state}.", row.error or "")
        return self.blobs.path(result.content).read_bytes()


class ClientPart:
    """A part of the client."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.settings, self.database, self.ledger = backend.settings, backend.database, backend.ledger
        self.registry, self.lineages, self.blobs = backend.registry, backend.lineages, backend.blobs
