"""``auditor datasets``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from app.commands.files import text_or_file
from app.commands.show import console, print_table, when
from auditor.kit.errors import SpecError

if TYPE_CHECKING:
    from auditor.data.intake.datasets import Contents
    from auditor.data.intake.image_size import ImageSize

app = typer.Typer(no_args_is_help=True)


@app.command()
def add(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="An .npz, a zip or tar of images in class folders or with a list; several files, or a folder, are read together."
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the data set; by default the first file's.")] = "",
    labels_file: Annotated[
        Path | None, typer.Option(help="File of the labels of an .npy file of images; the same as naming both files.")
    ] = None,
    look: Annotated[
        bool, typer.Option("--look", help="Print what can be chosen of the file, and add nothing.")
    ] = False,
    inside: Annotated[str, typer.Option(help="Folder or file inside the archive that is read.")] = "",
    part: Annotated[
        list[str] | None, typer.Option(help="Part of the data set, such as train or test; several are joined.")
    ] = None,
    images: Annotated[str, typer.Option(help="Array, or column of a list, that holds the images.")] = "",
    labels: Annotated[str, typer.Option(help="Array, or column of a list, that holds the labels.")] = "",
    image_list: Annotated[
        str, typer.Option("--list", help="File inside the archive that lists the images and their labels.")
    ] = "",
    corruption: Annotated[
        list[str] | None,
        typer.Option(help="Corruption of a set such as CIFAR-10-C; several are joined; by default all."),
    ] = None,
    severity: Annotated[
        list[int] | None, typer.Option(help="Severity of the corruptions, 1 to 5; several are joined; by default all.")
    ] = None,
    label_map: Annotated[
        str,
        typer.Option(
            help="Rename, renumber, merge or leave out classes: a=0,b=1,c= (c is left out), or a JSON file of such pairs."
        ),
    ] = "",
    resize: Annotated[
        str,
        typer.Option(
            help="HEIGHTxWIDTH: resize the whole image; with --crop, one number: the length of the shorter side."
        ),
    ] = "",
    crop: Annotated[str, typer.Option(help="HEIGHTxWIDTH: resize the shorter side, then crop the centre.")] = "",
    interpolation: Annotated[
        str, typer.Option(help="How sizes are changed: bilinear, bicubic, nearest or lanczos.")
    ] = "bilinear",
    antialias: Annotated[
        bool,
        typer.Option("--antialias/--no-antialias", help="Average pixels when images become smaller, as Pillow does."),
    ] = True,
    preset: Annotated[
        str,
        typer.Option(
            help="The preprocessing of published weights, as torchvision:resnet50.IMAGENET1K_V2 or timm:resnet18.a1_in1k."
        ),
    ] = "",
    roi: Annotated[
        bool, typer.Option("--roi", help="Crop each image to the region of interest in its list, as GTSRB has.")
    ] = False,
    channels: Annotated[
        int,
        typer.Option(
            help="3: copy grey images to three equal channels, drop alpha; 1: convert colour images to grey, drop alpha."
        ),
    ] = 0,
    layout: Annotated[str, typer.Option(help="Order of the axes of an array of images: auto, NHWC or NCHW.")] = "auto",
    largest_value: Annotated[
        int, typer.Option(help="The value of white in 16-bit images and arrays of integers, such as 4095 for 12 bits.")
    ] = 0,
    first_label: Annotated[int, typer.Option(help="Number of the first class; 1 where labels count from 1.")] = 0,
    folders: Annotated[
        str,
        typer.Option(
            help="How to read class folders named by numbers: numbers (the class numbers) or sorted as text, as torchvision does."
        ),
    ] = "numbers",
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Skip files and images that cannot be used, and list them.")
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out files by a pattern of their paths or names (*.gif, raw/*), or samples by number (#12, #12-20)."
        ),
    ] = None,
) -> None:
    """Check labelled images and keep them."""
    from auditor.data.intake.label_map import parse_label_map
    from auditor.data.intake.reading import Reading
    from worker.client import Client

    chosen = {
        "inside": inside,
        "parts": _split(part),
        "images": images,
        "labels": labels,
        "listing": image_list,
        "corruptions": _split(corruption),
        "severities": tuple(severity or ()),
        "label_map": parse_label_map(text_or_file(label_map)),
        "roi": roi,
        "size": _size(resize, crop, interpolation, antialias, preset),
        "channels": channels or None,
        "layout": layout,
        "largest_value": largest_value or None,
        "first_label": first_label,
        "folders": folders,
        "leave_out": leave_out,
        "exclude": _split(exclude),
    }
    try:
        reading = Reading.model_validate(chosen)
    except ValueError as error:
        raise SpecError.from_validation("data set", error) from None  # type: ignore[arg-type]
    client = Client()
    client.prepare()
    with _opened([*files, *([labels_file] if labels_file is not None else [])]) as (stream, filename):
        if look:
            _show_choices(client.library.look_into_dataset(stream, filename, inside=inside, on_wait=console.print))
            return
        row = client.library.add_dataset(
            stream, filename, name=name or files[0].resolve().stem, reading=reading, on_wait=console.print
        )
    shape = "x".join(map(str, row.manifest["shape"]))
    console.print(
        f"Added data set {row.name} ({row.id[:8]}): {row.manifest['samples']:,} images of {shape}, "
        f"{row.manifest['num_classes']} classes, sha256 {row.content}."
    )
    for text in (*row.manifest["notes"], *row.manifest["warnings"]):
        console.print(f"  note: {text}")


def _split(values: list[str] | None) -> tuple[str, ...]:
    """Values of an option that may be given several times, or once with commas."""
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


@contextmanager
def _opened(paths: list[Path]) -> Iterator[tuple[BinaryIO, str]]:
    """One file as it is; several files, or folders, as one archive. Yields the stream and what it is called."""
    from auditor.data.intake.bundle import bundle_name, bundled, parts_of

    try:
        if len(paths) == 1 and not paths[0].is_dir():
            with paths[0].open("rb") as stream:
                yield stream, paths[0].name
                return
        parts = parts_of(paths)
    except OSError as error:
        raise SpecError(f"{error.filename or paths[0]} cannot be read: {error.strerror}.") from None
    with bundled(parts) as stream:
        yield stream, bundle_name([path.resolve().name for path in paths])


def _show_choices(contents: Contents) -> None:
    from auditor.data.intake.reading import WAYS

    console.print(f"Format: {contents.format}.")
    if not contents.choices:
        console.print("Nothing has to be chosen.")
    for choice in contents.choices:
        needed = "one has to be chosen" if choice.needed else "all are read if none is chosen"
        console.print(f"{WAYS[choice.field].option} ({needed}): {', '.join(choice.values)}", markup=False)


@app.command("list")
def list_datasets() -> None:
    """Every data set."""
    from worker.client import Client

    rows = Client().library.datasets()
    print_table(
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


def _size(resize: str, crop: str, interpolation: str, antialias: bool, preset: str) -> ImageSize | None:
    from auditor.data.intake.image_size import ImageSize
    from auditor.data.intake.presets import size_of_preset

    if preset:
        if resize or crop:
            raise SpecError("A preset says the sizes itself.", "Choose --preset, or --resize and --crop.")
        return size_of_preset(preset)
    if not (resize or crop):
        return None
    shorter = int(resize) if crop and resize.isdecimal() else None
    if crop and resize and shorter is None:
        raise SpecError(
            f"With --crop, --resize is the length of the shorter side, got {resize!r}.",
            "Write one number, as in --resize 256 --crop 224x224.",
        )
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", crop or resize)
    if found is None:
        raise SpecError(f"Expected HEIGHTxWIDTH such as 224x224, got {(crop or resize)!r}.")
    wanted = {
        "height": int(found[1]),
        "width": int(found[2]),
        "mode": "resize-crop" if crop else "resize",
        "shorter_side": shorter,
        "interpolation": interpolation,
        "antialias": antialias,
    }
    try:
        return ImageSize.model_validate(wanted)
    except ValueError as error:
        raise SpecError.from_validation("size", error) from None  # type: ignore[arg-type]
