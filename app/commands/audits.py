"""``auditor audit``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.catalogue import CatalogueCommand
from app.commands.show import console, duration, follow, rate, table, when
from auditor.errors import AuditorError, SpecError

if TYPE_CHECKING:
    from auditor.audit_spec import AuditSpec
    from worker.client import Client, JobView

app = typer.Typer(no_args_is_help=True)


class _RunCommand(CatalogueCommand):
    catalogues = ("auditor.attack:ATTACKS", "auditor.analysis:ANALYSES")


@app.command(cls=_RunCommand)
def run(
    model: Annotated[str, typer.Argument(help="Name or id of a model.")],
    dataset: Annotated[str, typer.Argument(help="Name or id of a data set.")],
    attack: Annotated[list[str] | None, typer.Option(help="kind:name=value,... (see below); may be repeated.")] = None,
    norm: Annotated[str, typer.Option(help="linf or l2.")] = "linf",
    epsilon: Annotated[list[str] | None, typer.Option(help="Such as 8/255 or 0.5; may be repeated.")] = None,
    target: Annotated[str, typer.Option(help="Targeted attack: next, least_likely, random, or a class number.")] = "",
    analysis: Annotated[
        list[str] | None, typer.Option(help="kind:name=value,... (see below); may be repeated.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples to audit; 0 for all.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    spec: Annotated[
        Path | None, typer.Option(help="A JSON file with the whole specification, instead of the options.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Queue it and return.")] = False,
) -> None:
    """Queue an audit and follow it. Where no worker is running, one is started for the time it takes."""
    from app.processes import worker_if_none
    from worker.client import Client

    client = Client()
    client.prepare()
    chosen = (
        _from_file(spec)
        if spec is not None
        else _from_options(attack, norm, epsilon, target, analysis, samples, seed, device)
    )
    job_id = client.audit(model, dataset, chosen)
    console.print(f"Audit {job_id[:8]} is queued.")
    if detach:
        return
    with worker_if_none(client) as keep_one:
        (job,) = follow(client, [job_id], keep_one)
    if job.state != "succeeded":
        raise AuditorError(job.error or f"The audit was {job.state}.", job.hint)
    summary(client, job)


@app.command("list")
def list_audits() -> None:
    """The newest audits first."""
    from worker.client import Client

    rows = []
    for job in Client().jobs(kind="audit"):
        robust = job.summary.get("robust") or [None]
        headline = "not established" if job.summary.get("withheld") else rate(robust[0])
        rows.append((job.id[:8], job.title, job.state, rate(job.summary.get("clean")), headline, when(job.created)))
    table(("id", "audit", "state", "clean", "robust", "queued (UTC)"), rows)


@app.command()
def show(
    audit: str, as_json: Annotated[bool, typer.Option("--json", help="The whole result as JSON.")] = False
) -> None:
    """One audit: its state, and its numbers when it has some."""
    from worker.client import Client

    client = Client()
    if as_json:
        print(client.audit_result(audit).model_dump_json(indent=2))
        return
    job = client.job(audit)
    console.print(f"{job.title} ({job.id}): {job.state}, attempt {job.attempts}, {duration(job.seconds)}")
    for text in filter(None, (job.notice, job.error, job.hint)):
        console.print(text)
    if job.state == "running":
        console.print(f"{100 * job.share:.0f} %, {job.step}, about {duration(job.eta)} left")
    if job.state == "succeeded" and job.kind == "audit":
        summary(client, job)


@app.command()
def cancel(audit: str) -> None:
    """Stop an audit, or any other job."""
    from worker.client import Client

    client = Client()
    stopped = client.cancel(audit)
    console.print("It will stop." if stopped else f"It had ended already: {client.job(audit).state}.")


@app.command()
def schema() -> None:
    """The JSON schema of an audit's specification, for --spec."""
    from auditor.audit_spec import AuditSpec

    print(json.dumps(AuditSpec.model_json_schema(), indent=2))


def summary(client: Client, job: JobView) -> None:
    """The headline, the table of attacks and the doubts of a finished audit."""
    from auditor.report.sections.verdict import sentences

    result = client.audit_result(job.id)
    console.print(f"[bold]{job.title}[/bold] ({job.id[:8]}), {len(result.samples)} samples, {duration(job.seconds)}")
    console.print(f"clean accuracy {result.clean_accuracy}")
    rows: list[tuple[Any, ...]] = []
    for threat in result.spec.threats:
        for record in result.headline_records(threat):
            rows.append((threat, record.attack.describe(), record.success, result.attack_accuracy(record)))
        rows.append((threat, "worst case per sample", "", result.robust_accuracy(threat)))
    table(("threat", "attack", "success [95 %]", "accuracy left [95 %]"), rows)
    for sentence in sentences(result):
        console.print(sentence)
    for flag in result.flags:
        console.print(f"{flag.severity.upper()}: {flag.message} {flag.evidence}")


def _from_file(path: Path) -> AuditSpec:
    from auditor.audit_spec import AuditSpec

    try:
        return AuditSpec.load(path.read_text())
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}.") from None


def _from_options(
    attack: list[str] | None,
    norm: str,
    epsilon: list[str] | None,
    target: str,
    analysis: list[str] | None,
    samples: int,
    seed: int,
    device: str,
) -> AuditSpec:
    from auditor.analysis import ANALYSES
    from auditor.attack import ATTACKS
    from auditor.audit_spec import AuditSpec

    data: dict[str, Any] = {"samples": samples or None, "seed": seed, "device": device}
    data["threats"] = [{"norm": norm, "epsilon": item} for item in epsilon or ["8/255"]]
    if attack:
        data["attacks"] = [ATTACKS.parse(item) for item in attack]
    if analysis:
        data["analyses"] = [ANALYSES.parse(item) for item in analysis]
    if target:
        by_number = {"rule": "class", "target_class": target} if target.isdigit() else {"rule": target}
        data["goal"] = {"kind": "targeted", **by_number}
    return AuditSpec.load(data)
