"""``auditor models``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.catalogue import CatalogueCommand
from app.commands.files import whole_file, write_text
from app.commands.show import console, duration, follow, rate, table, when
from auditor.errors import SpecError

if TYPE_CHECKING:
    from auditor.architecture import Architecture

app = typer.Typer(no_args_is_help=True)


class _AddCommand(CatalogueCommand):
    catalogues = ("auditor.architecture:ARCHITECTURES",)


@app.command(cls=_AddCommand)
def add(
    file: Annotated[
        Path, typer.Argument(help="Weights: .safetensors, or .pt, .pth, .th, .ckpt, .bin with tensors only.")
    ],
    architecture: Annotated[
        str,
        typer.Option(
            help="The network: kind:name=value,... (see below); layers as nn.Sequential(...); or @FILE with layers, with what "
            "print(model) shows, or with JSON.",
        ),
    ],
    shape: Annotated[str, typer.Option("--input", help="Images: channels x height x width, such as 1x28x28.")] = "",
    num_classes: Annotated[
        int | None,
        typer.Option(help="Number of classes, i.e. logits; by default the architecture's.", show_default=False),
    ] = None,
    normalization: Annotated[
        str, typer.Option(help="What the network expects: a name, or mean/std such as 0.5,0.5,0.5/0.25,0.25,0.25.")
    ] = "none",
    channel_order: Annotated[str, typer.Option(help="RGB or BGR.")] = "RGB",
    value_range: Annotated[str, typer.Option(help="0-1 or 0-255: pixels before mean and std.")] = "0-1",
    name: Annotated[str, typer.Option(help="Name of the model; by default the file's.")] = "",
    classes: Annotated[str, typer.Option(help="Comma-separated class names, in the order of the logits.")] = "",
    accuracy: Annotated[
        str, typer.Option(help="Accuracy that it is said to have, in percent; vetting warns where it falls far short.")
    ] = "",
    dataset: Annotated[str, typer.Option(help="Vet the model on this data set at once.")] = "",
) -> None:
    """Check a file of weights, keep it, and vet the model."""
    from auditor.classifier import parse_normalization
    from auditor.declaration import parse_accuracy
    from worker.client import Client

    declared_accuracy = parse_accuracy(accuracy)
    class_names = [item.strip() for item in classes.split(",")] if classes else None
    client = Client()
    client.prepare()
    normal = parse_normalization(normalization)
    try:
        normal = type(normal)(**normal.model_dump() | {"channel_order": channel_order, "value_range": value_range})
    except ValueError as error:
        raise SpecError.from_validation("normalisation", error) from None  # type: ignore[arg-type]
    with _opened(file) as stream:
        row = client.add_model(
            stream,
            file.name,
            name=name or file.stem,
            architecture=parse_architecture(architecture, shape, num_classes),
            normalization=normal,
            class_names=class_names,
            declared_accuracy=declared_accuracy,
            on_wait=console.print,
        )
    console.print(
        f"Added model {row.name} ({row.id[:8]}): {row.manifest['parameters']:,} parameters, sha256 {row.weights}."
    )
    for note in row.manifest["notes"]:
        console.print(f"  note: {note}")
    if dataset:
        vet(row.id, dataset)


@app.command("list")
def list_models() -> None:
    """Every model."""
    from worker.client import Client

    rows = Client().models()
    table(
        ("id", "name", "architecture", "parameters", "added (UTC)"),
        [
            (row.id[:8], row.name, row.architecture["kind"], f"{row.manifest['parameters']:,}", when(row.created))
            for row in rows
        ],
    )


@app.command()
def vet(model: str, dataset: Annotated[str, typer.Argument(help="A data set to measure accuracy on.")] = "") -> None:
    """Does the model run as declared, and is its normalisation right? Waits for the answer."""
    from app.processes import worker_if_none
    from worker.client import Client

    client = Client()
    client.prepare()
    job_id = client.vet(model, dataset or None)
    with worker_if_none(client) as keep_one:
        (job,) = follow(client, [job_id], keep_one)
    if job.state != "succeeded":
        raise SpecError(job.error or f"The vetting was {job.state}.", job.hint)
    card = client.card(job_id)
    console.print(f"{card.parameters:,} parameters, layers: {card.layer_counts}, {duration(job.seconds)}")
    if card.accuracy is not None:
        rows = [("declared", str(card.normalization), rate(card.accuracy.model_dump()))]
        rows += [(item.name, str(item.normalization), rate(item.accuracy.model_dump())) for item in card.candidates]
        table(("normalisation", "values", "accuracy [95 %]"), rows)
        if card.ties:
            console.print(card.ties)
    for note in card.notes:
        console.print(f"note: {note}")
    for flag in card.flags:
        console.print(f"{flag.severity.upper()}: {flag.text}")
    if not card.flags:
        console.print("No doubts.")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Name or id of a model; a hardened child, say.")],
    file: Annotated[
        Path, typer.Argument(help="Where to write: .safetensors, .pt or .pth (a state dict), or .zip (both).")
    ],
) -> None:
    """Write the weights of a model, with its architecture and normalisation beside them (.json, or in the .zip)."""
    from worker.client import Client
    from worker.exporting import format_of

    client, form = Client(), format_of(file)
    with whole_file(file) as temporary:
        if form is None:
            hashes = client.export_model(model, temporary)
        else:
            hashes = {file.name: client.export_weights(model, form, temporary)}
    written = [str(file)]
    if form is not None:
        beside = file.with_suffix(".json")
        write_text(beside, client.describe_model(model, hashes))
        written.append(str(beside))
    console.print(f"Wrote {' and '.join(written)}.")
    for name, sha256 in hashes.items():
        console.print(f"  sha256 {sha256}  {name}", soft_wrap=True)


_SIDES = ("channels", "height", "width")
_NOTATION = re.compile(r"\s*([\[({]|[\w.]+\s*[=(])")
"""How layers begin, unlike kind:name=value."""


def parse_architecture(text: str, shape: str = "", num_classes: int | None = None) -> Architecture:
    """``kind:name=value``; layers in PyTorch's notation; or ``@FILE`` with these, or with JSON (an object with "kind", or one
    that `models export` wrote). ``shape``: channels x height x width of an image, as ``1x28x28``.
    """
    from auditor.architecture import ARCHITECTURES

    given = _input_shape(shape) | ({} if num_classes is None else {"num_classes": num_classes})
    place = ""
    if text.startswith("@"):
        with _opened(Path(text[1:])) as file:
            text, place = file.read().decode("utf-8", "replace"), f"{text[1:]}: "
    elif not _NOTATION.match(text) or text.partition("(")[0] in ARCHITECTURES.members:
        return ARCHITECTURES.parse(text, given)
    try:
        data: Any = json.loads(text)
    except ValueError:
        data = {"kind": "sequential", "layers": text}
    if isinstance(data, list):
        data = {"kind": "sequential", "layers": data}
    if isinstance(data, dict) and isinstance(data.get("architecture"), dict):
        data = data["architecture"]
    if not isinstance(data, dict) or "kind" not in data:
        raise SpecError(
            f"{place}expected a JSON object with a kind, a list of layers, or layers in PyTorch's notation."
        )
    return ARCHITECTURES.build(str(data.pop("kind")), data | given)


def _input_shape(text: str) -> dict[str, int]:
    """``1x28x28`` as channels, height and width; empty for no text. Raises SpecError."""
    if not text:
        return {}
    parts = text.lower().replace("\u00d7", "x").replace(",", "x").replace(" ", "").split("x")
    if len(parts) != 3 or not all(part.isdecimal() and len(part) < 6 for part in parts):
        raise SpecError(f"input: expected channels x height x width, such as 1x28x28, got {text!r}.")
    return dict(zip(_SIDES, map(int, parts), strict=True))


def _opened(file: Path) -> Any:
    try:
        return file.open("rb")
    except OSError as error:
        raise SpecError(f"{file} cannot be read: {error.strerror}.") from None
