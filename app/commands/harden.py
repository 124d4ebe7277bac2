"""``auditor harden``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.catalogue import CatalogueCommand
from app.commands.show import LISTED, Limit, console, duration, followed, left_out, rate, state, table, when
from auditor.errors import SpecError

if TYPE_CHECKING:
    from auditor.training_spec import TrainingSpec
    from worker.client import Client
    from worker.views import JobView

app = typer.Typer(no_args_is_help=True)


class _RunCommand(CatalogueCommand):
    catalogues = ("auditor.hardening:HARDENINGS",)
    fields = "auditor.training_spec:TrainingSpec"
    not_by_name = ("hardening",)


@app.command(cls=_RunCommand)
def run(
    model: Annotated[str, typer.Argument(help="Name or id of the model to start from.")],
    dataset: Annotated[str, typer.Argument(help="Name or id of the data set to train on; not one to audit on.")],
    method: Annotated[str, typer.Option(help="kind:name=value,... (see below).")] = "pat",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="name=value, a setting of the training (see below); may be repeated."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the child; by default made of parent and method.")] = "",
    spec: Annotated[
        Path | None, typer.Option(help="A JSON file with the whole specification, instead of the options.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Queue it and return.")] = False,
) -> None:
    """Queue a training that makes a child of a model, and follow it. Where no worker is running, one is started for the time."""
    from worker.client import Client

    client = Client()
    client.prepare()
    chosen = _from_file(spec) if spec is not None else _from_options(method, setting or [])
    cost = client.training_estimate(model, dataset, chosen)
    job_id = client.harden(model, dataset, chosen, name)
    left = f", about {duration(cost.seconds)}" if cost.seconds is not None else ""
    console.print(
        f"Hardening {job_id[:8]} is queued: at most {cost.passes / cost.samples:,.0f} passes per image{left}."
    )
    if detach:
        return
    summary(client, followed(client, job_id, "training", good=("succeeded", "cancelled")))


@app.command("list")
def list_hardenings(limit: Limit = LISTED) -> None:
    """The newest trainings first."""
    from worker.client import Client

    client = Client()
    rows = []
    for job in client.jobs(kind="harden", limit=limit or None):
        child = client.child(job.id)
        numbers = (rate(job.summary.get("clean")), rate(job.summary.get("robust")))
        rows.append(
            (job.id[:8], job.title, job.state, *numbers, child.name if child is not None else "", when(job.created))
        )
    table(("id", "training", "state", "clean (validation)", "robust (validation)", "child", "queued (UTC)"), rows)
    left_out(len(rows), client.count_jobs(kind="harden"))


@app.command()
def show(
    hardening: str, as_json: Annotated[bool, typer.Option("--json", help="The whole result as JSON.")] = False
) -> None:
    """One training: its state, its child, and its numbers when it has some."""
    from worker.client import Client

    client = Client()
    if as_json:
        print(client.training_result(hardening).model_dump_json(indent=2))
        return
    job = client.job(hardening)
    state(job)
    if job.kind == "harden" and job.summary:
        summary(client, job)


@app.command()
def cancel(hardening: str) -> None:
    """Stop a training; its best weights so far become a model."""
    from worker.client import Client

    client = Client()
    stopped = client.cancel(hardening)
    console.print("It will stop." if stopped else f"It had ended already: {client.job(hardening).state}.")


def summary(client: Client, job: JobView) -> None:
    """What came of a training."""
    result, child = client.training_result(job.id), client.child(job.id)
    console.print(f"[bold]{job.title}[/bold] ({job.id[:8]}): {result.stopped} after {result.epochs:.3g} epochs")
    if child is None:
        console.print("No epoch was done, so nothing is kept.")
    else:
        console.print(f"child: {child.name} ({child.id[:8]}), the weights of epoch {result.best.epoch}")
    start, best = result.start, result.best
    parent = "new weights" if result.spec.from_scratch else "parent"
    rows = [
        ("clean accuracy", start.clean or "–", best.clean or "–"),
        (
            f"under PGD, {result.spec.validation_steps} steps, {result.spec.threat}",
            start.robust or "–",
            best.robust or "–",
        ),
    ]
    table((f"on the same {result.validation_samples} validation images", f"{parent} [95 %]", "child [95 %]"), rows)
    for flag in result.flags:
        console.print(f"{flag.severity.upper()}: {flag.text}")
    for note in result.notes:
        console.print(f"note: {note}")


def _from_file(path: Path) -> TrainingSpec:
    from auditor.training_spec import TrainingSpec

    try:
        return TrainingSpec.load(path.read_text())
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}.") from None


def _from_options(method: str, settings: list[str]) -> TrainingSpec:
    from auditor.hardening import HARDENINGS
    from auditor.training_spec import TrainingSpec

    values: dict[str, Any] = {}
    for item in settings:
        name, equals, value = item.partition("=")
        if not equals:
            raise SpecError(f"training: expected name=value, got {item!r}.")
        values[name.strip()] = value.strip()
    return TrainingSpec.load(values | {"hardening": HARDENINGS.parse(method)})
