"""What the dashboard and the command line are told about a job: its state as text, and what one would cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from worker.ledger import ENDED
from worker.models import DatasetRow, JobRow, WorkerRow
from worker.queues import NOBODY

QUIET_SECONDS = 120.0
"""A running job that shows no progress for longer is said to be quiet."""

START_SECONDS = 20.0
"""What a job takes in addition to its passes, on two cores: the process, importing torch, files, checks, pictures, the result."""


class JobView(NamedTuple):
    """A job as its owner sees it. ``eta``: seconds to its end, None where nothing can be said. ``notice``: why it waits.

    Times are seconds since 1970. ``summary`` holds the numbers of a finished job.
    """

    id: str
    kind: str
    title: str
    state: str
    share: float
    step: str
    created: float
    seconds: float | None
    eta: float | None
    attempts: int
    error: str
    hint: str
    notice: str
    model_id: str | None
    dataset_id: str | None
    summary: dict[str, Any]

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class CostEstimate(NamedTuple):
    """What a job costs: ``passes`` in forward passes over single images (a backward pass counts as two), at most, since samples
    that are fooled early spare much of it. ``seconds``: about how many, with what every job takes besides, at the speed that
    the model's vetting measured; None where it has not been vetted.
    """

    samples: int
    passes: float
    seconds: float | None

    @classmethod
    def at(cls, speed: float | None, samples: int, passes: float) -> CostEstimate:
        """``speed``: seconds of one pass over one image, None where it is not known."""
        return cls(samples, passes, None if speed is None else START_SECONDS + passes * speed)


def shape_of(dataset: DatasetRow) -> tuple[int, int, int]:
    """(channels, height, width) of its images."""
    channels, height, width = dataset.manifest["shape"]
    return channels, height, width


def view_of(row: JobRow, summary: dict[str, Any] | None, now: float, workers: Sequence[WorkerRow]) -> JobView:
    """A job's row as its owner sees it; ``now``: the database's clock."""
    seconds = None if row.started is None else (row.finished or now) - row.started
    done = row.share - row.resumed  # what earlier attempts did says nothing of this one's speed
    known = row.state == "running" and done > 0.01
    return JobView(
        id=row.id,
        kind=row.kind,
        title=row.title,
        state=row.state,
        share=row.share,
        step=row.step,
        created=row.created,
        seconds=seconds,
        eta=seconds * (1 - row.share) / done if known and seconds is not None else None,
        attempts=row.attempts,
        error=row.error or "",
        hint=row.hint or "",
        notice=_why_it_waits(row, workers, now),
        model_id=row.model_id,
        dataset_id=row.dataset_id,
        summary=summary_of(row, summary),
    )


def summary_of(job: JobRow, summary: dict[str, Any] | None) -> dict[str, Any]:
    """The numbers of a job; those of an audit with its goal, which older summaries do not hold: it is in what was asked for."""
    if not summary or job.kind != "audit" or "goal" in summary:
        return summary or {}
    from auditor.attacking.criterion import goal_of

    return summary | {"goal": str(goal_of(job.spec["audit"].get("goal", {})))}


def _why_it_waits(row: JobRow, workers: Sequence[WorkerRow], now: float) -> str:
    if row.state == "running" and row.cancel:
        return "Stopping; it keeps what it has." if row.grace and row.reached else "stopping"
    if row.state == "running" and row.heard is not None and now - row.heard > QUIET_SECONDS:
        quiet = f"No progress for {(now - row.heard) / 60:.0f} minutes."
        return f"{quiet} AUDITOR_STALL_SECONDS says when it is stopped and tried again."
    if row.state != "queued":
        return ""
    if row.cancel:
        return "To be cancelled: a worker will keep what it has. Cancel again to drop it."
    if not workers:
        return "No worker is running. Start one with `auditor worker`."
    able = [worker for worker in workers if row.queue in worker.queues]
    if not able:
        return NOBODY.get(row.queue, f"No worker serves the queue {row.queue!r}.")
    if all(worker.trouble for worker in able):
        return f"No worker takes jobs now. {able[0].trouble}"
    if row.not_before is not None and row.not_before > now:
        return f"An outage ended the last attempt, which does not count. {row.waits} Next try in {row.not_before - now:.0f} s."
    if row.published is None:
        return "The broker does not answer; the job is safe and will be sent again."
    return (
        "Waiting for a free worker."
        if row.attempts == 0
        else f"{row.waits or 'Its worker was lost.'} Attempt {row.attempts + 1} follows."
    )
