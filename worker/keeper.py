"""The keeper: a thread in every worker and in the dashboard that returns lost jobs to the queue and sweeps leftovers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from sqlalchemy import delete, insert, select, update

from auditor.kit.errors import OutageError, ServiceError
from auditor.kit.scratch import remove_stale as sweep_scratch
from worker.blobs import BlobStore
from worker.fitness import trouble
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
WORKER_FORGOTTEN_SECONDS = 600.0
"""A worker that was silent for longer is taken off the list; should it wake, it puts itself on it again."""
LOG_SECONDS = 30 * 86_400.0

Publish = Callable[[str, str], bool]


class Keeper:
    """Housekeeping on the job table. Any number of them may run at once; each step is idempotent."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        publish: Publish,
        idle_queues: Callable[[], Sequence[str]] = tuple,
        pause: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """``idle_queues`` tells from which queues this process could run a job right now; none for the dashboard. ``pause`` is
        told when it must take no jobs, and when it may again.
        """
        self.settings, self.ledger, self.publish = settings, ledger, publish
        self.idle_queues, self.pause = idle_queues, pause
        self.trouble = ""
        self.identity: str | None = None
        self._known: tuple[list[str], list[str]] = ([], [])
        self.log = get_logger("keeper")

    def register(self, identity: str, queues: list[str], devices: list[str]) -> None:
        """Let the dashboard know of this worker; ``keep`` then says that it is alive, and what keeps it from work."""
        self.identity, self._known = identity, (queues, devices)
        with suppress(OutageError):  # the next round says it
            self._look_after_ourselves()
            self._say_alive()

    def _look_after_ourselves(self) -> None:
        """May this process take jobs now?"""
        now = trouble(self.settings, self.ledger.database)
        if bool(now) != bool(self.trouble):  # how much is free changes all the time
            self.log.warning("no jobs are taken", reason=now) if now else self.log.info("jobs are taken again")
        self.trouble = now
        self.pause(bool(now))

    def _say_alive(self) -> None:
        database, (queues, devices) = self.ledger.database, self._known
        now = {"seen": database.now(), "trouble": self.trouble}
        with database.write() as session:
            known = session.execute(update(WorkerRow).where(WorkerRow.id == self.identity).values(**now))
            if not known.rowcount:  # type: ignore[attr-defined]  # new, or it slept so long that it was forgotten
                row = {"id": self.identity, "started": database.now(), "queues": queues, "devices": devices}
                session.execute(insert(WorkerRow).values(**row, **now))

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
        self._look_after_ourselves()
        if self.identity is not None:
            self._say_alive()
        if reap:
            reaped = self.ledger.reap()
            if reaped.requeued or reaped.failed:
                self.log.warning("lost jobs", requeued=reaped.requeued, failed=reaped.failed)
        for job_id, queue in self.ledger.unpublished():
            self.publish(job_id, queue)
        idle = () if self.trouble else self.idle_queues()
        for job_id, queue in self.ledger.unpublished(REPUBLISH_SECONDS) if idle else ():
            if queue in idle:
                self.publish(job_id, queue)
        self._forget_workers()
        Workspaces(self.settings.workspaces).sweep(self.ledger.ended)

    def _forget_workers(self) -> None:
        database = self.ledger.database
        forgotten = WorkerRow.seen < database.now() - WORKER_FORGOTTEN_SECONDS
        with database.read() as session:
            some = session.scalar(select(WorkerRow.id).where(forgotten).limit(1))
        if some is not None:  # a write only where there is something to write
            with database.write() as session:
                session.execute(delete(WorkerRow).where(forgotten))

    def sweep(self) -> None:
        """Delete files that nothing names, old logs, and what dead processes of ours left where temporary files lie."""
        sweep_scratch()
        if not self.trouble:  # never the files of another database
            BlobStore(self.settings.blobs).sweep(Registry(self.ledger.database).referenced_blobs())
        for log in self.settings.logs.glob("job-*.log"):
            if log.stat().st_mtime < time.time() - LOG_SECONDS:
                log.unlink(missing_ok=True)

    def _loop(self, stopping: threading.Event) -> None:
        # After an outage of the database every lease looks expired; the living get one lease to renew theirs.
        quiet_until = time.monotonic() + self.settings.lease_seconds
        next_sweep = time.monotonic()
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
    """The workers that gave a sign of life recently."""
    database = ledger.database
    with database.read() as session:
        alive = (
            select(WorkerRow).where(WorkerRow.seen > database.now() - WORKER_ALIVE_SECONDS).order_by(WorkerRow.started)
        )
        return list(session.scalars(alive))
