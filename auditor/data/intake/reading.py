"""Reading: what a user may choose about how an upload of images is read, and how each choice is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from auditor.data.intake.image_size import ImageSize
from auditor.kit.errors import IntakeError
from auditor.kit.wording import listed, printable, shown

LEAVE_OUT = (
    "leave out what cannot be used: `--leave-out` on the command line, 'Skip unusable files and images' on the page"
)
RESIZE = (
    "Bring them to one size: `--resize HEIGHTxWIDTH` or `--crop HEIGHTxWIDTH` on the command line, 'Size of the images' on the "
    "page"
)

Chosen = Literal["inside", "parts", "images", "labels", "corruptions", "severities", "listing"]
"""The fields of a Reading that name something of the file."""


class Way(NamedTuple):
    """How a choice is made: the option of the command line, and the label on the page."""

    option: str
    label: str


WAYS: dict[Chosen, Way] = {
    "inside": Way("--inside", "'Folder or file inside the archive' on the page"),
    "parts": Way("--part", "'Part of the data set' on the page"),
    "images": Way("--images", "'Images are in' on the page"),
    "labels": Way("--labels", "'Labels are in' on the page"),
    "corruptions": Way("--corruption", "'Corruption' on the page"),
    "severities": Way("--severity", "'Severity' on the page"),
    "listing": Way("--list", "'List of the images' on the page"),
}
"""Each choice by its names; the labels end as errors say them."""

_OFFERED = 8
"""Values in one error."""


class Reading(BaseModel):
    """How an archive of images is read. The defaults refuse what could be read in two ways."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inside: str = Field(
        "", max_length=500, description="Folder or file inside the archive that is read; empty: all of the archive."
    )
    parts: tuple[str, ...] = Field(
        (), description="Parts of the data set, such as train and test, that are joined in this order."
    )
    images: str = Field("", max_length=500, description="Array or column that holds the images.")
    labels: str = Field("", max_length=500, description="Array or column that holds the labels.")
    listing: str = Field("", max_length=500, description="File inside the archive that lists images and labels.")
    corruptions: tuple[str, ...] = Field(
        (), description="Corruptions that are read of a set such as CIFAR-10-C; none: all."
    )
    severities: tuple[int, ...] = Field((), description="Severities of the corruptions, 1 to 5; none: all.")
    label_map: dict[str, str | int | None] = Field(
        {},
        description="What becomes of a class, by its name or number: another name or number, or nothing to leave its images out.",
    )
    roi: bool = Field(
        False, description="Crop every image to the region of interest that its list gives, as GTSRB's does."
    )
    size: ImageSize | None = Field(None, description="Size to which every image is brought; none: they must agree.")
    channels: Literal[1, 3] | None = Field(
        None,
        description="Channels to which every image is brought: 3 repeats the channel of grey images and drops the alpha channel "
        "of four, 1 makes colours grey and drops the alpha channel of two.",
    )
    layout: Literal["auto", "NHWC", "NCHW"] = Field(
        "auto", description="Order of the axes of an array of images; auto goes by the axis of 1 or 3 channels."
    )
    largest_value: int | None = Field(
        None,
        ge=1,
        le=65_535,
        description="Value of white in 16-bit images and in arrays of integers: 4095 for 12 bits; none: 65535, and 255.",
    )
    first_label: int = Field(
        0, ge=0, le=99_999, description="Number of the first class; 1 for labels that count from 1."
    )
    folders: Literal["numbers", "sorted"] = Field(
        "numbers",
        description="Class folders named by numbers: numbers takes them for the numbers of the classes; sorted orders them as "
        "text, as torchvision's ImageFolder does.",
    )
    leave_out: bool = Field(
        False,
        description="Leave out files and images that cannot be used, and name them, instead of refusing the upload.",
    )
    exclude: tuple[Annotated[str, Field(min_length=1, max_length=500)], ...] = Field(
        (),
        max_length=1000,
        description="Files that are left out, by patterns of their paths or names (*.gif), and samples by number (#12, #12-20).",
    )


class Choice(BaseModel):
    """Something that a file leaves open. ``needed``: it is refused as long as nothing is chosen."""

    model_config = ConfigDict(frozen=True)

    field: Chosen
    values: tuple[str, ...]
    several: bool = False
    needed: bool = True


class Undecided(IntakeError):
    """A file can be read in several ways, and none was chosen. ``open``: what can be."""

    def __init__(self, message: str, choices: Sequence[Choice], more: str = "") -> None:
        super().__init__(message, " ".join(filter(None, (*map(offered, choices), more))))
        self.open = tuple(choices)


def offered(choice: Choice) -> str:
    """What can be chosen, and how, as a sentence."""
    option, label = WAYS[choice.field]
    values = [f"`{option} {_argument(value)}`" for value in choice.values]
    more = f", and {len(values) - _OFFERED:,} more" if len(values) > _OFFERED else ""
    joined = f" Several are joined: `{' '.join(f'{option} {_argument(v)}' for v in choice.values[:2])}`."
    return (
        f"Choose {' or '.join(values) if len(values) <= 3 else ', '.join(values[:_OFFERED])}{more} on the command line, "
        f"{label}.{joined if choice.several and len(values) > 1 else ''}"
    )


def unknown(field: Chosen, value: str, choice: Sequence[str], name: str) -> IntakeError:
    """The refusal of a value that the file does not have."""
    what = {
        "inside": "folder or file",
        "parts": "part",
        "images": "array or column",
        "labels": "array or column",
        "corruptions": "corruption",
        "severities": "severity",
        "listing": "list",
    }[field]
    has = f"it has {listed([shown(item) for item in choice], _OFFERED)}" if choice else "it has none to choose from"
    hint = offered(Choice(field=field, values=tuple(choice))) if choice else f"Leave `{WAYS[field].option}` out."
    return IntakeError(f"{shown(name)} has no {what} {shown(value)}: {has}.", hint)


def _argument(value: str) -> str:
    """A value as it is typed: in quotes where it has spaces."""
    text = printable(value, 200)
    return f"'{text}'" if " " in text or not text else text
