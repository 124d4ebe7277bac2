"""``auditor defend``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.catalogue import CatalogueCommand
from app.commands.files import whole_file
from app.commands.matching import Match, ShowMatch, match_of, print_match
from app.commands.show import console, duration, followed, print_table, rate, state, when
from auditor.kit.errors import NotFoundError, SpecError

if TYPE_CHECKING:
    from auditor.defending.evaluation import DefenseEvaluation, EvaluationSpec
    from auditor.defending.fit import FitSpec
    from worker.client import Client, DefenseView

app = typer.Typer(no_args_is_help=True)

NOT_BY_NAME = ("threat", "static", "influence", "published")
"""Settings of an evaluation that have options of their own."""


class _FitCommand(CatalogueCommand):
    catalogues = ("auditor.defending.defense:DEFENSES",)


class _EvaluateCommand(CatalogueCommand):
    fields = "auditor.defending.spec:TableSpec"
    not_by_name = NOT_BY_NAME


@app.command(cls=_FitCommand)
def fit(
    model: Annotated[str, typer.Argument(help="Name or id of the model to defend.")],
    dataset: Annotated[
        str, typer.Argument(help="Name or id of the training images; not needed if the defense is not fitted.")
    ] = "",
    defense: Annotated[
        list[str] | None,
        typer.Option(help="kind:name=value,... (see below); may be repeated: applied in this order."),
    ] = None,
    samples: Annotated[str, typer.Option(help="Number of training images to fit on, or all.")] = "2000",
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    name: Annotated[str, typer.Option(help="Name of the defense; by default its kind and the model's name.")] = "",
    spec: Annotated[
        Path | None, typer.Option(help="A JSON file with the whole specification, instead of the options.")
    ] = None,
    match: Match = "",
    show_match: ShowMatch = False,
    detach: Annotated[bool, typer.Option("--detach", help="Queue the job and return at once.")] = False,
) -> None:
    """Fit a defense to a model and keep it. If no worker is running, one is started for the time it takes."""
    from worker.client import Client

    client = Client()
    client.prepare()
    chosen = _fit_spec(spec, defense or [], samples, seed, device)
    if match:
        chosen = chosen.model_copy(update={"match": match_of(match)})
    if (match or show_match) and not dataset:
        raise SpecError("match: it places classes of a data set, and none is named.", "Name the training images.")
    if show_match:
        print_match(client, model, dataset, chosen.match)
        return
    queued = client.defenses.fit(model, chosen, dataset, name)
    if queued.defense_id:
        _describe(client.defenses.get(queued.defense_id))
        return
    console.print(f"Fit {queued.job_id[:8]} is queued.")
    if detach:
        return
    job = followed(client, queued.job_id, "fit")
    row = client.defenses.made_by(job.id)
    if row is not None:
        _describe(client.defenses.get(row.id))


@app.command("list")
def list_defenses(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Every stored defense, and the newest evaluations."""
    from worker.client import Client

    client = Client()
    views, evaluations = client.defenses.find(), client.defenses.evaluations()
    if as_json:
        listed = {
            "defenses": [_plain(view) for view in views],
            "evaluations": [
                {"id": one.job.id, "defense": one.defense_id, "dataset": one.dataset, "state": one.job.state}
                | {"summary": one.job.summary}
                for one in evaluations
            ],
        }
        print(json.dumps(listed, indent=2))
        return
    print_table(
        ("id", "defense", "model", "fitted on", "images", "evaluations", "stored (UTC)"),
        [
            (
                view.row.id[:8], view.row.name, view.model, view.dataset or "–",
                view.row.manifest["lineage"]["count"] or "–", view.evaluations, when(view.row.created),
            )
            for view in views
        ],
    )  # fmt: skip
    console.print()
    print_table(
        ("id", "evaluation", "state", "benign", "lowest robust", "model alone", "flags", "queued (UTC)"),
        [
            (
                one.job.id[:8], one.job.title, one.job.state, rate(one.job.summary.get("benign")),
                rate(one.job.summary.get("headline")), rate(one.job.summary.get("undefended")),
                len(one.job.summary.get("flags", ())) or "", when(one.job.created),
            )
            for one in evaluations
        ],
    )  # fmt: skip


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="Name or id of a stored defense, or id of a fit or an evaluation.")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
) -> None:
    """A stored defense with its lineage, or an evaluation with its numbers."""
    from worker.client import Client

    client = Client()
    try:
        view = client.defenses.get(key)
    except NotFoundError:
        _show_job(client, key, as_json)
        return
    if as_json:
        print(json.dumps(_plain(view), indent=2))
        return
    _describe(view)
    for one in client.defenses.evaluations(view.row.id):
        console.print(
            f"evaluation {one.job.id[:8]} on {one.dataset}: {one.job.state}, {rate(one.job.summary.get('headline'))}"
        )


