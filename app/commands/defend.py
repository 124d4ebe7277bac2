"""``auditor defend``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.catalogue import CatalogueCommand
from app.commands.files import whole_file
from app.commands.show import console, duration, followed, rate, state, table, when
from auditor.errors import NotFoundError, SpecError

if TYPE_CHECKING:
    from auditor.defense_fit import FitSpec
    from auditor.defense_study import DefenseStudy, StudySpec
    from worker.client import Client, DefenseView

app = typer.Typer(no_args_is_help=True)

NOT_BY_NAME = ("threat", "static", "influence", "published")
"""Settings of an evaluation that have options of their own."""


class _FitCommand(CatalogueCommand):
    catalogues = ("auditor.defense:DEFENSES",)


class _EvaluateCommand(CatalogueCommand):
    fields = "auditor.defense_evaluation:DefenseSpec"
    not_by_name = NOT_BY_NAME


@app.command(cls=_FitCommand)
def fit(
    model: Annotated[str, typer.Argument(help="Name or id of the model to defend.")],
    dataset: Annotated[
        str, typer.Argument(help="Name or id of the training images; not needed where the defense learns nothing.")
    ] = "",
    defense: Annotated[
        list[str] | None,
        typer.Option(help="kind:name=value,... (see below); may be repeated: an image passes the first one first."),
    ] = None,
    samples: Annotated[str, typer.Option(help="Training images to learn from, or all.")] = "2000",
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    name: Annotated[str, typer.Option(help="Name of the defense; by default made of defense and model.")] = "",
    spec: Annotated[
        Path | None, typer.Option(help="A JSON file with the whole specification, instead of the options.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Queue it and return.")] = False,
) -> None:
    """Prepare a defense for a model and keep it. Where no worker is running, one is started for the time."""
    from worker.client import Client

    client = Client()
    client.prepare()
    chosen = _fit_spec(spec, defense or [], samples, seed, device)
    preparation = client.fit_defense(model, chosen, dataset, name)
    if preparation.defense_id:
        _describe(client.defense(preparation.defense_id))
        return
    console.print(f"Preparation {preparation.job_id[:8]} is queued.")
    if detach:
        return
    job = followed(client, preparation.job_id, "preparation")
    row = client.defense_made_by(job.id)
    if row is not None:
        _describe(client.defense(row.id))


@app.command("list")
def list_defenses(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Every stored defense, and the newest evaluations."""
    from worker.client import Client

    client = Client()
    views, evaluations = client.defenses(), client.defense_evaluations()
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
    table(
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
    table(
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
    key: Annotated[
        str, typer.Argument(help="Name or id of a stored defense, or id of a preparation or an evaluation.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="All of it as JSON.")] = False,
) -> None:
    """A stored defense with its lineage, or an evaluation with its numbers."""
    from worker.client import Client

    client = Client()
    try:
        view = client.defense(key)
    except NotFoundError:
        _show_job(client, key, as_json)
        return
    if as_json:
        print(json.dumps(_plain(view), indent=2))
        return
    _describe(view)
    for one in client.defense_evaluations(view.row.id):
        console.print(
            f"evaluation {one.job.id[:8]} on {one.dataset}: {one.job.state}, {rate(one.job.summary.get('headline'))}"
        )


@app.command(cls=_EvaluateCommand)
def evaluate(
    defense: Annotated[str, typer.Argument(help="Name or id of a stored defense.")],
    dataset: Annotated[str, typer.Argument(help="Name or id of the test images; not those that it was fitted on.")],
    norm: Annotated[str, typer.Option(help="linf or l2.")] = "linf",
    epsilon: Annotated[str, typer.Option(help="Such as 8/255 or 0.5.")] = "8/255",
    static: Annotated[
        list[str] | None,
        typer.Option(
            help="Attack on the undefended model, kind:name=value,...; may be repeated; FGSM and PGD by default."
        ),
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="With the NIP paper's own attacks, and the level of its published code.")
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="name=value, a setting of the evaluation (see below); may be repeated."),
    ] = None,
    samples: Annotated[str, typer.Option(help="Test images, drawn by the seed, or all.")] = "200",
    unseen: Annotated[bool, typer.Option("--unseen", help="Draw none of the images that it was fitted on.")] = False,
    controls: Annotated[bool, typer.Option(help="Evaluate the controls beside the defense.")] = True,
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="parameter=value+value,..., such as k=0+1+5 or epsilon=2/255+8/255; may be repeated."),
    ] = None,
    sweep_samples: Annotated[int, typer.Option(help="The first so many test images are for sweeps.")] = 100,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    spec: Annotated[
        Path | None, typer.Option(help="A JSON file with the whole specification, instead of the options.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Queue it and return.")] = False,
) -> None:
    """Queue an evaluation of a stored defense, and follow it. Where no worker is running, one is started for the time."""
    from auditor.defending.sweep import Sweep
    from worker.client import Client

    client = Client()
    client.prepare()
    if spec is not None:
        chosen = _study_from_file(spec)
    else:
        values = {
            "evaluation": _evaluation(norm, epsilon, static or [], paper, setting or []),
            "samples": None if samples == "all" else samples, "unseen": unseen, "controls": controls,
            "sweeps": [Sweep.parse(item) for item in sweep or []], "sweep_samples": sweep_samples, "device": device,
        }  # fmt: skip
        chosen = _study(values)
    cost = client.evaluation_estimate(defense, dataset, chosen)
    job_id = client.evaluate_defense(defense, dataset, chosen)
    left = f", about {duration(cost.seconds)}" if cost.seconds is not None else ""
    console.print(
        f"Evaluation {job_id[:8]} is queued: at most {cost.passes / cost.samples:,.0f} passes of the model per image{left}."
    )
    if detach:
        return
    summary(client.defense_study(followed(client, job_id, "evaluation").id))


