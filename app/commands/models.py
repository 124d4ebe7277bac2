"""``auditor models``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands.catalogue import CatalogueCommand
from app.commands.declared import opened, parse_architecture, parse_code, parse_preprocessing, parse_size
from app.commands.files import whole_file, write_text
from app.commands.matching import Match, ShowMatch, match_of, print_match
from app.commands.show import console, duration, follow, print_table, rate, when
from auditor.kit.errors import SpecError

app = typer.Typer(no_args_is_help=True)


_Size = Annotated[
    str,
    typer.Option(help="Height x width of images, such as 224x224; needed only for an ONNX file that leaves them open."),
]
_Output = Annotated[
    str,
    typer.Option(
        help="Which output holds the logits, by name or number from 0; needed only for a network that returns several."
    ),
]


class _AddCommand(CatalogueCommand):
    catalogues = ("auditor.models.architecture:ARCHITECTURES",)


@app.command(cls=_AddCommand)
def add(
    file: Annotated[
        Path, typer.Argument(help="Weights: .safetensors, or .pt, .pth, .th, .ckpt, .bin; nothing of them is run.")
    ],
    architecture: Annotated[
        str,
        typer.Option(
            help="The network: kind:name=value,... (see below); layers as nn.Sequential(...); or @FILE with layers, with what "
            "print(model) shows, or with JSON. Left out: what the file itself says, or the only one that fits its tensors' names "
            "and shapes."
        ),
    ] = "",
    code: Annotated[
        str,
        typer.Option(
            help="The network as a class of a Python file, such as net.py:Net or 'net.py:Net(width=64)', instead of an "
            "architecture. It is run, in the sandbox alone. For administrators: needs AUDITOR_ALLOW_CODE=1."
        ),
    ] = "",
    shape: Annotated[
        str, typer.Option("--input", help="Shape of the images: channels x height x width, such as 1x28x28.")
    ] = "",
    num_classes: Annotated[
        int | None,
        typer.Option(help="Number of classes, i.e. logits; by default the architecture's.", show_default=False),
    ] = None,
    normalization: Annotated[
        str,
        typer.Option(
            help="The normalization that the network expects: a name, or mean/std such as 0.5,0.5,0.5/0.25,0.25,0.25. Left out: "
            "the file's own, or none where it has none."
        ),
    ] = "",
    channel_order: Annotated[str, typer.Option(help="RGB or BGR; by default RGB.", show_default=False)] = "",
    value_range: Annotated[
        str, typer.Option(help="Range of pixels before mean and std: 0-1 or 0-255; by default 0-1.", show_default=False)
    ] = "",
    name: Annotated[str, typer.Option(help="Name of the model; by default the file's.")] = "",
    classes: Annotated[str, typer.Option(help="Comma-separated class names, in the order of the logits.")] = "",
    accuracy: Annotated[
        str,
        typer.Option(
            help="The model's published accuracy, in percent; vetting warns if the model falls far short of it."
        ),
    ] = "",
    weights: Annotated[
        str,
        typer.Option(
            help="Which set of weights, such as teacher or model.state_dict; needed only for a file that holds several."
        ),
    ] = "",
    mapping: Annotated[
        int,
        typer.Option(
            min=1,
            max=2,
            help="Which of two ways to match tensors whose names do not fit: a note says where there are two.",
        ),
    ] = 1,
    size: _Size = "",
    output: _Output = "",
    dataset: Annotated[str, typer.Option(help="Also vet the model on this data set now.")] = "",
) -> None:
    """Check a file of weights, keep it, and vet the model."""
    from auditor.auditing.declaration import parse_accuracy
    from auditor.data.intake.asked import Asked
    from auditor.data.intake.checkpoints import WEIGHTS_ALONE
    from auditor.models.own_code import stored_code
    from worker.client import Client
    from worker.reading import architecture_from

    declared_accuracy = parse_accuracy(accuracy)
    class_names = [item.strip() for item in classes.split(",")] if classes else None
    if architecture and code:
        raise SpecError("--architecture and --code both name the network.", "Leave one of them out.")
    if not architecture and not code and (shape or num_classes is not None):
        raise SpecError(
            "--input and --num-classes say more of an architecture, and none was given.",
            "Add `--architecture`, or leave them out for what the file itself says.",
        )
    declared = parse_architecture(architecture, shape, num_classes) if architecture else None
    if code:
        declared = parse_code(code, shape, num_classes)
    client = Client()
    client.prepare()
    normal = parse_preprocessing(normalization, channel_order, value_range)
    with opened(file) as stream:
        row = client.library.add_model(
            stream,
            file.name,
            name=name or file.stem,
            architecture=declared,
            normalization=normal,
            class_names=class_names,
            declared_accuracy=declared_accuracy,
            weights=weights,
            on_wait=console.print,
            mapping=2 if mapping == 2 else 1,
            asked=Asked(parse_size(size), output.strip()),
        )
    console.print(
        f"Added model {row.name} ({row.id[:8]}): {row.manifest['parameters']:,} parameters, sha256 {row.weights}."
    )
    if (own := stored_code(row.architecture)) is not None:
        console.print(own.note(), soft_wrap=True, markup=False, highlight=False)
    if declared is None:
        whose = "its names and shapes say" if row.manifest["format"] in WEIGHTS_ALONE else "the file says"
        console.print(f"  architecture, as {whose}: {architecture_from(row.architecture).describe()}")
    for note in row.manifest["notes"]:
        console.print(f"  note: {note}")
    if dataset:
        vet(row.id, dataset)


@app.command()
def again(
    model: Annotated[str, typer.Argument(help="Name or id of a model.")],
    normalization: Annotated[
        str, typer.Option(help="Another normalization: a name, or mean/std such as 0.5,0.5,0.5/0.25,0.25,0.25.")
    ] = "",
    channel_order: Annotated[str, typer.Option(help="RGB or BGR.", show_default=False)] = "",
    value_range: Annotated[
        str, typer.Option(help="Range of pixels before mean and std: 0-1 or 0-255.", show_default=False)
    ] = "",
    size: Annotated[str, typer.Option(help="Another size of the images, height x width, such as 64x64.")] = "",
    name: Annotated[str, typer.Option(help="Name of the new model; by default the old one's and what differs.")] = "",
    dataset: Annotated[str, typer.Option(help="Also vet the new model on this data set now.")] = "",
) -> None:
    """Add a model again from its stored weights, with another normalization or size of the images."""
    from auditor.models.classifier import Normalization
    from worker.client import Client

    client = Client()
    client.prepare()
    before = Normalization.model_validate(client.library.model(model).normalization)
    normal = parse_preprocessing(normalization, channel_order, value_range, before)
    row = client.library.add_again(model, normalization=normal, size=parse_size(size), name=name)
    console.print(f"Added model {row.name} ({row.id[:8]}): {row.manifest['notes'][0]}")
    if dataset:
        vet(row.id, dataset)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A file as `models add` takes it; nothing of it is kept or run.")],
    weights: Annotated[
        str, typer.Option(help="Which set of weights, such as teacher; needed only for a file that holds several.")
    ] = "",
    size: _Size = "",
    output: _Output = "",
) -> None:
    """Say what a file of weights is, from its tensors' names and shapes, and how to add it."""
    from auditor.data.intake.asked import Asked
    from auditor.data.intake.proposals import quoted
    from worker.client import Client

    client = Client()
    client.prepare()
    with opened(file) as stream:
        found = client.library.inspect_model(
            stream, file.name, weights=weights, on_wait=console.print, asked=Asked(parse_size(size), output.strip())
        )
    console.print(found.what)
    for note in found.notes:
        console.print(f"  note: {note}")
    place, given = quoted(str(file)), {"weights": weights, "size": size, "output": output}
    option = "".join(f" --{name} {quoted(value)}" for name, value in given.items() if value)
    for name in found.sets:
        _print_line(f"auditor models inspect {place} --weights {quoted(name)}")
    if found.says_itself:
        _print_line(f"auditor models add {place}{option}")
    said = ""
    for each in (*found.proposals, *filter(None, [found.draft])):
        if each.note and each.note != said:
            console.print(f"  note: {each.note}")
            said = each.note
        further = f" {each.options}" if each.options else ""
        _print_line(f"auditor models add {place} --architecture {quoted(each.text)}{further}{option}")
    if found.first:
        heads = [(each.name, each.shape) for each in (*found.first, *found.last)]
        if found.tensors > len(heads):
            heads.insert(len(found.first), ("...", ""))
        print_table(("tensor", "shape"), heads)