@app.command(cls=_EvaluateCommand)
def evaluate(
    defense: Annotated[str, typer.Argument(help="Name or id of a stored defense.")],
    dataset: Annotated[str, typer.Argument(help="Name or id of the test images; do not use those it was fitted on.")],
    norm: Annotated[str, typer.Option(help="linf or l2.")] = "linf",
    epsilon: Annotated[str, typer.Option(help="Such as 8/255 or 0.5.")] = "8/255",
    static: Annotated[
        list[str] | None,
        typer.Option(
            help="Attack on the undefended model, kind:name=value,...; may be repeated; FGSM and PGD by default."
        ),
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Add the NIP paper's own attacks, and run its published code's setting.")
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="name=value, a setting of the evaluation (see below); may be repeated."),
    ] = None,
    samples: Annotated[str, typer.Option(help="Test images, drawn by the seed, or all.")] = "200",
    unseen: Annotated[bool, typer.Option("--unseen", help="Leave out images that it was fitted on.")] = False,
    controls: Annotated[bool, typer.Option(help="Also evaluate the controls.")] = True,
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="parameter=value+value,..., such as k=0+1+5 or epsilon=2/255+8/255; may be repeated."),
    ] = None,
    sweep_samples: Annotated[int, typer.Option(help="Number of test images for sweeps, taken from the first.")] = 100,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    spec: Annotated[
        Path | None, typer.Option(help="A JSON file with the whole specification, instead of the options.")
    ] = None,
    match: Match = "",
    show_match: ShowMatch = False,
    detach: Annotated[bool, typer.Option("--detach", help="Queue the job and return at once.")] = False,
) -> None:
    """Queue an evaluation of a stored defense, and follow it. If no worker is running, one is started for the time it
    takes."""
    from auditor.defending.sweep import Sweep
    from worker.client import Client

    client = Client()
    client.prepare()
    if spec is not None:
        chosen = _spec_from_file(spec)
    else:
        values = {
            "evaluation": _evaluation(norm, epsilon, static or [], paper, setting or []),
            "samples": None if samples == "all" else samples, "unseen": unseen, "controls": controls,
            "sweeps": [Sweep.parse(item) for item in sweep or []], "sweep_samples": sweep_samples, "device": device,
        }  # fmt: skip
        chosen = _evaluation_spec(values)
    if match:
        chosen = chosen.model_copy(update={"match": match_of(match)})
    if show_match:
        print_match(client, client.defenses.get(defense).row.model_id, dataset, chosen.match)
        return
    cost = client.defenses.estimate(defense, dataset, chosen)
    job_id = client.defenses.evaluate(defense, dataset, chosen)
    left = f", about {duration(cost.seconds)}" if cost.seconds is not None else ""
    console.print(
        f"Evaluation {job_id[:8]} is queued: at most {cost.passes / cost.samples:,.0f} passes of the model per image{left}."
    )
    if detach:
        return
    summary(client.defenses.evaluation(followed(client, job_id, "evaluation").id))


@app.command()
def export(
    defense: Annotated[str, typer.Argument(help="Name or id of a stored defense.")],
    path: Annotated[Path, typer.Argument(help="A new folder, or a file that ends in .zip.")],
) -> None:
    """Write the defended model in a form that runs without this package: PyTorch code, its tensors, and a loader."""
    from worker.client import Client

    client = Client()
    if path.suffix.lower() == ".zip":
        with whole_file(path) as temporary:
            client.defenses.export_archive(defense, temporary)
    else:
        client.defenses.export(defense, path)
    console.print(
        f"Wrote {path}. With the folder on the Python path: import defended_model; model = defended_model.load(folder)"
    )


@app.command()
def cancel(job: Annotated[str, typer.Argument(help="Id of a fit or an evaluation.")]) -> None:
    """Stop a fit or an evaluation; nothing of it is kept."""
    from worker.client import Client

    client = Client()
    stopped = client.jobs.cancel(job)
    console.print("It is stopping." if stopped else f"It had already ended: {client.jobs.get(job).state}.")


@app.command()
def delete(defense: Annotated[str, typer.Argument(help="Name or id of a stored defense.")]) -> None:
    """Delete a stored defense that no evaluation uses."""
    from worker.client import Client

    client = Client()
    name = client.defenses.get(defense).row.name
    client.defenses.delete(defense)
    console.print(f"Deleted {name}.")