@app.command()
def export(
    defense: Annotated[str, typer.Argument(help="Name or id of a stored defense.")],
    path: Annotated[Path, typer.Argument(help="A new folder, or a file that ends in .zip.")],
) -> None:
    """Write the defended model so that it runs without this package: PyTorch code, its tensors, and a loader."""
    from worker.client import Client

    client = Client()
    if path.suffix.lower() == ".zip":
        with whole_file(path) as temporary:
            client.export_defense_archive(defense, temporary)
    else:
        client.export_defense(defense, path)
    console.print(f"Wrote {path}. With it on the path: import defended_model; model = defended_model.load(folder)")


@app.command()
def cancel(job: Annotated[str, typer.Argument(help="Id of a preparation or an evaluation.")]) -> None:
    """Stop a preparation or an evaluation; nothing of it is kept."""
    from worker.client import Client

    client = Client()
    stopped = client.cancel(job)
    console.print("It will stop." if stopped else f"It had ended already: {client.job(job).state}.")


@app.command()
def delete(defense: Annotated[str, typer.Argument(help="Name or id of a stored defense.")]) -> None:
    """Forget a stored defense that no evaluation names."""
    from worker.client import Client

    client = Client()
    name = client.defense(defense).row.name
    client.delete_defense(defense)
    console.print(f"Deleted {name}.")


def summary(study: DefenseStudy) -> None:
    """What came of an evaluation."""
    own = study.evaluation
    console.print(f"[bold]{study.title}[/bold] on {len(own.samples)} images, {own.threat}")
    console.print(f"benign accuracy {own.benign}, of the model alone {own.benign_undefended}")
    vote = f" (mean over draws; by majority vote {own.headline.majority})" if own.random else ""
    console.print(f"lowest robust accuracy {own.headline.accuracy}{vote}: {own.headline.name}")
    rows = [(row.name, "model alone", row.accuracy, "") for row in own.undefended]
    rows += [(row.name, row.knowledge, row.accuracy, "" if row.within else "beyond epsilon") for row in own.robust]
    table(("attack", "knows", "accuracy [95 %]", ""), rows)
    table(
        ("static adversarial images", "budget", "defense success [95 %]"),
        [(row.attack.display_title(), row.budget, row.success) for row in own.static],
    )
    if study.controls:
        table(
            ("control", "benign", "lowest robust [95 %]"),
            [
                (control.title, control.evaluation.benign, control.evaluation.headline.accuracy)
                for control in study.controls
            ],
        )
    for sweep in study.sweeps:
        table(
            (sweep.parameter, "benign", "lowest robust [95 %]"),
            [
                (f"{point.value:g}" if isinstance(point.value, float) else point.value, point.evaluation.benign,
                 point.evaluation.headline.accuracy)
                for point in sweep.points
            ],
        )  # fmt: skip
    for flag in study.all_flags:
        console.print(f"{flag.severity.upper()}: {flag.text}")


def _show_job(client: Client, key: str, as_json: bool) -> None:
    try:
        job = client.job(key)
    except NotFoundError:
        raise NotFoundError(
            f"There is no stored defense and no job {key!r}.", "List them with `auditor defend list`."
        ) from None
    if as_json:
        print(client.defense_study(job.id).model_dump_json(indent=2))
        return
    state(job)
    if job.kind == "evaluate-defense" and job.state == "succeeded":
        summary(client.defense_study(job.id))


def _describe(view: DefenseView) -> None:
    """A stored defense and its lineage."""
    row, lineage = view.row, view.row.manifest["lineage"]
    console.print(f"[bold]{row.name}[/bold] ({row.id}): {row.manifest['title']} for {view.model}")
    learnt = f"fitted on {lineage['count']:,} images of {view.dataset}" if view.dataset else "learns nothing"
    console.print(f"{learnt}, seed {lineage['seed']}, sha256 {row.content}, {row.manifest['bytes']:,} bytes")
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
    from auditor.defense import DEFENSES
    from auditor.defense_fit import FitSpec

    if file is not None:
        return FitSpec.load(_text(file))
    if not defenses:
        raise SpecError("No defense is named.", f"Name one with --defense; known: {', '.join(DEFENSES.members)}.")
    chosen = [DEFENSES.parse(item) for item in defenses]
    wanted = None if samples == "all" else samples
    return FitSpec.load({"defenses": chosen, "samples": wanted, "seed": seed, "device": device})


def _study(values: dict[str, Any]) -> StudySpec:
    from auditor.defense_study import StudySpec

    return StudySpec.load(values)


def _study_from_file(file: Path) -> StudySpec:
    from auditor.defense_study import StudySpec

    return StudySpec.load(_text(file))


def _evaluation(norm: str, epsilon: str, static: list[str], paper: bool, settings: list[str]) -> dict[str, Any]:
    from auditor.attack import ATTACKS
    from auditor.nip.adaptive import paper_attacks
    from auditor.nip.published import PublishedCode

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
            raise SpecError(f"evaluation: {name.strip()} is not set by name.", "It has an option of its own.")
        values[name.strip()] = value.strip()
    return values


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}.") from None
