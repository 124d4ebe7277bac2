"""``auditor jobs``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from app.commands.show import console, followed, table, when
from app.commands.show import state as show_state
from auditor.errors import NotFoundError

app = typer.Typer(no_args_is_help=True)

Job = Annotated[str, typer.Argument(help="Id of a job, or an unambiguous beginning of it.")]


@app.command("list")
def list_jobs(
    kind: Annotated[str, typer.Option(help="One kind of job alone, such as audit, vet, harden.")] = "",
    state: Annotated[str, typer.Option(help="queued, running, succeeded, failed or cancelled.")] = "",
    text: Annotated[str, typer.Option(help="A part of the title, or the beginning of an id.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
) -> None:
    """Jobs of every kind: those that run, those that wait in their order, then the newest of the others."""
    from worker.client import Client

    client = Client()
    which: dict[str, Any] = {"kind": kind or None, "states": (state,) if state else (), "text": text}
    table(
        ("id", "kind", "job", "state", "why", "queued (UTC)"),
        [
            (job.id[:8], job.kind, job.title, job.state, job.error or job.notice, when(job.created))
            for job in client.jobs(**which, limit=limit, pressing=True)
        ],
    )
    total = sum(client.count_jobs(**which).values())
    if total > limit:
        console.print(f"{limit:,} of {total:,} jobs; --limit shows more.")


@app.command()
def show(
    job: Job, as_json: Annotated[bool, typer.Option("--json", help="As JSON, with its whole request.")] = False
) -> None:
    """One job: where it stands, why it waits or failed, and what it was asked to do."""
    from worker.client import Client

    client = Client()
    found = client.job(job)
    request = client.request(found.id).model_dump(mode="json")
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
def log(job: Job) -> None:
    """What a job wrote to its log, tracebacks included; passwords are masked."""
    from worker.client import Client
    from worker.logs import job_log_file

    client = Client()
    found = client.job(job)
    text = client.job_log(found.id)
    if text is None:
        raise NotFoundError(
            f"There is no log of job {found.id[:8]} on this machine.",
            f"It is where its worker ran, as {job_log_file(client.settings, found.id)}."
            if found.attempts
            else "No worker has started it yet.",
        )
    print(text, end="")


@app.command()
def again(job: Job, detach: Annotated[bool, typer.Option("--detach", help="Queue it and return.")] = False) -> None:
    """Run what an ended job was asked to do once more, as a new job."""
    from worker.client import Client

    client = Client()
    client.prepare()
    new = client.run_again(job)
    console.print(f"Job {new[:8]} is queued: the same as {client.job(job).id[:8]}.")
    if not detach:
        show_state(followed(client, new, "job"))


@app.command()
def cancel(job: Job) -> None:
    """Stop a job."""
    from worker.client import Client

    client = Client()
    stopped = client.cancel(job)
    console.print("It will stop." if stopped else f"It had ended already: {client.job(job).state}.")
