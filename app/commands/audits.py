"""``auditor audit``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.catalogue import CatalogueCommand
from app.commands.files import whole_file
from app.commands.matching import Match, ShowMatch, match_of, print_match
from app.commands.show import (
    LISTED,
    Limit,
    console,
    duration,
    followed,
    print_table,
    rate,
    robustness,
    say_left_out,
    state,
    when,
)
from auditor.kit.errors import SpecError, spelled

if TYPE_CHECKING:
    from auditor.auditing.corruption import Corruption
    from auditor.auditing.result import AuditResult
    from auditor.auditing.spec import AuditSpec
    from worker.client import Client, JobView

app = typer.Typer(no_args_is_help=True)


class _AuditCommand(CatalogueCommand):
    presets = "auditor.attacking.presets:PRESETS"
    catalogues = (
        "auditor.attacking.attack:ATTACKS",
        "auditor.neural.analysis:ANALYSES",
        "auditor.auditing.corruption:CORRUPTIONS",
        "auditor.auditing.check:CHECKS",
    )


@app.command(cls=_AuditCommand)
def run(
    model: Annotated[str, typer.Argument(help="Name or id of a model.")],
    dataset: Annotated[str, typer.Argument(help="Name or id of a data set.")],
    preset: Annotated[str, typer.Option(help="A named set of threat models and attacks (see below).")] = "",
    attack: Annotated[list[str] | None, typer.Option(help="kind:name=value,... (see below); may be repeated.")] = None,
    norm: Annotated[str, typer.Option(help="linf or l2.")] = "linf",
    epsilon: Annotated[list[str] | None, typer.Option(help="Such as 8/255 or 0.5; may be repeated.")] = None,
    target: Annotated[
        str, typer.Option(help="Targeted attack: next, least_likely, random, or a class by number or name.")
    ] = "",
    analysis: Annotated[
        list[str] | None, typer.Option(help="kind:name=value,... (see below); may be repeated.")
    ] = None,
    check: Annotated[
        list[str] | None, typer.Option(help="kind:name=value,... (see below); may be repeated; by default all.")
    ] = None,
    corruption: Annotated[
        list[str] | None,
        typer.Option(help="kind or kind:severity=3 (see below); may be repeated; all: every one that fits."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples to audit; 0 for all.")] = 1000,
    draws: Annotated[
        int,
        typer.Option(help="For a model with random outputs: draws that attacks average over and that judge an image."),
    ] = 20,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    spec: Annotated[
        Path | None, typer.Option(help="A JSON file with the whole specification, instead of the options.")
    ] = None,
    match: Match = "",
    show_match: ShowMatch = False,
    detach: Annotated[bool, typer.Option("--detach", help="Queue the job and return at once.")] = False,
) -> None:
    """Queue an audit and follow it. If no worker is running, one is started for the time it takes."""
    from worker.client import Client

    client = Client()
    client.prepare()
    corruptions = named_corruptions(client, dataset, corruption or [])
    chosen = (
        _from_file(spec)
        if spec is not None
        else _from_options(
            preset, attack, norm, epsilon, target, analysis, check, corruptions, samples, draws, seed, device
        )
    )
    if match:
        chosen = chosen.model_copy(update={"match": match_of(match)})
    if show_match:
        print_match(client, model, dataset, chosen.match)
        return
    cost = client.audits.estimate(model, dataset, chosen)
    job_id = client.audits.queue(model, dataset, chosen)
    left = f", about {duration(cost.seconds)}" if cost.seconds is not None else ""
    console.print(f"Audit {job_id[:8]} is queued: at most {cost.passes / cost.samples:,.0f} passes per image{left}.")
    if detach:
        return
    summary(client, followed(client, job_id, "audit"))


@app.command("list")
def list_audits(limit: Limit = LISTED) -> None:
    """The newest audits first."""
    from worker.client import Client

    client, rows = Client(), []
    for job in client.jobs.find(kind="audit", limit=limit or None):
        clean, robust = rate(job.summary.get("clean")), robustness(job.summary)
        rows.append((job.id[:8], job.title, job.state, clean, robust, when(job.created)))
    print_table(("id", "audit", "state", "clean [95 %]", "robust accuracy [95 %]", "queued (UTC)"), rows)
    say_left_out(len(rows), client.jobs.counts(kind="audit"))


@app.command()
def show(
    audit: str, as_json: Annotated[bool, typer.Option("--json", help="The whole result as JSON.")] = False
) -> None:
    """Show one audit: its state, and its numbers when it has some."""
    from worker.client import Client

    client = Client()
    if as_json:
        print(client.audits.result(audit).model_dump_json(indent=2))
        return
    job = client.jobs.get(audit)
    state(job)
    if job.state == "succeeded" and job.kind == "audit":
        summary(client, job)


@app.command()
def export(
    audit: str,
    attack: Annotated[
        str, typer.Option(help="Kind of the attack, or its number among the audit's attacks, counted from 1.")
    ] = "1",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
) -> None:
    """Write the adversarial images of one attack that an audit kept, as one .npz file."""
    from worker.client import Client

    client = Client()
    record = _headline_record(client.audits.result(audit), attack)
    path = output or Path(f"audit-{client.jobs.get(audit).id[:8]}-{attack}.npz")
    with whole_file(path) as temporary:
        count = client.audits.export_examples(audit, record, temporary)
    console.print(f"Wrote {path}: {count:,} images, {path.stat().st_size / 1e6:.1f} MB.")


@app.command()
def cancel(audit: str) -> None:
    """Stop an audit, or any other job."""
    from worker.client import Client

    client = Client()
    stopped = client.jobs.cancel(audit)
    console.print("It is stopping." if stopped else f"It had already ended: {client.jobs.get(audit).state}.")


@app.command()
def schema() -> None:
    """The JSON schema of an audit's specification, for --spec."""
    from auditor.auditing.spec import AuditSpec

    print(json.dumps(AuditSpec.model_json_schema(), indent=2))