def _print_line(command: str) -> None:
    """A command to be copied, whatever its length."""
    console.print(f"  {command}", soft_wrap=True, markup=False, highlight=False)


@app.command("list")
def list_models() -> None:
    """Every model."""
    from worker.client import Client

    rows = Client().library.models()
    print_table(
        ("id", "name", "architecture", "parameters", "added (UTC)"),
        [
            (row.id[:8], row.name, row.architecture["kind"], f"{row.manifest['parameters']:,}", when(row.created))
            for row in rows
        ],
    )


@app.command()
def vet(
    model: str,
    dataset: Annotated[str, typer.Argument(help="A data set to measure accuracy on.")] = "",
    match: Match = "",
    show_match: ShowMatch = False,
) -> None:
    """Check whether the model runs as declared and its normalization is right, and wait for the answer."""
    from app.processes import worker_if_none
    from worker.client import Client

    client = Client()
    client.prepare()
    chosen = match_of(match) if match else {}
    if (chosen or show_match) and not dataset:
        raise SpecError(
            "match: it places classes of a data set, and none is named.", "Name the data set after the model."
        )
    if show_match:
        print_match(client, model, dataset, chosen)
        return
    job_id = client.audits.vet(model, dataset or None, chosen)
    with worker_if_none(client) as keep_one:
        (job,) = follow(client, [job_id], keep_one)
    if job.state != "succeeded":
        raise SpecError(job.error or f"The vetting was {job.state}.", job.hint)
    card = client.audits.card(job_id)
    console.print(f"{card.parameters:,} parameters, layers: {card.layer_counts}, {duration(job.seconds)}")
    if card.accuracy is not None:
        rows = [("declared", str(card.normalization), rate(card.accuracy.model_dump()))]
        rows += [(item.name, str(item.normalization), rate(item.accuracy.model_dump())) for item in card.candidates]
        print_table(("normalization", "values", "accuracy [95 %]"), rows)
        if card.ties:
            console.print(card.ties)
    for note in card.notes:
        console.print(f"note: {note}")
    for flag in card.flags:
        console.print(f"{flag.severity.upper()}: {flag.text}")
    if not card.flags:
        console.print("No faults found.")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Name or id of a model, such as a hardened child.")],
    file: Annotated[
        Path, typer.Argument(help="File to write: .safetensors, .pt or .pth (a state dict), or .zip (both).")
    ],
) -> None:
    """Write the weights of a model, and its architecture and normalization as .json (or in the .zip)."""
    from auditor.models.own_code import stored_code
    from worker.client import Client
    from worker.exporting import format_of

    client, form = Client(), format_of(file)
    with whole_file(file) as temporary:
        if form is None:
            hashes = client.library.export_model(model, temporary)
        else:
            hashes = {file.name: client.library.export_weights(model, form, temporary)}
    written = [str(file)]
    if form is not None:
        beside = file.with_suffix(".json")
        write_text(beside, client.library.describe_model(model, hashes))
        written.append(str(beside))
    console.print(f"Wrote {' and '.join(written)}.")
    for name, sha256 in hashes.items():
        console.print(f"  sha256 {sha256}  {name}", soft_wrap=True)
    if form is not None and (own := stored_code(client.library.model(model).architecture)) is not None:
        console.print(f"The network is its owner's code, {own.file}; an export to .zip has it.")
