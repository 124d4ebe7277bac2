"""``auditor jobs``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from app.commands.show import console, followed, state, table, when
from auditor.errors import NotFoundError

app = typer.Typer(no_args_is_help=True)

Job = Annotated[str, typer.Argument(help="Id of a job, or an unambiguous beginning of it.")]


@app.command("list")
def list_jobs(
    kind: Annotated[str, typer.Option(help="One kind of job alone, such as audit, vet, harden.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest.")] = 50,
) -> None:
    """Jobs of every kind, the newest first."""
    from worker.client import Client

    table(
        ("id", "kind", "job", "state", "why", "queued (UTC)"),
        [
            (job.id[:8], job.kind, job.title, job.state, job.error or job.notice, when(job.created))
            for job in Client().jobs(kind=kind or None, limit=limit)
        ],
    )


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
    state(found)
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
        state(followed(client, new, "job"))


@app.command()
def cancel(job: Job) -> None:
    """Stop a job."""
    from worker.client import Client

    client = Client()
    stopped = client.cancel(job)
    console.print("It will stop." if stopped else f"It had ended already: {client.job(job).state}.")
