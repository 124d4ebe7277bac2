"""The keeper: a thread in every worker and in the dashboard that returns lost jobs to the queue and sweeps leftovers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from sqlalchemy import delete, insert, select, update

from auditor.errors import ServiceError
from worker.blobs import BlobStore
from worker.ledger import Ledger
from worker.logs import get_logger
from worker.models import WorkerRow
from worker.registry import Registry
from worker.settings import Settings
from worker.workspaces import Workspaces

REPUBLISH_SECONDS = 20.0
"""An idle worker that sees a job wait longer publishes it again: its message was lost, or another worker sits on it."""

SWEEP_SECONDS = 3600.0
WORKER_ALIVE_SECONDS = 30.0
WORKER_FORGOTTEN_SECONDS = 86_400.0
LOG_SECONDS = 30 * 86_400.0

Publish = Callable[[str, str], bool]


class Keeper:
    """Housekeeping on the job table. Any number of them may run at once; each step is idempotent."""

    def __init__(
        self, settings: Settings, ledger: Ledger, publish: Publish, idle_queues: Callable[[], Sequence[str]] = tuple
    ) -> None:
        """``idle_queues`` tells from which queues this process could run a job right now; none for the dashboard."""
        self.settings, self.ledger, self.publish, self.idle_queues = settings, ledger, publish, idle_queues
        self.identity: str | None = None
        self.log = get_logger("keeper")

    def register(self, identity: str, queues: list[str], devices: list[str]) -> None:
        """Let the dashboard know of this worker; ``keep`` then says that it is alive."""
        database = self.ledger.database
        with database.write() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.id == identity))
            session.execute(
                insert(WorkerRow).values(
                    id=identity, started=database.now(), seen=database.now(), queues=queues, devices=devices
                )
            )
        self.identity = identity

    def unregister(self) -> None:
        """This worker takes no more jobs: nobody is to count on it."""
        if self.identity is not None:
            with suppress(ServiceError), self.ledger.database.write() as session:
                session.execute(delete(WorkerRow).where(WorkerRow.id == self.identity))

    def start(self, stopping: threading.Event) -> threading.Thread:
        """Keep house in a thread until told to stop."""
        thread = threading.Thread(target=self._loop, args=(stopping,), name="keeper", daemon=True)
        thread.start()
        return thread

    def keep(self, *, reap: bool = True) -> None:
        """One round: say that we live, return lost jobs to the queue, publish what the broker does not have; the workspaces of
        ended jobs go."""
        database = self.ledger.database
        if self.identity is not None:
            with database.write() as session:
                session.execute(update(WorkerRow).where(WorkerRow.id == self.identity).values(seen=database.now()))
        if reap:
            reaped = self.ledger.reap()
            if reaped.requeued or reaped.failed:
                self.log.warning("lost jobs", requeued=reaped.requeued, failed=reaped.failed)
        for job_id, queue in self.ledger.unpublished():
            self.publish(job_id, queue)
        idle = self.idle_queues()
        for job_id, queue in self.ledger.unpublished(REPUBLISH_SECONDS) if idle else ():
            if queue in idle:
                self.publish(job_id, queue)
        Workspaces(self.settings.workspaces).sweep(self.ledger.ended)

    def sweep(self) -> None:
        """Delete files that nothing names and old logs, and forget workers that are long gone."""
        BlobStore(self.settings.blobs).sweep(Registry(self.ledger.database).referenced_blobs())
        for log in self.settings.logs.glob("job-*.log"):
            if log.stat().st_mtime < time.time() - LOG_SECONDS:
                log.unlink(missing_ok=True)
        database = self.ledger.database
        with database.write() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.seen < database.now() - WORKER_FORGOTTEN_SECONDS))

    def _loop(self, stopping: threading.Event) -> None:
        # After an outage of the database every lease looks expired; the living get one lease to renew theirs.
        quiet_until = time.monotonic() + self.settings.lease_seconds
        next_sweep = time.monotonic() + SWEEP_SECONDS
        while not stopping.wait(min(5.0, self.settings.lease_seconds / 4)):
            try:
                self.keep(reap=time.monotonic() >= quiet_until)
                if time.monotonic() >= next_sweep:
                    self.sweep()
                    next_sweep = time.monotonic() + SWEEP_SECONDS
            except ServiceError as error:
                self.log.warning("the keeper waits", reason=error.message)
                quiet_until = time.monotonic() + self.settings.lease_seconds
            except Exception:
                self.log.exception("the keeper stumbled")
        self.unregister()


def living_workers(ledger: Ledger) -> list[WorkerRow]:
    """The workers that were heard of lately."""
    database = ledger.database
    with database.read() as session:
        alive = (
            select(WorkerRow).where(WorkerRow.seen > database.now() - WORKER_ALIVE_SECONDS).order_by(WorkerRow.started)
        )
        return list(session.scalars(alive))
