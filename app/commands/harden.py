"""``auditor harden``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.catalogue import CatalogueCommand
from app.commands.matching import Match, ShowMatch, match_of, print_match
from app.commands.show import LISTED, Limit, console, duration, followed, print_table, rate, say_left_out, state, when
from auditor.kit.errors import SpecError

if TYPE_CHECKING:
    from auditor.hardening.spec import TrainingSpec
    from worker.client import Client
    from worker.views import JobView

app = typer.Typer(no_args_is_help=True)


class _HardenCommand(CatalogueCommand):
    catalogues = ("auditor.hardening.hardening:HARDENINGS",)
    fields = "auditor.hardening.spec:TrainingSpec"
    not_by_name = ("hardening", "match")


@app.command(cls=_HardenCommand)
def run(
    model: Annotated[str, typer.Argument(help="Name or id of the model to start from.")],
    dataset: Annotated[str, typer.Argument(help="Name or id of the data set to train on; audit on another one.")],
    method: Annotated[str, typer.Option(help="kind:name=value,... (see below).")] = "pat",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="name=value, a setting of the training (see below); may be repeated."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the child; by default the parent's name and the method.")] = "",
    spec: Annotated[
        Path | None, typer.Option(help="A JSON file with the whole specification, instead of the options.")
    ] = None,
    match: Match = "",
    show_match: ShowMatch = False,
    detach: Annotated[bool, typer.Option("--detach", help="Queue the job and return at once.")] = False,
) -> None:
    """Queue a training that makes a child of a model, and follow it.

    If no worker is running, one is started for the time it takes.
    """
    from worker.client import Client

    client = Client()
    client.prepare()
    chosen = _from_file(spec) if spec is not None else _from_options(method, setting or [])
    if match:
        chosen = chosen.model_copy(update={"match": match_of(match)})
    if show_match:
        print_match(client, model, dataset, chosen.match)
        return
    cost = client.trainings.estimate(model, dataset, chosen)
    job_id = client.trainings.queue(model, dataset, chosen, name)
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
    for job in client.jobs.find(kind="harden", limit=limit or None):
        child = client.trainings.child(job.id)
        numbers = (rate(job.summary.get("clean")), rate(job.summary.get("robust")))
        rows.append(
            (job.id[:8], job.title, job.state, *numbers, child.name if child is not None else "", when(job.created))
        )
    print_table(("id", "training", "state", "clean (validation)", "robust (validation)", "child", "queued (UTC)"), rows)
    say_left_out(len(rows), client.jobs.counts(kind="harden"))


@app.command()
def show(
    hardening: str, as_json: Annotated[bool, typer.Option("--json", help="The whole result as JSON.")] = False
) -> None:
    """Show one training: its state, its child, and its numbers when it has some."""
    from worker.client import Client

    client = Client()
    if as_json:
        print(client.trainings.result(hardening).model_dump_json(indent=2))
        return
    job = client.jobs.get(hardening)
    state(job)
    if job.kind == "harden" and job.summary:
        summary(client, job)


@app.command()
def cancel(hardening: str) -> None:
    """Stop a training; its best weights so far become a model."""
    from worker.client import Client

    client = Client()
    stopped = client.jobs.cancel(hardening)
    console.print("It is stopping." if stopped else f"It had already ended: {client.jobs.get(hardening).state}.")


def summary(client: Client, job: JobView) -> None:
    """The result of a training."""
    result, child = client.trainings.result(job.id), client.trainings.child(job.id)
    console.print(f"[bold]{job.title}[/bold] ({job.id[:8]}): {result.stopped} after {result.epochs:.3g} epochs")
    if child is None:
        console.print("No epoch was completed, so nothing is kept.")
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
    print_table(
        (f"on the same {result.validation_samples} validation images", f"{parent} [95 %]", "child [95 %]"), rows
    )
    if result.classes is not None and result.classes.how == "hand":
        console.print(f"classes of the data matched {result.classes.describe()}")
    for flag in result.flags:
        console.print(f"{flag.severity.upper()}: {flag.text}")
    for note in result.notes:
        console.print(f"note: {note}")


def _from_file(path: Path) -> TrainingSpec:
    from auditor.hardening.spec import TrainingSpec

    try:
        return TrainingSpec.load(path.read_text())
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}.") from None


def _from_options(method: str, settings: list[str]) -> TrainingSpec:
    from auditor.hardening.hardening import HARDENINGS
    from auditor.hardening.spec import TrainingSpec

    values: dict[str, Any] = {}
    for item in settings:
        name, equals, value = item.partition("=")
        if not equals:
            raise SpecError(f"training: expected name=value, got {item!r}.")
        if name.strip() == "match":
            raise SpecError("training: match cannot be set here.", "Use --match.")
        values[name.strip()] = value.strip()
    return TrainingSpec.load(values | {"hardening": HARDENINGS.parse(method)})
