"""Reading: what a user may choose about how an upload of images is read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from auditor.intake.images import ImageSize

LEAVE_OUT = (
    "leave out what cannot be used: `--leave-out` on the command line, 'Leave out what cannot be used' on the page"
)
RESIZE = (
    "Bring them to one size: `--resize HEIGHTxWIDTH` or `--crop HEIGHTxWIDTH` on the command line, 'Size of the images' on the "
    "page"
)
LARGEST = "`--largest-value {0}` on the command line, 'Largest pixel value' on the page"


class Reading(BaseModel):
    """How an archive of images is read. The defaults refuse what could be read in two ways."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: ImageSize | None = Field(None, description="Size to which every image is brought; none: they must agree.")
    channels: Literal[1, 3] | None = Field(
        None,
        description="Channels to which every image is brought: 3 repeats the channel of grey images, 1 makes colours grey.",
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
        description="Class folders called by numbers: numbers takes them for the numbers of the classes; sorted orders them as "
        "text, as torchvision's ImageFolder does.",
    )
    leave_out: bool = Field(
        False,
        description="Leave out files and images that cannot be used, and name them, instead of refusing the upload.",
    )
