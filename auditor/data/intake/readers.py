"""READERS: the formats whose files say their own architecture, a line for each; and the suffixes of files of weights."""

from __future__ import annotations

from pathlib import Path

from auditor.data.intake.asked import NOTHING_ASKED, Asked
from auditor.data.intake.found import FoundModel, ModelReader
from auditor.data.intake.huggingface import HUGGING_FACE
from auditor.data.intake.onnx.reader import ONNX
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import shown

READERS: tuple[ModelReader, ...] = (ONNX, HUGGING_FACE)
"""Asked in this order; the first that recognizes a file reads it. A reader imports its library in ``read``."""

_WEIGHTS = ("safetensors", "pt", "pth", "th", "ckpt", "bin", "pth.tar", "pt.tar")
WHOLE = tuple(dict.fromkeys(suffix for reader in READERS for suffix in reader.suffixes))
"""What files are called that say their own architecture, without the dot."""

SUFFIXES = (*_WEIGHTS, *WHOLE)
"""What files of models are called, without the dot."""


def found_in(source: Path, name: str, head: bytes, limits: Limits, asked: Asked = NOTHING_ASKED) -> FoundModel | None:
    """The network that a file names; None for a file of weights alone. ``asked``: see ``Asked``. Raises IntakeError."""
    reader = next((reader for reader in READERS if reader.recognizes(source, name, head)), None)
    if asked.size is not None and (reader is None or not reader.open_size):
        raise IntakeError(
            f"{shown(name)} does not leave the size of its images open; only an ONNX file can.",
            "Leave out `--size`. The size is part of the architecture: `--input` on the command line.",
        )
    return None if reader is None else reader.read(source, name, limits, asked)