def summary(evaluation: DefenseEvaluation) -> None:
    """The result of an evaluation."""
    own = evaluation.table
    console.print(f"[bold]{evaluation.title}[/bold] on {len(own.samples)} images, {own.threat}")
    if evaluation.classes is not None and evaluation.classes.how == "hand":
        console.print(f"classes of the data matched {evaluation.classes.describe()}")
    console.print(f"benign accuracy {own.benign}, of the model alone {own.benign_undefended}")
    vote = f" (mean over draws; by majority vote {own.headline.majority})" if own.random else ""
    console.print(f"lowest robust accuracy {own.headline.accuracy}{vote}: {own.headline.name}")
    rows = [(row.name, "model alone", row.accuracy, "") for row in own.undefended]
    rows += [(row.name, row.knowledge, row.accuracy, "" if row.within else "beyond epsilon") for row in own.robust]
    print_table(("attack", "knows", "accuracy [95 %]", ""), rows)
    print_table(
        ("static adversarial images", "budget", "defense success [95 %]"),
        [(row.attack.display_title(), row.budget, row.success) for row in own.static],
    )
    if evaluation.controls:
        print_table(
            ("control", "benign", "lowest robust [95 %]"),
            [(control.title, control.table.benign, control.table.headline.accuracy) for control in evaluation.controls],
        )
    for sweep in evaluation.sweeps:
        print_table(
            (sweep.parameter, "benign", "lowest robust [95 %]"),
            [
                (f"{point.value:g}" if isinstance(point.value, float) else point.value, point.table.benign,
                 point.table.headline.accuracy)
                for point in sweep.points
            ],
        )  # fmt: skip
    for flag in evaluation.all_flags:
        console.print(f"{flag.severity.upper()}: {flag.text}")


def _show_job(client: Client, key: str, as_json: bool) -> None:
    try:
        job = client.jobs.get(key)
    except NotFoundError:
        raise NotFoundError(
            f"There is no stored defense and no job {key!r}.", "List them with `auditor defend list`."
        ) from None
    if as_json:
        print(client.defenses.evaluation(job.id).model_dump_json(indent=2))
        return
    state(job)
    if job.kind == "evaluate-defense" and job.state == "succeeded":
        summary(client.defenses.evaluation(job.id))


def _describe(view: DefenseView) -> None:
    """A stored defense and its lineage."""
    from auditor.models.class_table import ClassTable

    row, lineage = view.row, view.row.manifest["lineage"]
    console.print(f"[bold]{row.name}[/bold] ({row.id}): {row.manifest['title']} for {view.model}")
    learnt = f"fitted on {lineage['count']:,} images of {view.dataset}" if view.dataset else "not fitted"
    console.print(f"{learnt}, seed {lineage['seed']}, sha256 {row.content}, {row.manifest['bytes']:,} bytes")
    if (classes := row.manifest.get("classes")) is not None and classes["how"] == "hand":
        console.print(f"classes of the data matched {ClassTable.model_validate(classes).describe()}")
    for defense in row.spec["defenses"]:
        settings = ", ".join(f"{name} {value}" for name, value in defense.items() if name != "kind")
        console.print(f"  {defense['kind']}" + (f": {settings}" if settings else ""))


def _plain(view: DefenseView) -> dict[str, Any]:
    """A stored defense as JSON."""
    row = view.row
    return {
        "id": row.id, "name": row.name, "created": row.created, "model_id": row.model_id, "model": view.model,
        "dataset_id": row.dataset_id, "dataset": view.dataset, "job_id": row.job_id, "spec": row.spec,
        "sha256": row.content, "evaluations": view.evaluations, **row.manifest,
    }  # fmt: skip


def _fit_spec(file: Path | None, defenses: list[str], samples: str, seed: int, device: str) -> FitSpec:
    from auditor.defending.defense import DEFENSES
    from auditor.defending.fit import FitSpec

    if file is not None:
        return FitSpec.load(_text(file))
    if not defenses:
        raise SpecError("No defense is named.", f"Name one with --defense; known: {', '.join(DEFENSES.members)}.")
    chosen = [DEFENSES.parse(item) for item in defenses]
    wanted = None if samples == "all" else samples
    return FitSpec.load({"defenses": chosen, "samples": wanted, "seed": seed, "device": device})


def _evaluation_spec(values: dict[str, Any]) -> EvaluationSpec:
    from auditor.defending.evaluation import EvaluationSpec

    return EvaluationSpec.load(values)


def _spec_from_file(file: Path) -> EvaluationSpec:
    from auditor.defending.evaluation import EvaluationSpec

    return EvaluationSpec.load(_text(file))


def _evaluation(norm: str, epsilon: str, static: list[str], paper: bool, settings: list[str]) -> dict[str, Any]:
    from auditor.attacking.attack import ATTACKS
    from auditor.defending.nip.adaptive import paper_attacks
    from auditor.defending.nip.published import PublishedCode

    values: dict[str, Any] = {"threat": {"norm": norm, "epsilon": epsilon}}
    if static:
        values["static"] = [ATTACKS.parse(item) for item in static]
    if paper:
        values |= {"influence": paper_attacks(), "published": (PublishedCode(), PublishedCode(direction="random"))}
    for item in settings:
        name, equals, value = item.partition("=")
        if not equals:
            raise SpecError(f"evaluation: expected name=value, got {item!r}.")
        if name.strip() in NOT_BY_NAME:
            raise SpecError(f"evaluation: {name.strip()} cannot be set here.", "Use its own option.")
        values[name.strip()] = value.strip()
    return values


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}.") from None
