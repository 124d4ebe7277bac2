"""``auditor datasets``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.show import console, table, when
from auditor.errors import SpecError

if TYPE_CHECKING:
    from auditor.intake.datasets import ImageSize

app = typer.Typer(no_args_is_help=True)


@app.command()
def add(
    file: Annotated[
        Path, typer.Argument(help=".npz with images and labels, or a zip of one folder of images per class.")
    ],
    name: Annotated[str, typer.Option(help="Name of the data set; by default the file's.")] = "",
    resize: Annotated[str, typer.Option(help="HEIGHTxWIDTH: resize the whole image.")] = "",
    crop: Annotated[str, typer.Option(help="HEIGHTxWIDTH: resize the shorter side, then cut out the centre.")] = "",
    channels: Annotated[int, typer.Option(help="3: grey images get three equal channels; 1: colours become grey.")] = 0,
    layout: Annotated[str, typer.Option(help="Order of the axes of an array of images: auto, NHWC or NCHW.")] = "auto",
    largest_value: Annotated[
        int, typer.Option(help="White in 16-bit images and in arrays of integers: 4095 where 12 bits are used.")
    ] = 0,
    first_label: Annotated[int, typer.Option(help="Number of the first class; 1 where labels count from 1.")] = 0,
    folders: Annotated[
        str,
        typer.Option(
            help="Class folders called by numbers: numbers (of the classes), or sorted as text, as torchvision does."
        ),
    ] = "numbers",
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Leave out files and images that cannot be used, and name them.")
    ] = False,
) -> None:
    """Check an archive of labelled images and keep it."""
    from auditor.intake.reading import Reading
    from worker.client import Client

    chosen = {
        "size": _size(resize, crop),
        "channels": channels or None,
        "layout": layout,
        "largest_value": largest_value or None,
        "first_label": first_label,
        "folders": folders,
        "leave_out": leave_out,
    }
    try:
        reading = Reading.model_validate(chosen)
    except ValueError as error:
        raise SpecError.from_validation("data set", error) from None  # type: ignore[arg-type]
    client = Client()
    client.prepare()
    try:
        stream = file.open("rb")
    except OSError as error:
        raise SpecError(f"{file} cannot be read: {error.strerror}.") from None
    with stream:
        row = client.add_dataset(stream, file.name, name=name or file.stem, reading=reading, on_wait=console.print)
    shape = "x".join(map(str, row.manifest["shape"]))
    console.print(
        f"Added data set {row.name} ({row.id[:8]}): {row.manifest['samples']:,} images of {shape}, "
        f"{row.manifest['num_classes']} classes, sha256 {row.content}."
    )
    for text in (*row.manifest["notes"], *row.manifest["warnings"]):
        console.print(f"  note: {text}")


@app.command("list")
def list_datasets() -> None:
    """Every data set."""
    from worker.client import Client

    rows = Client().datasets()
    table(
        ("id", "name", "images", "shape", "classes", "added (UTC)"),
        [
            (
                row.id[:8],
                row.name,
                f"{row.manifest['samples']:,}",
                "x".join(map(str, row.manifest["shape"])),
                row.manifest["num_classes"],
                when(row.created),
            )
            for row in rows
        ],
    )


def _size(resize: str, crop: str) -> ImageSize | None:
    from auditor.intake.datasets import ImageSize

    if resize and crop:
        raise SpecError("Choose --resize or --crop, not both.")
    if not (resize or crop):
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", resize or crop)
    if found is None:
        raise SpecError(f"Expected HEIGHTxWIDTH such as 224x224, got {(resize or crop)!r}.")
    return ImageSize(height=int(found[1]), width=int(found[2]), mode="resize-crop" if crop else "resize")