def summary(client: Client, job: JobView) -> None:
    """The headline, the table of attacks, the doubts and the checks of a finished audit."""
    from auditor.report.sections.corruptions import accuracy_table
    from auditor.report.sections.verdict import sentences

    result = client.audits.result(job.id)
    console.print(f"[bold]{job.title}[/bold] ({job.id[:8]}), {len(result.samples)} samples, {duration(job.seconds)}")
    mean = f" (mean over {result.spec.draws} draws: the model's outputs are random)" if result.random else ""
    console.print(f"clean accuracy {result.clean_accuracy}{mean}")
    rows: list[tuple[Any, ...]] = []
    for headline in result.headlines:
        threat = headline.threat
        for record in result.headline_records(threat):
            rows.append((threat, record.attack.describe(), record.success, result.attack_accuracy(record)))
        rows.append((threat, "worst case per sample", "", headline.robust_accuracy or "not established"))
        if headline.majority is not None:
            rows.append((threat, "worst case, majority vote", "", headline.majority))
    print_table(("threat", "attack", "success [95 %]", "accuracy left [95 %]"), rows)
    if result.corruptions:
        corrupted = [[row.get(key) for key in ("corruption", *"12345")] for row in accuracy_table(result)]
        print_table(("corruption", *(f"severity {severity} [95 %]" for severity in "12345")), corrupted)
    for sentence in sentences(result):
        console.print(sentence)
    if (classes := result.provenance.classes) is not None and classes.how == "hand":
        console.print(f"classes of the data matched {classes.describe()}")
    for note in result.provenance.dataset.notes:
        console.print(f"note: {note}")
    for flag in result.flags:
        console.print(f"{flag.severity.upper()}: {flag.text}")
    counts = Counter(verdict.status for verdict in result.checks)
    console.print(f"checks: {', '.join(f'{count} {status}' for status, count in counts.items()) or 'none'}")


def _headline_record(result: AuditResult, attack: str) -> int:
    """The place of an attack among the records, by its kind (the first of that kind) or its number from 1."""
    records = [index for index, record in enumerate(result.records) if record.role == "headline"]
    named = {str(number): index for number, index in enumerate(records, 1)}
    for index in reversed(records):
        named[spelled(result.records[index].attack.kind_name())] = index
    if spelled(attack) not in named:
        known = ", ".join(
            f"{number}: {result.records[index].attack.describe()}" for number, index in enumerate(records, 1)
        )
        raise SpecError(f"attack: the audit has no attack {attack!r}.", f"It has {known}.")
    return named[spelled(attack)]


def _from_file(path: Path) -> AuditSpec:
    from auditor.auditing.spec import AuditSpec

    try:
        return AuditSpec.load(path.read_text())
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}.") from None


def named_corruptions(client: Client, dataset: str, texts: list[str]) -> list[Corruption]:
    """The corruptions named; ``all`` stands for every kind that takes the data set's images."""
    from auditor.auditing.corruption import CORRUPTIONS

    if texts != ["all"]:
        return [CORRUPTIONS.parse(text) for text in texts]
    channels = client.library.dataset(dataset).manifest["shape"][0]
    return [member(kind=member.kind_name()) for member in CORRUPTIONS if channels in member.channels]


def _from_options(
    preset: str,
    attack: list[str] | None,
    norm: str,
    epsilon: list[str] | None,
    target: str,
    analysis: list[str] | None,
    check: list[str] | None,
    corruptions: list[Corruption],
    samples: int,
    draws: int,
    seed: int,
    device: str,
) -> AuditSpec:
    from auditor.attacking.attack import ATTACKS
    from auditor.attacking.presets import find_preset
    from auditor.auditing.check import CHECKS
    from auditor.auditing.spec import AuditSpec
    from auditor.neural.analysis import ANALYSES

    data: dict[str, Any] = {"samples": samples or None, "draws": draws, "seed": seed, "device": device}
    data["corruptions"] = corruptions
    if preset:
        chosen = find_preset(preset)
        data["threats"], data["attacks"] = chosen.build()
    if epsilon or not preset:
        data["threats"] = [{"norm": norm, "epsilon": item} for item in epsilon or ["8/255"]]
    if attack:
        data["attacks"] = [ATTACKS.parse(item) for item in attack]
    if analysis:
        data["analyses"] = [ANALYSES.parse(item) for item in analysis]
    if check:
        data["checks"] = [CHECKS.parse(item) for item in check]
    if target:
        rule = (
            {"rule": target}
            if target in ("next", "least_likely", "random")
            else {"rule": "class", "target_class": target}
        )
        data["goal"] = {"kind": "targeted", **rule}
    return AuditSpec.load(data)
