"""``auditor models``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from app.commands.catalogue import CatalogueCommand
from app.commands.files import whole_file, write_text
from app.commands.matching import Match, ShowMatch, match_of, print_match
from app.commands.show import console, duration, follow, print_table, rate, when
from auditor.kit.errors import SpecError

if TYPE_CHECKING:
    from auditor.data.intake.found import Asked
    from auditor.models.architecture import Architecture
    from auditor.models.classifier import Normalization
    from auditor.models.own_code import OwnCode

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
    normal = _normalization(normalization, channel_order, value_range)
    with _opened(file) as stream:
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
            asked=_asked(size, output),
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
def inspect(
    file: Annotated[Path, typer.Argument(help="A file as `models add` takes it; nothing of it is kept or run.")],
    weights: Annotated[
        str, typer.Option(help="Which set of weights, such as teacher; needed only for a file that holds several.")
    ] = "",
    size: _Size = "",
    output: _Output = "",
) -> None:
    """Say what a file of weights is, from its tensors' names and shapes, and how to add it."""
    from auditor.data.intake.proposals import quoted
    from worker.client import Client

    client = Client()
    client.prepare()
    with _opened(file) as stream:
        found = client.library.inspect_model(
            stream, file.name, weights=weights, on_wait=console.print, asked=_asked(size, output)
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


_SIDES = ("channels", "height", "width")
_NOTATION = re.compile(r"\s*([\[({]|[\w.]+\s*[=(])")
"""How layers begin, unlike kind:name=value."""


def parse_architecture(text: str, shape: str = "", num_classes: int | None = None) -> Architecture:
    """``kind:name=value``; layers in PyTorch's notation; or ``@FILE`` with these, or with JSON (an object with "kind", or one
    that `models export` wrote). ``shape``: channels x height x width of an image, as ``1x28x28``.
    """
    from auditor.models.architecture import ARCHITECTURES

    given = _input_shape(shape) | ({} if num_classes is None else {"num_classes": num_classes})
    place = ""
    if text.startswith("@"):
        with _opened(Path(text[1:])) as file:
            text, place = file.read().decode("utf-8", "replace"), f"{text[1:]}: "
    elif not _NOTATION.match(text) or text.partition("(")[0] in ARCHITECTURES:
        return ARCHITECTURES.parse(text, given)
    try:
        data: Any = json.loads(text)
    except ValueError:
        data = {"kind": "sequential", "layers": text}
    if isinstance(data, list):
        data = {"kind": "sequential", "layers": data}
    if isinstance(data, dict) and isinstance(data.get("architecture"), dict):
        data = data["architecture"]
    if isinstance(data, dict) and data.get("kind") == "own-code":
        raise SpecError(
            f"{place}the network is its owner's code, {data.get('file')}, and not an architecture.",
            f"Give the file itself: `--code '{data.get('file')}:{data.get('network')}'`.",
        )
    if not isinstance(data, dict) or "kind" not in data:
        raise SpecError(
            f"{place}expected a JSON object with a kind, a list of layers, or layers in PyTorch's notation."
        )
    return ARCHITECTURES.build(str(data.pop("kind")), data | given)


def parse_code(text: str, shape: str = "", num_classes: int | None = None) -> OwnCode:
    """``net.py:Net`` or ``net.py:Net(width=64)``: the file is read, and nothing of it is run. Raises SpecError."""
    from auditor.models.own_code import KIND, LONGEST_SOURCE, OwnCode

    name, colon, network = text.partition(".py:")
    if not colon:
        raise SpecError(f"code: expected a Python file and a class in it, such as net.py:Net, got {text!r}.")
    file = Path(f"{name}.py")
    with _opened(file) as stream:
        content = stream.read(4 * LONGEST_SOURCE)
    try:
        values = {"kind": KIND, "file": file.name, "source": content.decode(), "network": network}
        return OwnCode.model_validate({**values, **_input_shape(shape), "num_classes": num_classes or 0})
    except UnicodeDecodeError:
        raise SpecError(f"{file} is not text in UTF-8.", "Save it in UTF-8.") from None
    except ValidationError as error:
        raise SpecError.from_validation("code", error) from None


def _normalization(text: str, channel_order: str, value_range: str) -> Normalization | None:
    """What was given of a normalization; None where nothing was. Raises SpecError."""
    from auditor.models.classifier import NORMALIZATIONS, Normalization, parse_normalization

    if not (text or channel_order or value_range):
        return None
    base = parse_normalization(text) if text else NORMALIZATIONS["none"]
    given = {"channel_order": channel_order, "value_range": value_range}
    try:
        return Normalization(**base.model_dump() | {name: value for name, value in given.items() if value})
    except ValueError as error:
        raise SpecError.from_validation("normalization", error) from None  # type: ignore[arg-type]


def _input_shape(text: str) -> dict[str, int]:
    """``1x28x28`` as channels, height and width; empty for no text. Raises SpecError."""
    if not text:
        return {}
    parts = text.lower().replace("\u00d7", "x").replace(",", "x").replace(" ", "").split("x")
    if len(parts) != 3 or not all(part.isdecimal() and len(part) < 6 for part in parts):
        raise SpecError(f"input: expected channels x height x width, such as 1x28x28, got {text!r}.")
    return dict(zip(_SIDES, map(int, parts), strict=True))


def _asked(size: str, output: str) -> Asked:
    """What is said of an ONNX file that leaves it open; ``size`` as 224x224, or 224 for a square. Raises SpecError."""
    from auditor.data.intake.found import Asked

    if not size:
        return Asked(None, output.strip())
    found = re.fullmatch(r"([1-9]\d{0,4})(?:\s*[x\u00d7]\s*([1-9]\d{0,4}))?", size.strip().lower())
    if found is None:
        raise SpecError(f"size: expected height x width, such as 224x224, got {size!r}.")
    return Asked((int(found[1]), int(found[2] or found[1])), output.strip())


def _opened(file: Path) -> Any:
    try:
        return file.open("rb")
    except OSError as error:
        raise SpecError(f"{file} cannot be read: {error.strerror}.") from None
