"""``auditor jobs``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from app.commands.show import console, followed, print_table, when
from app.commands.show import state as show_state
from auditor.kit.errors import NotFoundError

app = typer.Typer(no_args_is_help=True)

JobKey = Annotated[str, typer.Argument(help="Id of a job, or its first characters if they are unambiguous.")]


@app.command("list")
def list_jobs(
    kind: Annotated[str, typer.Option(help="Only jobs of this kind, such as audit, vet or harden.")] = "",
    state: Annotated[str, typer.Option(help="queued, running, succeeded, failed or cancelled.")] = "",
    text: Annotated[str, typer.Option(help="Part of the title, or the first characters of an id.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="The most to list.")] = 50,
) -> None:
    """List jobs of every kind: running ones, waiting ones in their order, then the newest of the others."""
    from worker.client import Client

    client = Client()
    which: dict[str, Any] = {"kind": kind or None, "states": (state,) if state else (), "text": text}
    print_table(
        ("id", "kind", "job", "state", "why", "queued (UTC)"),
        [
            (job.id[:8], job.kind, job.title, job.state, job.error or job.notice, when(job.created))
            for job in client.jobs.find(**which, limit=limit, pressing=True)
        ],
    )
    total = sum(client.jobs.counts(**which).values())
    if total > limit:
        console.print(f"{limit:,} of {total:,} jobs; --limit shows more.")


@app.command()
def show(
    job: JobKey, as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the whole request.")] = False
) -> None:
    """Show one job: its state, why it waits or failed, and what it was asked to do."""
    from worker.client import Client

    client = Client()
    found = client.jobs.get(job)
    request = client.jobs.request(found.id).model_dump(mode="json")
    if as_json:
        print(json.dumps(found._asdict() | {"request": request}, indent=2))
        return
    show_state(found)
    console.print_json(json.dumps(request))
    if found.state == "failed":
        console.print(
            f"`auditor jobs log {found.id[:8]}` prints its log, `auditor jobs again {found.id[:8]}` runs it again."
        )


@app.command()
def log(job: JobKey) -> None:
    """Print a job's log, tracebacks included; passwords are masked."""
    from worker.client import Client
    from worker.logs import job_log_file

    client = Client()
    found = client.jobs.get(job)
    text = client.jobs.log(found.id)
    if text is None:
        raise NotFoundError(
            f"There is no log of job {found.id[:8]} on this machine.",
            f"It is on its worker's machine, as {job_log_file(client.settings, found.id)}."
            if found.attempts
            else "No worker has started it yet.",
        )
    print(text, end="")


@app.command()
def again(
    job: JobKey, detach: Annotated[bool, typer.Option("--detach", help="Queue the job and return at once.")] = False
) -> None:
    """Run an ended job again, as a new job."""
    from worker.client import Client

    client = Client()
    client.prepare()
    new = client.jobs.run_again(job)
    console.print(f"Job {new[:8]} is queued: the same as {client.jobs.get(job).id[:8]}.")
    if not detach:
        show_state(followed(client, new, "job"))


@app.command()
def cancel(job: JobKey) -> None:
    """Stop a job."""
    from worker.client import Client

    client = Client()
    stopped = client.jobs.cancel(job)
    console.print("It is stopping." if stopped else f"It had already ended: {client.jobs.get(job).state}.")
