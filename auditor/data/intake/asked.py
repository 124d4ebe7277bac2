"""Asked: what the user says of a file of a model that leaves it open."""

from __future__ import annotations

from typing import NamedTuple


class Asked(NamedTuple):
    """What the user says of a file that leaves it open. ``size``: height and width of an image in pixels. ``output``: which of
    several outputs holds the logits, by its name or its number from 0.
    """

    size: tuple[int, int] | None = None
    output: str = ""


NOTHING_ASKED = Asked()
