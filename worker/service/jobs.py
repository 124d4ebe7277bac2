"""Jobs: what is queued, what runs, and what has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from auditor.kit.errors import MismatchError
from worker.job import JOBS, Job
from worker.keeper import living_workers
from worker.ledger import ENDED, Which
from worker.logs import read_job_log
from worker.models import JobRow, WorkerRow
from worker.owned import check_runs_code
from worker.service.backend import ClientPart
from worker.views import JobView, view_of


class Jobs(ClientPart):
    """What is queued, what runs, and what has ended."""

    def submit(self, job: Job, title: str) -> str:
        """Insert the job, commit, and only then tell the broker; a broker that is down costs a delay, not the job.

        Raises SpecError or MismatchError for what is not done with a model of its owner's code.
        """
        check_runs_code(job, self.registry)
        job_id = self.ledger.insert(
            kind=job.kind,
            title=title,
            spec=job.model_dump(mode="json"),
            queue=job.queue,
            model_id=job.model_id,
            dataset_id=job.dataset_id,
            max_attempts=self.settings.max_attempts,
            time_limit=self.settings.job_seconds,
            grace=job.grace,
            defense_id=job.evaluates,
        )
        self.backend.publish(job_id, job.queue)
        return job_id

    def find(
        self,
        *,
        kind: str | None = None,
        model_id: str | None = None,
        states: Sequence[str] = (),
        text: str = "",
        limit: int | None = None,
        offset: int = 0,
        pressing: bool = False,
    ) -> list[JobView]:
        """Jobs of a kind, of a model, in one of some states, with ``text`` in the title or at the beginning of the id.

        The newest first; ``pressing``: those that run, then those that wait in the order in which they will run, then the rest.
        """
        which = Which(kind=kind, model_id=model_id, states=states, text=text)
        rows = self.ledger.list(which, limit=limit, offset=offset, order="pressing" if pressing else "newest")
        return self.views(rows)

    def counts(
        self, *, kind: str | None = None, model_id: str | None = None, states: Sequence[str] = (), text: str = ""
    ) -> dict[str, int]:
        """How many such jobs there are, by state; states without a job are left out."""
        return self.ledger.counts(Which(kind=kind, model_id=model_id, states=states, text=text))

    def get(self, key: str) -> JobView:
        """By id, or an unambiguous beginning of at least four characters. Raises NotFoundError."""
        row = self.backend.job_row(key)
        result = self.ledger.result(row.id)
        return view_of(row, result.summary if result is not None else None, self.ledger.clock(), self.workers())

    def request(self, key: str) -> Job:
        """What a job was asked to do."""
        row = self.backend.job_row(key)
        return JOBS.build(row.kind, {name: value for name, value in row.spec.items() if name != "kind"})

    def cancel(self, key: str) -> bool:
        """Ask a job to stop; False when it had ended already."""
        return self.ledger.request_cancel(self.backend.job_row(key).id)

    def log(self, key: str) -> str | None:
        """What a job's attempts wrote: its end, secrets masked; None where the log is not on this machine."""
        return read_job_log(self.settings, self.backend.job_row(key).id)

    def run_again(self, key: str) -> str:
        """Queue what a job was asked to do once more; returns the new job's id. Raises MismatchError while it has not ended."""
        row = self.backend.job_row(key)
        if row.state not in ENDED:
            raise MismatchError(f"Job {row.id[:8]} is {row.state}.", "Cancel it first, or wait for its end.")
        return self.submit(self.request(row.id), row.title)

    def workers(self) -> list[WorkerRow]:
        """The workers that are alive."""
        return living_workers(self.ledger)

    def views(self, rows: Sequence[tuple[JobRow, dict[str, Any] | None]]) -> list[JobView]:
        now, workers = self.ledger.clock(), self.workers()
        return [view_of(row, summary, now, workers) for row, summary in rows]
