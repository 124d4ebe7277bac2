"""FoundModel: what a file says of its own network: architecture, tensors, normalization, classes; and how a format is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from auditor.data.intake.asked import Asked
from auditor.data.intake.checkpoints import Checkpoint
from auditor.data.intake.image_size import ImageSize
from auditor.kit.limits import Limits
from auditor.models.architecture import Architecture
from auditor.models.classifier import Normalization


class FoundModel(NamedTuple):
    """A network and its weights, out of a file that names both. What the file does not say is None.

    ``checkpoint``: tensors by the names of ``architecture``. ``size``: what the images must be brought to.
    ``notes``: what the user should know about how the file was read. ``output``: which of several outputs the network is still
    to be asked for.
    """

    architecture: Architecture
    checkpoint: Checkpoint
    normalization: Normalization | None = None
    class_names: tuple[str, ...] | None = None
    size: ImageSize | None = None
    notes: tuple[str, ...] = ()
    output: str = ""


class ModelReader(NamedTuple):
    """A format whose files say their own architecture.

    ``recognizes`` gets the file, the name that it was uploaded under and its first bytes (``magic.HEAD_BYTES``); it must
    not raise. ``read`` gets the file, its name for errors, the limits, and what the user says of it, a size only where the
    format may leave it open (``open_size``); it raises IntakeError. Both run in the sandbox.
    """

    suffixes: tuple[str, ...]
    recognizes: Callable[[Path, str, bytes], bool]
    read: Callable[[Path, str, Limits, Asked], FoundModel]
    open_size: bool = False
