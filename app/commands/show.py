"""How the command line shows things: tables, progress, numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from auditor.kit.errors import AuditorError
from worker.patience import for_seconds, patiently

if TYPE_CHECKING:
    from worker.client import Client, JobView

POLL_SECONDS = 0.4
OUTAGE_SECONDS = 120.0

LISTED = 200
Limit = Annotated[int, typer.Option(min=0, help="How many to list; 0 for all.")]

console = Console(highlight=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; one line per row, nothing cut."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*("" if value is None else str(value) for value in row))
    console.print(drawn)


def say_left_out(shown: int, counts: dict[str, int]) -> None:
    """Say it when a list does not hold all; ``counts`` by state."""
    total = sum(counts.values())
    if shown < total:
        console.print(f"The newest {shown:,} of {total:,}; --limit 0 lists all.")


def state(job: JobView) -> None:
    """Print where a job stands, and why it waits or failed."""
    console.print(f"{job.title} ({job.id}): {job.state}, attempt {job.attempts}, {duration(job.seconds)}")
    for text in filter(None, (job.notice, job.error, job.hint)):
        console.print(text)
    if job.state == "running":
        console.print(f"{100 * job.share:.0f} %, {job.step}, about {duration(job.eta)} left")


def when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def duration(seconds: float | None) -> str:
    """``less than 1 s``, ``42 s``, ``3 min 20 s``, ``2 h 05 min``; a dash where unknown."""
    if seconds is None:
        return "–"
    if 0 < seconds < 1:
        return "less than 1 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rate(data: dict[str, Any] | None) -> str:
    """A rate of a job's summary with its interval."""
    if not data or data["value"] is None:
        return "–"
    return f"{100 * data['value']:.1f} % [{100 * data['low']:.1f}, {100 * data['high']:.1f}]"


def robustness(summary: dict[str, Any]) -> str:
    """The first robust accuracy of an audit's summary as text: an upper bound, of how many samples, against what."""
    if summary.get("withheld"):
        return "robust accuracy not established"
    first = next(iter(summary.get("robust") or ()), None)
    if first is None or first["value"] is None:
        return "–"
    goal = f", {summary['goal']}" if summary.get("goal") else ""
    return f"at most {rate(first)} robust, n = {first['n']}, within {first['threat']}{goal}"


def follow(client: Client, job_ids: Sequence[str], on_poll: Callable[[], None]) -> list[JobView]:
    """Show the progress of some jobs until all have ended; returns how they ended. Calls ``on_poll`` while it waits."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console) as progress:
        bars = {job_id: progress.add_task("", total=1.0, note="") for job_id in job_ids}
        while True:
            # The jobs go on while the database is away for a moment, and so do we.
            jobs = patiently(lambda: [client.jobs.get(job_id) for job_id in job_ids], for_seconds(OUTAGE_SECONDS))
            for job in jobs:
                progress.update(
                    bars[job.id],
                    completed=1.0 if job.state == "succeeded" else job.share,
                    description=job.title,
                    note=_note(job),
                )
            if all(job.ended for job in jobs):
                return jobs
            on_poll()
            time.sleep(POLL_SECONDS)


def followed(client: Client, job_id: str, what: str, *, good: Collection[str] = ("succeeded",)) -> JobView:
    """Follow one job to its end. Where no worker is running, one is started for the time it takes.

    Raises AuditorError if it ends in a state that is not ``good``; ``what``: its name in a sentence.
    """
    from app.processes import worker_if_none

    with worker_if_none(client) as keep_one:
        (job,) = follow(client, [job_id], keep_one)
    if job.state not in good:
        raise AuditorError(job.error or f"The {what} was {job.state}.", job.hint)
    return job


def _note(job: JobView) -> str:
    if job.state == "running":
        left = f", about {duration(job.eta)} left" if job.eta is not None else ""
        return f"{job.step}{left}"
    if job.state == "queued":
        return job.notice
    return f"{job.state} {job.error}".strip()
